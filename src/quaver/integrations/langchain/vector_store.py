"""QuaverVectorStore: LangChain's documents in Quaver's embedded store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from quaver.errors import InputError, needs_extra
from quaver.integrations.embedded_store import META, StorePlace
from quaver.integrations.langchain.search import DocumentSearch
from quaver.store import And

with needs_extra("langchain"):
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor

Self = TypeVar("Self", bound="QuaverVectorStore")


class QuaverVectorStore(DocumentSearch):
    """Documents in a folder, inside this process, found by vector, by words, or by both.

        store = QuaverVectorStore(QuaverEmbeddings(model="BAAI/bge-small-en-v1.5"), path="./documents")
        store.add_documents(documents)
        store.similarity_search("capital of France", k=3, filter={"year": {"$gte": 2020}})
        store.as_retriever(search_kwargs={"mode": "hybrid"})

    One process at a time holds a folder; stores of one process on the same folder share it. Metadata
    is what JSON can hold. ``mode`` is "dense" (the score is the cosine), "bm25", or "hybrid" (ranks
    of both, fused). ``filter`` is a dict of metadata fields with values or with ``$eq $ne $gt $gte
    $lt $lte $in $nin $exists``, joined by ``$and``, ``$or`` and ``$not``.
    """

    def __init__(self, embedding: Embeddings, *, path: str | Path | None = None) -> None:
        """Set up; the folder is opened when it is first used.

        Args:
            embedding: gives the vectors of documents and queries.
            path: the folder, made where there is none; None keeps documents in memory.
        """
        self._embedding = embedding
        self._place = StorePlace(path)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Embed and store texts; what is stored under an id already is replaced.

        Args:
            texts: N texts.
            metadatas: N dicts, or None.
            ids: N ids, None for a new one.
            batch_size: not used: the engine finds its own. LangChain's indexing gives one.

        Returns:
            N ids.

        Raises:
            InputError: there are not N of each, or metadata is not what JSON can hold.
            StoreError: storing failed.
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
        """Do what ``add_texts`` does without blocking the event loop."""
        return await self.aadd_documents(_documents(texts, metadatas, ids))

    def add_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Embed and store documents; what is stored under an id already is replaced.

        Args:
            documents: N documents; one without an id gets one.
            ids: N ids instead of the documents' own.
            batch_size: not used: the engine finds its own. LangChain's indexing gives one.

        Returns:
            N ids.

        Raises:
            InputError: there are not N ids, or metadata is not what JSON can hold.
            StoreError: storing failed.
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
        """Do what ``add_documents`` does without blocking the event loop."""
        chosen = _ids(documents, ids)
        vectors = await self._embedding.aembed_documents([d.page_content for d in documents])
        written: list[str] = await run_in_executor(None, self._write, documents, chosen, vectors)
        return written

    def delete(self, ids: list[str] | None = None) -> bool:
        """Remove documents; an id that is not stored is no error.

        Args:
            ids: whose; None for all.

        Returns:
            True.
        """
        store = self._place.existing()
        if store is not None and ids is None:
            store.delete_matching(And())
        elif store is not None and ids:
            store.delete(ids)
        return True

    @classmethod
    def from_texts(
        cls: type[Self],
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
    ) -> Self:
        """Make a store of texts; see ``__init__`` and ``add_texts``."""
        made = cls(embedding, path=path)
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
    ) -> Self:
        """Do what ``from_texts`` does without blocking the event loop."""
        made = cls(embedding, path=path)
        await made.aadd_texts(texts, metadatas, ids=ids)
        return made

    def optimize(self) -> None:
        """Build the search graph where enough is stored; worth its time after a bulk load."""
        store = self._place.existing()
        if store is not None:
            store.optimize()

    def close(self) -> None:
        """Let the folder go; the next use takes it again.

        Other processes can open it when the last store of this process on it has let it go.
        """
        self._place.close()

    def _write(
        self, documents: list[Document], ids: list[str], vectors: list[list[float]]
    ) -> list[str]:
        if documents:
            self._place.store(len(vectors[0])).write(
                ids,
                [document.page_content for document in documents],
                [{META: document.metadata} for document in documents],
                vectors,
            )
        return ids


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


def _require_as_many(name: str, given: Sequence[object] | None, wanted: int) -> None:
    if given is not None and len(given) != wanted:
        raise InputError(f"{name} must be one for each text: got {len(given)} for {wanted} texts")
