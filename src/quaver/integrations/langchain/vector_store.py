"""QuaverVectorStore: LangChain documents in Quaver's embedded store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from quaver.documents import Passage
from quaver.errors import InputError, needs_extra
from quaver.integrations.embedded_store import META_FIELD, StorePlace
from quaver.integrations.langchain.filters import to_filter
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.store import RANKINGS, And, Hit, Mode

with needs_extra("langchain"):
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

Scored = list[tuple[Document, float]]
Self = TypeVar("Self", bound="QuaverVectorStore")


class QuaverVectorStore(VectorStore):
    """Documents in a local folder or in memory, searched by vectors, by words, or by several of them.

        store = QuaverVectorStore(QuaverEmbeddings(model="BAAI/bge-small-en-v1.5"), path="./documents")
        store.add_documents(documents)
        store.similarity_search("capital of France", k=3, filter={"year": {"$gte": 2020}})
        store.as_retriever(search_kwargs={"mode": "hybrid"})

    Only one process at a time can open a folder; stores in one process share it. Metadata must be
    valid JSON. `mode` is "dense" (the score is the cosine), "bm25", or "hybrid" (both, with their
    ranks fused); with a sparse encoder also "sparse", "dense+sparse" and "dense+bm25+sparse". With a
    multi-vector model, `maxsim=True` reranks by the vectors of tokens. `filter` is a dict of metadata
    fields with values or with `$eq $ne $gt $gte $lt $lte $in $nin $exists`, joined by `$and`, `$or` and
    `$not`.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        path: str | Path | None = None,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> None:
        """Set up; the folder is opened when it is first used.

        Args:
            embedding: computes the vectors of documents and queries.
            path: the folder, created if missing; None keeps documents in memory.
            sparse: also store the weights that this model gives to words. Documents that are in the folder
                already are encoded; the folder records the model, so later it may be left out.
            multi: also store the vectors of tokens that this model makes, in the same way.
        """
        self._embedding = embedding
        self._place = StorePlace(path, sparse=sparse, multi=multi)

    @classmethod
    def from_texts(
        cls: type[Self],
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> Self:
        """Create a store from texts; see `__init__` and `add_texts`."""
        made = cls(embedding, path=path, sparse=sparse, multi=multi)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    @classmethod
    async def afrom_texts(
        cls: type[Self],
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> Self:
        """Run `from_texts` without blocking the event loop."""
        made = cls(embedding, path=path, sparse=sparse, multi=multi)
        await made.aadd_texts(texts, metadatas, ids=ids)
        return made

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings that compute the vectors."""
        return self._embedding

    # --- Writing ----------------------------------------------------------------------------------
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Embed and store texts, replacing what is stored under the same ids.

        Args:
            texts: N texts.
            metadatas: N dicts, or None.
            ids: N ids; None generates one.
            batch_size: unused; the engine chooses its own. LangChain's indexing passes one.

        Returns:
            N ids.

        Raises:
            InputError: there are not N of each, or metadata is not valid JSON.
            StoreError: writing failed.
        """
        return self.add_documents(_documents(texts, metadatas, ids))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Run `add_texts` without blocking the event loop."""
        return await self.aadd_documents(_documents(texts, metadatas, ids))

    def add_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Embed and store documents, replacing what is stored under the same ids.

        Args:
            documents: N documents; a missing id is generated.
            ids: N ids that replace the documents' own.
            batch_size: unused; the engine chooses its own. LangChain's indexing passes one.

        Returns:
            N ids.

        Raises:
            InputError: there are not N ids, or metadata is not valid JSON.
            StoreError: writing failed.
        """
        chosen = _ids(documents, ids)
        vectors = self._embedding.embed_documents([d.page_content for d in documents])
        return self._write(documents, chosen, vectors)

    async def aadd_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Run `add_documents` without blocking the event loop."""
        chosen = _ids(documents, ids)
        vectors = await self._embedding.aembed_documents([d.page_content for d in documents])
        written: list[str] = await run_in_executor(None, self._write, documents, chosen, vectors)
        return written

    def delete(self, ids: list[str] | None = None) -> bool:
        """Remove documents; unknown ids are ignored.

        Args:
            ids: ids of the documents; None for all.

        Returns:
            True.
        """
        store = self._place.existing()
        if store is not None and ids is None:
            store.delete_matching(And())
        elif store is not None and ids:
            store.delete(ids)
        return True

    def optimize(self) -> None:
        """Build the search graph if the store is large enough; useful after a bulk load."""
        store = self._place.existing()
        if store is not None:
            store.optimize()

    def close(self) -> None:
        """Close the folder; the next use opens it again.

        Other processes can open it once every store of this process on it is closed.
        """
        self._place.close()

    def _write(
        self, documents: list[Document], ids: list[str], vectors: list[list[float]]
    ) -> list[str]:
        if documents:
            self._place.store(len(vectors[0])).write(
                ids,
                [document.page_content for document in documents],
                [{META_FIELD: document.metadata} for document in documents],
                vectors,
            )
        return ids

    # --- Reading ----------------------------------------------------------------------------------
    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the stored documents with these ids."""
        store = self._place.existing()
        return [] if store is None else [_document(found.passage) for found in store.get(ids)]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
        maxsim: bool = False,
    ) -> list[Document]:
        """Find the documents that match a query best.

        Args:
            query: the query.
            k: maximum number of documents.
            filter: only documents with matching metadata are returned.
            mode: what to compare; see the class.
            maxsim: rerank the 100 best by the vectors of tokens.

        Returns:
            the documents, best first.

        Raises:
            InputError: an argument is invalid.
            StoreError: the search failed, or the store has no vectors for `mode` or `maxsim`.
        """
        found = self.similarity_search_with_score(query, k, filter=filter, mode=mode, maxsim=maxsim)
        return [document for document, _ in found]

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
        maxsim: bool = False,
    ) -> list[Document]:
        """Run `similarity_search` with the query batched with other tasks'."""
        found = await self.asimilarity_search_with_score(
            query, k, filter=filter, mode=mode, maxsim=maxsim
        )
        return [document for document, _ in found]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
        maxsim: bool = False,
    ) -> Scored:
        """Find documents with their scores; see `similarity_search`. Higher is better."""
        vector = self._embedding.embed_query(query) if _needs_vector(mode) else None
        return self._search(vector, query, k, filter, mode, maxsim)

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode = "dense",
        maxsim: bool = False,
    ) -> Scored:
        """Run `similarity_search_with_score` with the query batched with other tasks'."""
        vector = await self._embedding.aembed_query(query) if _needs_vector(mode) else None
        found: Scored = await run_in_executor(
            None, self._search, vector, query, k, filter, mode, maxsim
        )
        return found

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Mapping[str, Any] | None = None
    ) -> list[Document]:
        """Find the documents nearest to a vector; see `similarity_search`."""
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
        """Find documents that match a query and differ from each other.

        Args:
            query: the query.
            k: maximum number of documents.
            fetch_k: number of nearest documents to choose from.
            lambda_mult: 0 for the greatest diversity, 1 for the least.
            filter: only documents with matching metadata are returned.
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
        """Run `max_marginal_relevance_search` with the query batched with other tasks'."""
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
        """Find diverse documents near a vector; see `max_marginal_relevance_search`."""
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
        """Run `max_marginal_relevance_search_by_vector` in a thread."""
        search = self.max_marginal_relevance_search_by_vector
        found: list[Document] = await run_in_executor(
            None, lambda: search(embedding, k, fetch_k, lambda_mult, filter=filter)
        )
        return found

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, filter: Mapping[str, Any] | None = None
    ) -> Scored:
        """Scale cosines to the range 0 to 1; other modes' scores have no fixed range."""
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
        maxsim: bool = False,
    ) -> Scored:
        condition, store = to_filter(filter), self._place.existing()
        if store is None:
            return []
        hits = store.search(vector, text=query, k=k, filter=condition, mode=mode, maxsim=maxsim)
        return [(_document(hit), hit.score) for hit in hits]


