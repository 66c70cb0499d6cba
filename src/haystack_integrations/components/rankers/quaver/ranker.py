"""QuaverRanker: documents in the order a cross-encoder gives them."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any, Literal

from quaver.errors import needs_extra
from quaver.integrations.haystack import (
    SavedByParameters,
    document_text,
    field_names,
    hub_token,
    loading_settings,
    model_name,
    ranked,
    require_documents,
    require_query,
)
from quaver.integrations.shared_models import SharedCrossEncoder, shared_cross_encoder

with needs_extra("haystack"):
    from haystack import Document, component
    from haystack.utils import Secret
    from haystack.utils.misc import _deduplicate_documents


@component
class QuaverRanker(SavedByParameters):
    """Ranks documents with a cross-encoder, in int8 on the CPU.

        ranker = QuaverRanker(model="BAAI/bge-reranker-base", top_k=3)
        ranker.run(query="What is the capital of France?", documents=documents)["documents"]

    The documents given stay as they are; the result has copies with their scores. Components with
    the same model and settings share one engine. Concurrent ``run_async`` calls are computed
    together.
    """

    _shared: SharedCrossEncoder | None = None

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
        precision: Literal["int8", "float32"] = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Set up; the model is loaded by ``warm_up`` or the first run.

        Args:
            model: folder or hub id of a cross-encoder with one label.
            token: access token of the hub.
            top_k: how many documents to return at most.
            query_prefix: goes before the query.
            query_suffix: goes after the query.
            document_prefix: goes before every document.
            document_suffix: goes after every document.
            meta_fields_to_embed: meta fields that go before the content.
            embedding_separator: goes between them and the content.
            scale_score: bring scores into 0..1 with the sigmoid; else they are the model's plain
                ones.
            score_threshold: the least score of a document that is returned, after scaling.
            precision: what the engine computes in.
            revision: branch, tag or commit on the hub.
            max_seq_length: most tokens of query and document together.
            threads: threads of the engine; None takes the CPUs this process may use.
            local_files_only: never use the network.

        Raises:
            ValueError: top_k is below 1.
            TypeError: meta_fields_to_embed is no list of strings.
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

    def warm_up(self) -> None:
        """Load the model, unless this process has it already."""
        if self._shared is None:
            self._shared = shared_cross_encoder(self.model, **loading_settings(self))

    @property
    def shared(self) -> SharedCrossEncoder:
        """The model; loaded if it is not."""
        self.warm_up()
        assert self._shared is not None
        return self._shared

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"model": self.model}

    @component.output_types(documents=list[Document])
    def run(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents for a query.

        Args:
            query: the query.
            documents: the documents; of equal ids the one with the highest score is kept.
            top_k: instead of the component's.
            scale_score: instead of the component's.
            score_threshold: instead of the component's.

        Returns:
            "documents": copies with their scores, the best first.

        Raises:
            TypeError: query is no string, or documents no list of Documents.
            ValueError: top_k is below 1.
        """
        most, unique, pairs = self._prepared(query, documents, top_k)
        scores = self.shared.score(pairs, "identity")
        return {"documents": self._ranked(unique, scores, most, scale_score, score_threshold)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents without blocking the event loop; arguments and errors are those of ``run``.

        Args:
            query: the query.
            documents: the documents; of equal ids the one with the highest score is kept.
            top_k: instead of the component's.
            scale_score: instead of the component's.
            score_threshold: instead of the component's.

        Returns:
            "documents": copies with their scores, the best first.
        """
        most, unique, pairs = self._prepared(query, documents, top_k)
        if self._shared is None:
            await asyncio.to_thread(self.warm_up)
        scores = await self.shared.ascore(pairs, "identity")
        return {"documents": self._ranked(unique, scores, most, scale_score, score_threshold)}

    def _prepared(
        self, query: str, documents: list[Document], top_k: int | None
    ) -> tuple[int, list[Document], list[tuple[str, str]]]:
        most = self.top_k if top_k is None else top_k
        require_query(self, query, most)
        require_documents(self, documents)
        unique: list[Document] = _deduplicate_documents(documents)
        asked = self.query_prefix + query + self.query_suffix
        texts = [
            document_text(document, self.meta_fields_to_embed, self.embedding_separator)
            for document in unique
        ]
        return most, unique, [(asked, self._read(text)) for text in texts]

    def _read(self, text: str) -> str:
        return self.document_prefix + text + self.document_suffix

    def _ranked(
        self,
        documents: list[Document],
        scores: list[float],
        top_k: int,
        scale_score: bool | None,
        score_threshold: float | None,
    ) -> list[Document]:
        scaled = self.scale_score if scale_score is None else scale_score
        threshold = self.score_threshold if score_threshold is None else score_threshold
        return ranked(
            documents,
            scores,
            top_k=top_k,
            threshold=threshold,
            scale=_sigmoid if scaled else None,
        )


def _sigmoid(score: float) -> float:
    power = math.exp(-abs(score))
    return (1 if score >= 0 else power) / (1 + power)
