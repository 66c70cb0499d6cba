"""What QuaverVectorStore finds: by vector, by words, by both, and with an eye on diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quaver.documents import Passage
from quaver.errors import needs_extra
from quaver.integrations.embedded_store import META, StorePlace
from quaver.integrations.langchain.filters import to_filter
from quaver.store import Hit, Mode

with needs_extra("langchain"):
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

Scored = list[tuple[Document, float]]


class DocumentSearch(VectorStore):
    """The half of a store that reads."""

    _embedding: Embeddings
    _place: StorePlace

    @property
    def embeddings(self) -> Embeddings:
        """What gives the vectors."""
        return self._embedding

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents of those ids that are stored."""
        store = self._place.existing()
        return [] if store is None else [_document(found.passage) for found in store.get(ids)]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
    ) -> list[Document]:
        """Find the documents that fit a query.

        Args:
            query: the query.
            k: how many at most.
            filter: only documents whose metadata match.
            mode: how to rank.

        Returns:
            The documents, the best first.

        Raises:
            InputError: an argument breaks its rule.
            StoreError: searching failed.
        """
        found = self.similarity_search_with_score(query, k, filter=filter, mode=mode)
        return [document for document, _ in found]

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
    ) -> list[Document]:
        """Do what ``similarity_search`` does, the query embedded with other tasks'."""
        found = await self.asimilarity_search_with_score(query, k, filter=filter, mode=mode)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
    ) -> Scored:
        """Find documents with their scores; see ``similarity_search``. Higher is better."""
        vector = None if mode == "bm25" else self._embedding.embed_query(query)
        return self._search(vector, query, k, filter, mode)

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
    ) -> Scored:
        """Do what ``similarity_search_with_score`` does, the query embedded with other tasks'."""
        vector = None if mode == "bm25" else await self._embedding.aembed_query(query)
        found: Scored = await run_in_executor(None, self._search, vector, query, k, filter, mode)
        return found

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Mapping[str, Any] | None = None
    ) -> list[Document]:
        """Find the documents nearest to a vector; see ``similarity_search``."""
        return [document for document, _ in self._search(embedding, None, k, filter, "dense")]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        """Find documents that fit a query and differ from each other.

        Args:
            query: the query.
            k: how many at most.
            fetch_k: how many of the nearest to choose from.
            lambda_mult: 0 for the greatest diversity, 1 for the least.
            filter: only documents whose metadata match.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter=filter
        )

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        """Do what ``max_marginal_relevance_search`` does, the query embedded with other tasks'."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter=filter
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        """Find documents near a vector that differ; see ``max_marginal_relevance_search``."""
        store = self._place.existing()
        if store is None:
            return []
        hits = store.search(embedding, k=max(k, fetch_k), filter=to_filter(filter), mode="dense")
        vectors = store.vectors([hit.id for hit in hits])
        chosen = maximal_marginal_relevance(
            np.asarray(embedding, np.float32),
            [vectors[hit.id] for hit in hits],
            lambda_mult=lambda_mult,
            k=k,
        )
        return [_document(hits[i]) for i in chosen]

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Document]:
        """Do what ``max_marginal_relevance_search_by_vector`` does in a thread."""
        search = self.max_marginal_relevance_search_by_vector
        found: list[Document] = await run_in_executor(
            None, lambda: search(embedding, k, fetch_k, lambda_mult, filter=filter)
        )
        return found

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None
    ) -> Scored:
        """Bring cosines into 0..1; the other modes' scores have no such range."""
        found = self.similarity_search_with_score(query, k, filter=filter)
        return [(document, _from_zero_to_one(cosine)) for document, cosine in found]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None
    ) -> Scored:
        found = await self.asimilarity_search_with_score(query, k, filter=filter)
        return [(document, _from_zero_to_one(cosine)) for document, cosine in found]

    def _search(
        self,
        vector: list[float] | None,
        query: str | None,
        k: int,
        filter: Mapping[str, Any] | None,
        mode: Mode,
    ) -> Scored:
        condition, store = to_filter(filter), self._place.existing()
        if store is None:
            return []
        hits = store.search(vector, text=query, k=k, filter=condition, mode=mode)
        return [(_document(hit), hit.score) for hit in hits]


def _from_zero_to_one(cosine: float) -> float:
    """Return the relevance; rounding leaves the cosine of equal vectors a bit beside 1."""
    return min(max((cosine + 1) / 2, 0.0), 1.0)


def _document(found: Passage | Hit) -> Document:
    return Document(
        id=found.id, page_content=found.text, metadata=dict(found.metadata.get(META, {}))
    )
