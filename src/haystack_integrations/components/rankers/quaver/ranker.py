"""QuaverRanker: ranks documents with a cross-encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from quaver.errors import needs_extra
from quaver.integrations.haystack import (
    RankerComponent,
    field_names,
    hub_token,
    loading_settings,
    model_name,
    require_query,
)
from quaver.integrations.shared_models import SharedCrossEncoder, shared_cross_encoder

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.utils import Secret


@component
class QuaverRanker(RankerComponent[SharedCrossEncoder]):
    """Rank documents with a cross-encoder, in int8 on the CPU.

        ranker = QuaverRanker(model="BAAI/bge-reranker-base", top_k=3)
        ranker.run(query="What is the capital of France?", documents=documents)["documents"]

    The input documents are not changed; the result holds copies with their scores. Components with
    the same model and settings share one engine. Concurrent `run_async` calls are batched.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        token: Secret | None = hub_token(),  # noqa: B008 - immutable, Haystack's own way
        top_k: int = 10,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        scale_score: bool = True,
        score_threshold: float | None = None,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Set up; the model is loaded by `warm_up` or the first run.

        Args:
            model: folder or hub id of a cross-encoder with one label.
            token: hub access token.
            top_k: maximum number of documents to return.
            query_prefix: prepended to the query.
            query_suffix: appended to the query.
            document_prefix: prepended to every document.
            document_suffix: appended to every document.
            meta_fields_to_embed: meta fields to put before the content.
            embedding_separator: separates the meta fields and the content.
            scale_score: scale scores to the range 0 to 1 with the sigmoid; otherwise return the
                model's raw scores.
            score_threshold: minimum score of a returned document, after scaling.
            precision: precision of the engine.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in query and document together.
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
        self.precision = precision
        self.revision = revision
        self.max_seq_length = max_seq_length
        self.threads = threads
        self.local_files_only = local_files_only

    def _load(self) -> SharedCrossEncoder:
        return shared_cross_encoder(self.model, **loading_settings(self))

    def _scores(self, query: str, documents: Sequence[Document]) -> list[float]:
        return self.shared.score(self._pairs(query, documents), "identity")

    async def _scores_async(self, query: str, documents: Sequence[Document]) -> list[float]:
        shared = await self.shared_async()
        return await shared.ascore(self._pairs(query, documents), "identity")

    @staticmethod
    def _scaled(score: float) -> float:
        """Return the sigmoid of a score."""
        power = math.exp(-abs(score))
        return (1 if score >= 0 else power) / (1 + power)

    def _pairs(self, query: str, documents: Sequence[Document]) -> list[tuple[str, str]]:
        read = self.query_prefix + query + self.query_suffix
        return [
            (read, self.document_prefix + text + self.document_suffix)
            for text in self._texts(documents)
        ]
