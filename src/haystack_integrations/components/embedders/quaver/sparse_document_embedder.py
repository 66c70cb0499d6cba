"""QuaverSparseDocumentEmbedder: adds weights of words to documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from quaver.errors import needs_extra
from quaver.integrations.haystack import (
    SparseEmbedderComponent,
    document_texts,
    field_names,
    hub_token,
    model_name,
)
from quaver.sparse_encoder import SparseVector

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.utils import Secret


@component
class QuaverSparseDocumentEmbedder(SparseEmbedderComponent):
    """Weigh the words of documents (SPLADE) in int8 on the CPU, for sparse and hybrid retrievers.

        embedder = QuaverSparseDocumentEmbedder(model="naver/splade-v3")
        embedder.run([Document(content="Paris is the capital of France.")])["documents"]

    The input documents are not changed; the result holds copies with `sparse_embedding`.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        prefix: str | None = None,
        suffix: str = "",
        progress_bar: bool = False,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        max_active_dims: int | None = None,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Set up; the model is loaded by `warm_up` or the first run.

        Args:
            model: model folder or hub id.
            token: hub access token.
            prefix: replaces the model's document prompt; "" for no prompt.
            suffix: appended to every text.
            progress_bar: show a progress bar on stderr.
            meta_fields_to_embed: meta fields to put before the content.
            embedding_separator: separates the meta fields and the content.
            max_active_dims: the most words that an embedding keeps; None follows the model folder.
            precision: precision of the engine; weights are floats either way.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; longer texts are truncated.
            threads: engine threads; None uses every core available to the process.
            local_files_only: never use the network.

        Raises:
            TypeError: meta_fields_to_embed is not a list of strings.
        """
        self.model = model_name(model)
        self.token = token
        self.prefix = prefix
        self.suffix = suffix
        self.progress_bar = progress_bar
        self.meta_fields_to_embed = field_names(self, meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.max_active_dims = max_active_dims
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.threads = threads
        self.local_files_only = local_files_only

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Weigh the words of documents.

        Args:
            documents: the documents; if one has no content, only its meta fields are read.

        Returns:
            "documents": copies with `sparse_embedding`, in the same order.

        Raises:
            TypeError: documents is not a list of Documents.
        """
        texts = document_texts(self, documents, self.suffix)
        rows = self.shared.encode(
            texts, "document", prompt=self.prefix, show_progress_bar=self.progress_bar
        )
        return {"documents": self._embedded(documents, (rows[i] for i in range(len(rows))))}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Weigh the words of documents without blocking the event loop, batched with other tasks' texts.

        Args:
            documents: the documents; if one has no content, only its meta fields are read.

        Returns:
            "documents": copies with `sparse_embedding`, in the same order.

        Raises:
            TypeError: documents is not a list of Documents.
        """
        texts = document_texts(self, documents, self.suffix)
        shared = await self.shared_async()
        rows = await shared.aencode(texts, "document", prompt=self.prefix)
        return {"documents": self._embedded(documents, rows)}

    def _embedded(
        self, documents: Sequence[Document], rows: Iterable[SparseVector]
    ) -> list[Document]:
        return [
            replace(document, sparse_embedding=self._sparse_embedding(row))
            for document, row in zip(documents, rows, strict=True)
        ]
