"""QuaverDocumentEmbedder: adds vectors to documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import needs_extra
from quaver.integrations.haystack import (
    STAMP_KEY,
    EmbedderComponent,
    document_texts,
    field_names,
    hub_token,
    model_name,
    stamp,
)

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.utils import Secret


@component
class QuaverDocumentEmbedder(EmbedderComponent):
    """Embed documents in int8 on the CPU.

        embedder = QuaverDocumentEmbedder(model="BAAI/bge-small-en-v1.5")
        embedder.run([Document(content="Paris is the capital of France.")])["documents"]

    The input documents are not changed; the result holds copies. `meta["quaver_embedding"]` of a
    copy identifies the model and the text it read, so `QuantizedBiEncoderRanker` knows whether it
    can reuse the vector.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        prefix: str | None = None,
        suffix: str = "",
        progress_bar: bool = False,
        normalize_embeddings: bool = False,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        truncate_dim: int | None = None,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        pooling: str | None = None,
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
            normalize_embeddings: return unit vectors even if the model does not normalize.
            meta_fields_to_embed: meta fields to put before the content.
            embedding_separator: separates the meta fields and the content.
            truncate_dim: number of leading components to keep; None keeps all.
            precision: precision of the engine; embeddings are lists of floats either way.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; longer texts are truncated.
            pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
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
        self.normalize_embeddings = normalize_embeddings
        self.meta_fields_to_embed = field_names(self, meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.truncate_dim = truncate_dim
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.pooling = pooling
        self.threads = threads
        self.local_files_only = local_files_only

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed documents.

        Args:
            documents: the documents; if one has no content, only its meta fields are embedded.

        Returns:
            "documents": copies with `embedding`, in the same order.

        Raises:
            TypeError: documents is not a list of Documents.
        """
        texts = document_texts(self, documents, self.suffix)
        rows = self.shared.encode(
            texts, "document", show_progress_bar=self.progress_bar, **self._options()
        )
        return {"documents": self._embedded(documents, texts, rows)}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed documents without blocking the event loop, batched with those of other tasks.

        Args:
            documents: the documents; if one has no content, only its meta fields are embedded.

        Returns:
            "documents": copies with `embedding`, in the same order.

        Raises:
            TypeError: documents is not a list of Documents.
        """
        texts = document_texts(self, documents, self.suffix)
        shared = await self.shared_async()
        rows = await shared.aencode(texts, "document", **self._options())
        return {"documents": self._embedded(documents, texts, rows)}

    def _embedded(
        self, documents: Sequence[Document], texts: Sequence[str], rows: NDArray[np.float32]
    ) -> list[Document]:
        embedder = self.shared.model
        return [
            replace(
                document,
                embedding=row,
                meta={
                    **document.meta,
                    STAMP_KEY: stamp(embedder, self.prefix, self.normalize_embeddings, text),
                },
            )
            for document, text, row in zip(documents, texts, rows.tolist(), strict=True)
        ]
