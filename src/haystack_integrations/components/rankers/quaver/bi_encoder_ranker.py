"""QuantizedBiEncoderRanker: ranks documents by their vectors' similarity to the query."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import needs_extra
from quaver.integrations.haystack import (
    STAMP_KEY,
    RankerComponent,
    field_names,
    hub_token,
    loading_settings,
    model_name,
    require_query,
    stamp,
)
from quaver.integrations.shared_models import SharedEmbedder, shared_embedder

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.utils import Secret


@component
class QuantizedBiEncoderRanker(RankerComponent[SharedEmbedder]):
    """Rank documents by vector similarity, in int8 on the CPU.

        ranker = QuantizedBiEncoderRanker(model="BAAI/bge-large-en-v1.5", top_k=2)
        ranker.run(query="What is the capital of France?", documents=documents)["documents"]

    A document that already carries this model's embedding is not embedded again.
    `QuaverDocumentEmbedder` records the model and the text in `meta["quaver_embedding"]`; the
    ranker uses the embedding only if both match.

    The input documents are not changed; the result holds copies with their scores.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        top_k: int = 10,
        query_prefix: str | None = None,
        query_suffix: str = "",
        document_prefix: str | None = None,
        document_suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        scale_score: bool = False,
        score_threshold: float | None = None,
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
            top_k: maximum number of documents to return.
            query_prefix: replaces the model's query prompt; "" for no prompt.
            query_suffix: appended to the query.
            document_prefix: replaces the model's document prompt; "" for no prompt.
            document_suffix: appended to every document.
            meta_fields_to_embed: meta fields to put before the content.
            embedding_separator: separates the meta fields and the content.
            scale_score: scale cosines to the range 0 to 1: (cosine + 1) / 2.
            score_threshold: minimum score of a returned document, after scaling.
            truncate_dim: number of leading components to keep; None keeps all.
            precision: precision of the engine.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; longer texts are truncated.
            pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
            threads: engine threads; None uses every core available to the process.
            local_files_only: never use the network.

        Raises:
            ValueError: top_k is below 1.
            TypeError: meta_fields_to_embed is not a list of strings.
        """
        require_query(self, "", top_k)
        self.model = model_name(model)
        self.token = token
        self.top_k = top_k
        self.query_prefix = query_prefix
        self.query_suffix = query_suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix
        self.meta_fields_to_embed = field_names(self, meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.scale_score = scale_score
        self.score_threshold = score_threshold
        self.truncate_dim = truncate_dim
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.pooling = pooling
        self.threads = threads
        self.local_files_only = local_files_only

    def _load(self) -> SharedEmbedder:
        return shared_embedder(self.model, **loading_settings(self))

    def _scores(self, query: str, documents: Sequence[Document]) -> list[float]:
        texts = self._texts(documents)
        missing = self._without_embedding(documents, texts)
        query_rows = self.shared.encode(
            [query + self.query_suffix], "query", prompt=self.query_prefix
        )
        rows = self.shared.encode(
            [texts[i] for i in missing], "document", prompt=self.document_prefix
        )
        return self._similarities(query_rows, documents, dict(zip(missing, rows, strict=True)))

    async def _scores_async(self, query: str, documents: Sequence[Document]) -> list[float]:
        shared = await self.shared_async()
        texts = self._texts(documents)
        missing = self._without_embedding(documents, texts)
        query_rows, rows = await asyncio.gather(
            shared.aencode([query + self.query_suffix], "query", prompt=self.query_prefix),
            shared.aencode([texts[i] for i in missing], "document", prompt=self.document_prefix),
        )
        return self._similarities(query_rows, documents, dict(zip(missing, rows, strict=True)))

    @staticmethod
    def _scaled(score: float) -> float:
        """Return (cosine + 1) / 2; rounding can put the cosine of equal vectors just above 1."""
        return min(max((score + 1) / 2, 0.0), 1.0)

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        texts = RankerComponent._texts(self, documents)
        return [text + self.document_suffix for text in texts]

    def _without_embedding(self, documents: Sequence[Document], texts: Sequence[str]) -> list[int]:
        """Return the positions of the documents that do not carry this model's embedding."""
        embedder = self.shared.model
        return [
            i
            for i, (document, text) in enumerate(zip(documents, texts, strict=True))
            if document.embedding is None
            or len(document.embedding) != embedder.dimension
            or document.meta.get(STAMP_KEY) != stamp(embedder, self.document_prefix, False, text)
        ]

    def _similarities(
        self,
        query_rows: NDArray[np.float32],
        documents: Sequence[Document],
        computed: dict[int, NDArray[np.float32]],
    ) -> list[float]:
        """Return the similarity of each document; its own embedding is used if none was computed."""
        if not documents:
            return []
        rows = [computed.get(i, document.embedding) for i, document in enumerate(documents)]
        scores: list[float] = self.shared.model.similarity(
            query_rows[0], np.asarray(rows, np.float32)
        ).tolist()
        return scores
