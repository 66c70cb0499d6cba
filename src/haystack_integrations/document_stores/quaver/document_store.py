"""QuaverDocumentStore: Haystack's documents in Quaver's embedded store."""

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
from quaver.integrations.embedded_store import META, EmbeddedStore, StorePlace
from quaver.integrations.haystack import SavedByParameters
from quaver.store import And, Hit

with needs_extra("haystack"):
    from haystack import Document
    from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy
    from haystack.errors import FilterError

_TYPES = {bool: "boolean", int: "int", float: "float"}


class QuaverDocumentStore(SavedByParameters):
    """Documents in a folder, inside this process, found by vector, by words and by filter.

        store = QuaverDocumentStore(path="./documents", embedding_dim=384)

    One process at a time holds a folder; stores of one process on the same folder share it. Vectors
    are compared by cosine. A returned embedding is what was written, to the precision of float32.
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
            path: the folder, made where there is none; None keeps documents in memory.
            embedding_dim: length of an embedding.
            return_embedding: whether searching by vector or words returns embeddings.

        Raises:
            ValueError: embedding_dim is no whole number of at least 1.
        """
        whole = isinstance(embedding_dim, int) and not isinstance(embedding_dim, bool)
        if not whole or embedding_dim < 1:
            raise ValueError(
                f"embedding_dim must be a whole number of at least 1: got {embedding_dim!r}"
            )
        self.path = None if path is None else os.fspath(path)
        self.embedding_dim = embedding_dim
        self.return_embedding = return_embedding
        self._place = StorePlace(path)

    @property
    def store(self) -> EmbeddedStore:
        """The store; opened if it is not."""
        with _translated():
            return self._place.store(self.embedding_dim)

    # --- The protocol -----------------------------------------------------------------------------
    def count_documents(self) -> int:
        """Return how many documents are stored."""
        with _translated():
            return self.store.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return the documents that match.

        Args:
            filters: Haystack's filters; None or {} for all.

        Returns:
            The documents with their embeddings, in no particular order.

        Raises:
            FilterError: the filters break a rule.
        """
        with _translated():
            found = self.store.scan(to_filter(filters), with_vectors=True)
        return [_document(stored.passage, stored.vector) for stored in found]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Store documents.

        Args:
            documents: the documents; with or without content and embedding.
            policy: what happens to one whose id is stored; NONE is FAIL.

        Returns:
            How many were written.

        Raises:
            ValueError: documents is no list of Documents.
            DuplicateDocumentError: an id is stored already, and the policy is FAIL; nothing is
                written.
            DocumentStoreError: an embedding has another dimension, meta holds what JSON cannot, or
                storing failed.
        """
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise ValueError("documents must be a list of Documents")
        chosen = {document.id: document for document in documents}
        if policy == DuplicatePolicy.SKIP:
            chosen = {document.id: document for document in reversed(documents)}
        with _translated():
            if policy != DuplicatePolicy.OVERWRITE:
                stored = [found.passage.id for found in self.store.get(list(chosen))]
                twice = len(chosen) < len(documents)
                if policy != DuplicatePolicy.SKIP and (stored or twice):
                    which = stored[0] if stored else "one of the given"
                    raise DuplicateDocumentError(
                        f"a document with id {which} is stored already; write with "
                        "DuplicatePolicy.OVERWRITE or SKIP, or give it another id"
                    )
                for identity in stored:
                    del chosen[identity]
            self._write(list(chosen.values()))
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(chosen)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Remove documents; an id that is not stored is no error."""
        with _translated():
            self.store.delete(document_ids)

    # --- Beyond it --------------------------------------------------------------------------------
    def delete_all_documents(self) -> None:
        """Remove every document."""
        with _translated():
            self.store.delete_matching(And())

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Remove the documents that match; return how many there were."""
        with _translated():
            return self.store.delete_matching(to_filter(filters) or And())

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Set meta fields of the documents that match; return how many there were."""
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
        """Return the documents nearest to a vector, the best first; ``score`` is the cosine.

        Args:
            query_embedding: embedding_dim floats.
            filters: only documents that match.
            top_k: how many at most.
            return_embedding: instead of the store's.

        Raises:
            FilterError: the filters break a rule.
            DocumentStoreError: the vector has another dimension, or searching failed.
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
        """Return the documents whose words fit a query, the best first; ``score`` is BM25."""
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
        """Return what vector and words find together, by reciprocal rank fusion."""
        with _translated():
            hits = self.store.search(
                query_embedding, text=query, mode="hybrid", k=top_k, filter=to_filter(filters)
            )
            return self._found(hits, return_embedding)

    def optimize(self) -> None:
        """Build the search graph where enough is stored; worth its time after a bulk load."""
        with _translated():
            self.store.optimize()

    def close(self) -> None:
        """Let the folder go; the next use takes it again.

        Other processes can open it when the last store of this process on it has let it go.
        """
        self._place.close()

    # --- Meta fields: each call reads the meta of every document that matches ---------------------
    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """Return how many documents match."""
        with _translated():
            return self.store.count(to_filter(filters))

    def count_unique_metadata_by_filter(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """Return how many different values each field has in the documents that match.

        Args:
            filters: Haystack's filters.
            metadata_fields: names, with or without "meta.".

        Returns:
            The counts by name, without "meta.".
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
        """Return the least and the largest value of a field as "min" and "max"; None without any.

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
        """Return a page of a field's different values, and how many there are.

        Args:
            metadata_field: the name, with or without "meta.".
            search_term: only values that contain this, whatever the case.
            from_: how many to leave out.
            size: how many to return at most.
            filters: only documents that match.
        """
        name = metadata_field.removeprefix("meta.")
        values = list(_unique(self._metas(filters), name).values())
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return values[from_ : from_ + size], len(values)

    def _metas(self, filters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        with _translated():
            return [s.passage.metadata.get(META, {}) for s in self.store.scan(to_filter(filters))]

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
        """Do what ``count_documents`` does in a thread."""
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Do what ``filter_documents`` does in a thread."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Do what ``write_documents`` does in a thread."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """Do what ``delete_documents`` does in a thread."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """Do what ``delete_all_documents`` does in a thread."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """Do what ``delete_by_filter`` does in a thread."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Do what ``update_by_filter`` does in a thread."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def embedding_retrieval_async(
        self, query_embedding: list[float], **options: Any
    ) -> list[Document]:
        """Do what ``embedding_retrieval`` does in a thread."""
        return await asyncio.to_thread(self.embedding_retrieval, query_embedding, **options)

    async def bm25_retrieval_async(self, query: str, **options: Any) -> list[Document]:
        """Do what ``bm25_retrieval`` does in a thread."""
        return await asyncio.to_thread(self.bm25_retrieval, query, **options)

    async def hybrid_retrieval_async(
        self, query: str, query_embedding: list[float], **options: Any
    ) -> list[Document]:
        """Do what ``hybrid_retrieval`` does in a thread."""
        return await asyncio.to_thread(self.hybrid_retrieval, query, query_embedding, **options)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """Do what ``count_documents_by_filter`` does in a thread."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """Do what ``count_unique_metadata_by_filter`` does in a thread."""
        return await asyncio.to_thread(
            self.count_unique_metadata_by_filter, filters, metadata_fields
        )

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """Do what ``get_metadata_fields_info`` does in a thread."""
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """Do what ``get_metadata_field_min_max`` does in a thread."""
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """Do what ``get_metadata_field_unique_values`` does in a thread."""
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values,
            metadata_field,
            search_term,
            from_,
            size,
            filters,
        )


def _metadata(document: Document) -> dict[str, Any]:
    """Return what is stored of a document beside its text: meta, and what a passage has no place for."""
    rest = {META: document.meta, "has_content": document.content is not None}
    if document.embedding is not None:
        rest["length"] = float(np.linalg.norm(np.asarray(document.embedding, np.float32)))
    if document.blob is not None:
        rest["blob"] = document.blob.to_dict()
    if document.sparse_embedding is not None:
        rest["sparse_embedding"] = document.sparse_embedding.to_dict()
    return rest


def _document(found: Passage | Hit, vector: NDArray[np.float32] | None) -> Document:
    rest = found.metadata
    data = {name: rest[name] for name in (META, "blob", "sparse_embedding") if name in rest}
    data["content"] = found.text if rest.get("has_content", True) else None
    if vector is not None:
        data["embedding"] = (vector * np.float32(rest.get("length", 1))).tolist()
    return Document.from_dict({"id": found.id, **data})


def _unique(metas: list[dict[str, Any]], name: str) -> dict[tuple[str, str], Any]:
    """Return the different values of a field; 1, 1.0, "1" and True are four."""
    values = (meta.get(name) for meta in metas)
    return {
        (type(value).__name__, json.dumps(value, sort_keys=True)): value
        for value in values
        if value is not None
    }


@contextmanager
def _translated() -> Iterator[None]:
    """Turn Quaver's errors into Haystack's."""
    try:
        yield
    except InputError as error:
        kind = FilterError if str(error).startswith(("filter ", "a filter")) else DocumentStoreError
        raise kind(str(error)) from error
    except QuaverError as error:
        raise DocumentStoreError(str(error)) from error