def _needs_vector(mode: Mode) -> bool:
    return "dense" in RANKINGS.get(mode, ("dense",))  # the store refuses an unknown mode


def _documents(
    texts: Iterable[str],
    metadatas: Sequence[dict[str, Any]] | None,
    ids: Sequence[str | None] | None,
) -> list[Document]:
    texts = list(texts)
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        _require_as_many(name, given, len(texts))
    return [
        Document(id=identity, page_content=text, metadata=metadata)
        for text, metadata, identity in zip(
            texts, metadatas or [{}] * len(texts), ids or [None] * len(texts), strict=True
        )
    ]


def _ids(documents: Sequence[Document], ids: Sequence[str | None] | None) -> list[str]:
    _require_as_many("ids", ids, len(documents))
    given = [document.id for document in documents] if ids is None else ids
    return [identity or str(uuid.uuid4()) for identity in given]


def _require_as_many(name: str, given: Sequence[object] | None, count: int) -> None:
    if given is not None and len(given) != count:
        raise InputError(f"{name} must be one for each text: got {len(given)} for {count} texts")


def _from_zero_to_one(cosine: float) -> float:
    """Return the relevance; rounding can put the cosine of equal vectors just above 1."""
    return min(max((cosine + 1) / 2, 0.0), 1.0)


def _document(found: Passage | Hit) -> Document:
    return Document(
        id=found.id, page_content=found.text, metadata=dict(found.metadata.get(META_FIELD, {}))
    )
