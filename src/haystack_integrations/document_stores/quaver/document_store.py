"""QuaverDocumentStore: Haystack documents in Quaver's embedded store."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_integrations.document_stores.quaver.filters import to_filter
from quaver.documents import Passage
from quaver.errors import InputError, QuaverError, needs_extra
from quaver.integrations.embedded_store import META_FIELD, EmbeddedStore, StorePlace
from quaver.integrations.haystack import SavedByParameters
from quaver.store import And, Hit

with needs_extra("haystack"):
    from haystack import Document
    from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy
    from haystack.errors import FilterError

_TYPES = {bool: "boolean", int: "int", float: "float"}


class QuaverDocumentStore(SavedByParameters):
    """Documents in a local folder or in memory, searched by vector, by words and by filter.

        store = QuaverDocumentStore(path="./documents", embedding_dim=384)

    Only one process at a time can open a folder; stores in one process share it. Vectors are
    compared by cosine. Returned embeddings equal the written ones to float32 precision.
    """

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        embedding_dim: int = 768,
        return_embedding: bool = False,
    ) -> None:
        """Set up; the store is opened when it is first used.

        Args:
            path: the folder, created if missing; None keeps documents in memory.
            embedding_dim: dimension of the embeddings.
            return_embedding: whether searches return embeddings.

        Raises:
            ValueError: embedding_dim is not an integer of at least 1.
        """
        whole = isinstance(embedding_dim, int) and not isinstance(embedding_dim, bool)
        if not whole or embedding_dim < 1:
            raise ValueError(
                f"embedding_dim must be an integer of at least 1: got {embedding_dim!r}"
            )
        self.path = None if path is None else os.fspath(path)
        self.embedding_dim = embedding_dim
        self.return_embedding = return_embedding
        self._place = StorePlace(path)

    @property
    def store(self) -> EmbeddedStore:
        """The store; opens it first if necessary."""
        with _translated():
            return self._place.store(self.embedding_dim)

    # --- The protocol -----------------------------------------------------------------------------
    def count_documents(self) -> int:
        """Return the number of stored documents."""
        with _translated():
            return self.store.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return the documents that match.

        Args:
            filters: Haystack's filters; None or {} for all.

        Returns:
            the documents with their embeddings, in no particular order.

        Raises:
            FilterError: the filters are invalid.
        """
        with _translated():
            found = self.store.scan(to_filter(filters), with_vectors=True)
        return [_document(stored.passage, stored.vector) for stored in found]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Store documents.

        Args:
            documents: the documents, with or without content and embedding.
            policy: what to do if an id is already stored; NONE means FAIL.

        Returns:
            the number of documents written.

        Raises:
            ValueError: documents is not a list of Documents.
            DuplicateDocumentError: an id is already stored and the policy is FAIL; nothing is
                written.
            DocumentStoreError: an embedding has the wrong dimension, meta is not valid JSON, or
                writing failed.
        """
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise ValueError(f"documents must be a list of Documents: got {documents!r:.80}")
        chosen = {document.id: document for document in documents}
        if policy == DuplicatePolicy.SKIP:
            chosen = {document.id: document for document in reversed(documents)}
        with _translated():
            if policy != DuplicatePolicy.OVERWRITE:
                stored = [found.passage.id for found in self.store.get(list(chosen))]
                twice = len(chosen) < len(documents)
                if policy != DuplicatePolicy.SKIP and (stored or twice):
                    found = f"{stored[0]} is already stored" if stored else "an id is given twice"
                    raise DuplicateDocumentError(
                        f"document ids must be new and distinct: {found}; use "
                        "DuplicatePolicy.OVERWRITE or SKIP, or other ids"
                    )
                for identity in stored:
                    del chosen[identity]
            self._write(list(chosen.values()))
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(chosen)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Remove documents; unknown ids are ignored."""
        with _translated():
            self.store.delete(document_ids)

    # --- Beyond the protocol ----------------------------------------------------------------------
    def delete_all_documents(self) -> None:
        """Remove every document."""
        with _translated():
            self.store.delete_matching(And())

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Remove the matching documents and return their number."""
        with _translated():
            return self.store.delete_matching(to_filter(filters) or And())

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Set meta fields of the matching documents and return their number."""
        documents = self.filter_documents(filters)
        with _translated():
            self._write([replace(d, meta={**d.meta, **meta}) for d in documents])
        return len(documents)

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        """Return the documents nearest to a vector, the best first; `score` is the cosine.

        Args:
            query_embedding: embedding_dim floats.
            filters: only matching documents are returned.
            top_k: maximum number of documents.
            return_embedding: overrides the store's.

        Raises:
            FilterError: the filters are invalid.
            DocumentStoreError: the vector has the wrong dimension, or the search failed.
        """
        with _translated():
            hits = self.store.search(query_embedding, k=top_k, filter=to_filter(filters))
            return self._found(hits, return_embedding)

    def bm25_retrieval(
        self,
        query: str,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        """Return the documents that match a query's words, best first; `score` is BM25."""
        with _translated():
            hits = self.store.search(
                None, text=query, mode="bm25", k=top_k, filter=to_filter(filters)
            )
            return self._found(hits, return_embedding)

    def hybrid_retrieval(
        self,
        query: str,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        """Search by vector and by words, and merge both by reciprocal rank fusion."""
        with _translated():
            hits = self.store.search(
                query_embedding, text=query, mode="hybrid", k=top_k, filter=to_filter(filters)
            )
            return self._found(hits, return_embedding)

    def optimize(self) -> None:
        """Build the search graph if the store is large enough; useful after a bulk load."""
        with _translated():
            self.store.optimize()

    def close(self) -> None:
        """Close the folder; the next use opens it again.

        Other processes can open it once every store of this process on it is closed.
        """
        self._place.close()

    # --- Meta fields: each call reads the meta of every document that matches ---------------------
    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """Return the number of matching documents."""
        with _translated():
            return self.store.count(to_filter(filters))

    def count_unique_metadata_by_filter(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """Return the number of distinct values of each field in the matching documents.

        Args:
            filters: Haystack's filters.
            metadata_fields: names, with or without "meta.".

        Returns:
            the counts by name, without "meta.".
        """
        found = self._metas(filters)
        names = [name.removeprefix("meta.") for name in metadata_fields]
        return {name: len(_unique(found, name)) for name in names}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Return the type of each field: keyword, int, float or boolean."""
        return {
            name: {"type": _TYPES.get(type(value), "keyword")}
            for meta in self._metas()
            for name, value in meta.items()
            if value is not None
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Return the smallest and largest value of a field as "min" and "max"; None if it has none.

        Args:
            metadata_field: the name, with or without "meta.".
        """
        values = [
            value
            for value in _unique(self._metas(), metadata_field.removeprefix("meta.")).values()
            if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        ]
        if not values or len({isinstance(value, str) for value in values}) > 1:
            return {"min": None, "max": None}
        return {"min": min(values), "max": max(values)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """Return a page of a field's distinct values and their total number.

        Args:
            metadata_field: the name, with or without "meta.".
            search_term: only values that contain this, ignoring case.
            from_: number of values to skip.
            size: maximum number of values to return.
            filters: only matching documents are read.
        """
        name = metadata_field.removeprefix("meta.")
        values = list(_unique(self._metas(filters), name).values())
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return values[from_ : from_ + size], len(values)

    def _metas(self, filters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        with _translated():
            return [
                s.passage.metadata.get(META_FIELD, {}) for s in self.store.scan(to_filter(filters))
            ]

    def _write(self, documents: Sequence[Document]) -> None:
        self.store.write(
            [document.id for document in documents],
            [document.content or "" for document in documents],
            [_metadata(document) for document in documents],
            [document.embedding for document in documents],
        )

    def _found(self, hits: Sequence[Hit], return_embedding: bool | None) -> list[Document]:
        wanted = self.return_embedding if return_embedding is None else return_embedding
        vectors = self.store.vectors([hit.id for hit in hits]) if wanted else {}
        return [replace(_document(hit, vectors.get(hit.id)), score=hit.score) for hit in hits]

    # --- Without blocking the event loop ----------------------------------------------------------
    async def count_documents_async(self) -> int:
        """Run `count_documents` in a thread."""
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Run `filter_documents` in a thread."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Run `write_documents` in a thread."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """Run `delete_documents` in a thread."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """Run `delete_all_documents` in a thread."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """Run `delete_by_filter` in a thread."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Run `update_by_filter` in a thread."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def embedding_retrieval_async(
        self, query_embedding: list[float], **options: Any
    ) -> list[Document]:
        """Run `embedding_retrieval` in a thread."""
        return await asyncio.to_thread(self.embedding_retrieval, query_embedding, **options)

    async def bm25_retrieval_async(self, query: str, **options: Any) -> list[Document]:
        """Run `bm25_retrieval` in a thread."""
        return await asyncio.to_thread(self.bm25_retrieval, query, **options)

    async def hybrid_retrieval_async(
        self, query: str, query_embedding: list[float], **options: Any
    ) -> list[Document]:
        """Run `hybrid_retrieval` in a thread."""
        return await asyncio.to_thread(self.hybrid_retrieval, query, query_embedding, **options)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """Run `count_documents_by_filter` in a thread."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """Run `count_unique_metadata_by_filter` in a thread."""
        return await asyncio.to_thread(
            self.count_unique_metadata_by_filter, filters, metadata_fields
        )

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """Run `get_metadata_fields_info` in a thread."""
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """Run `get_metadata_field_min_max` in a thread."""
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """Run `get_metadata_field_unique_values` in a thread."""
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values,
            metadata_field,
            search_term,
            from_,
            size,
            filters,
        )


def _metadata(document: Document) -> dict[str, Any]:
    """Return a document's meta and the fields that a passage lacks."""
    data: dict[str, Any] = {META_FIELD: document.meta, "has_content": document.content is not None}
    if document.embedding is not None:
        data["length"] = float(np.linalg.norm(np.asarray(document.embedding, np.float32)))
    if document.blob is not None:
        data["blob"] = document.blob.to_dict()
    if document.sparse_embedding is not None:
        data["sparse_embedding"] = document.sparse_embedding.to_dict()
    return data


def _document(found: Passage | Hit, vector: NDArray[np.float32] | None) -> Document:
    stored = found.metadata
    data = {
        name: stored[name] for name in (META_FIELD, "blob", "sparse_embedding") if name in stored
    }
    data["content"] = found.text if stored.get("has_content", True) else None
    if vector is not None:
        data["embedding"] = (vector * np.float32(stored.get("length", 1))).tolist()
    return Document.from_dict({"id": found.id, **data})


def _unique(metas: list[dict[str, Any]], name: str) -> dict[tuple[str, str], Any]:
    """Return the distinct values of a field; 1, 1.0, "1" and True are distinct."""
    values = (meta.get(name) for meta in metas)
    return {
        (type(value).__name__, json.dumps(value, sort_keys=True)): value
        for value in values
        if value is not None
    }


@contextmanager
def _translated() -> Iterator[None]:
    """Raise Quaver's errors as Haystack's."""
    try:
        yield
    except InputError as error:
        kind = FilterError if str(error).startswith(("filter ", "a filter")) else DocumentStoreError
        raise kind(str(error)) from error
    except QuaverError as error:
        raise DocumentStoreError(str(error)) from error
