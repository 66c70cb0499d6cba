"""A store on a Qdrant server, for many processes and machines.

A collection has the vectors "dense" and "bm25", and the manifest in its metadata. Many processes
can write at once, but two simultaneous updates of one folder are not kept apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.errors import StoreExistsError, StoreNotFoundError, check_range, needs_extra
from quaver.store.filters import Compare, Filter
from quaver.store.manifest import Manifest
from quaver.store.payload import (
    VERSION_FIELDS,
    point_id,
    to_hit,
    to_passage,
    to_payload,
    to_version,
)
from quaver.store.protocol import FileVersion, Hit, Mode, StoredPassage, StoredSource
from quaver.store.qdrant_filter import translated_filter
from quaver.store.query import (
    CANDIDATES,
    best,
    check_upsert,
    checked_mode,
    fused,
)
from quaver.store.status import UpdateNote
from quaver.store.terms import TermAnalyzer, Terms

with needs_extra("qdrant"):
    from qdrant_client import QdrantClient, models
    from qdrant_client.http.exceptions import UnexpectedResponse

from quaver.store.qdrant_connection import (
    BM25,
    CONDITIONS,
    DENSE,
    MANIFEST_KEY,
    Link,
    collection_settings,
    search_params,
)

_PAGE = 1024
_CONFLICT = 409
_INDEXED = ("root", "content")
"""Finds the passages of a root, and vectors by content, without reading every payload."""


class QdrantStore:
    """A `VectorStore` on a Qdrant server; use `create` or `open`.

    Attributes:
        manifest: the store's manifest.
    """

    def __init__(self, link: Link, manifest: Manifest) -> None:
        """Combine a connection and a manifest; most callers use `create` or `open`.

        Args:
            link: the connection to the collection.
            manifest: the store's manifest.
        """
        self.manifest = manifest
        self._link = link
        self._terms = TermAnalyzer(manifest.language)

    @classmethod
    def exists(cls, location: str, client: QdrantClient | None = None) -> bool:
        """Return whether there is a collection of this name.

        Args:
            location: `qdrant://host:port/collection`, or `qdrant+https://...`.
            client: a client to use instead of a new one for the location.

        Raises:
            StoreUnavailableError: the server cannot be reached.
        """
        link = Link(location, client)
        return bool(link(link.client.collection_exists, link.collection))

    @classmethod
    def create(
        cls, location: str, manifest: Manifest, client: QdrantClient | None = None
    ) -> QdrantStore:
        """Create an empty collection.

        Args:
            location: as for `exists`.
            manifest: the manifest of the new store.
            client: as for `exists`.

        Returns:
            the open store.

        Raises:
            StoreExistsError: there is a collection of this name.
            StoreUnavailableError: the server cannot be reached.
        """
        link = Link(location, client)
        if cls.exists(location, link.client):
            raise StoreExistsError(
                f"a new store needs a name of its own: there is a collection at {location}; open it"
            )
        settings = collection_settings(manifest)

        def make() -> None:
            try:
                link.client.create_collection(link.collection, **settings)
            except UnexpectedResponse as error:
                # An earlier attempt may have created it, with its answer lost.
                if error.status_code != _CONFLICT:
                    raise
                if _manifest(link.client.get_collection(link.collection)) != manifest.to_json():
                    raise

        link(make)
        _make_indexes(link, ())
        return cls(link, manifest)

    @classmethod
    def open(cls, location: str, client: QdrantClient | None = None) -> QdrantStore:
        """Open a collection.

        Args:
            location: as for `exists`.
            client: as for `exists`.

        Returns:
            the open store.

        Raises:
            StoreNotFoundError: there is no such collection, or Quaver did not create it.
            StoreMismatchError: another version of Quaver created it.
            StoreUnavailableError: the server cannot be reached.
        """
        link = Link(location, client)
        if not cls.exists(location, link.client):
            raise StoreNotFoundError(
                f"there is no collection at {location}; make one with `quaver index`"
            )
        info = link(link.client.get_collection, link.collection)
        text = _manifest(info)
        if not isinstance(text, str):
            raise StoreNotFoundError(
                f"the collection at {location} was not made by Quaver; use another name"
            )
        store = cls(link, Manifest.parse(text, where=location))
        # Its creation may have been interrupted after the collection itself.
        _make_indexes(link, info.payload_schema)
        return store

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        versions: Mapping[str, FileVersion] | None = None,
    ) -> None:
        """Store passages; see `VectorStore.upsert`."""
        ids = [passage.id for passage in passages]
        check_upsert(ids, vectors, dimension=self.manifest.dimension)
        rows = [None] * len(passages) if vectors is None else vectors.tolist()
        points = []
        for passage, row in zip(passages, rows, strict=True):
            terms = self._terms.document(embedded_text(passage.heading, passage.text))
            named: dict[str, Any] = {BM25: _sparse(terms)}
            if row is not None:
                named[DENSE] = row
            points.append(
                models.PointStruct(
                    id=point_id(passage.id), vector=named, payload=to_payload(passage, versions)
                )
            )
        if points:
            self._link(self._link.client.upsert, self._link.collection, points, wait=True)

    def flush(self) -> None:
        """Do nothing: a write returns when the server has logged it."""

    def search(
        self,
        vector: NDArray[np.float32] | None = None,
        *,
        k: int,
        text: str | None = None,
        mode: Mode | None = None,
        filter: Filter | None = None,
    ) -> list[Hit]:
        """Find the best passages; see `VectorStore.search`."""
        check_range("k", k)
        mode = checked_mode(vector, text, mode, dimension=self.manifest.dimension)
        condition = translated_filter(filter, CONDITIONS)
        limit = max(k, CANDIDATES) if mode == "hybrid" else k
        requests = []
        if mode != "bm25" and vector is not None:
            params = search_params(self.manifest.vectors)
            requests.append(
                models.QueryRequest(
                    query=vector.tolist(), using=DENSE, limit=limit, filter=condition, params=params
                )
            )
        if mode != "dense" and text is not None:
            terms = self._terms.query(text)
            if terms.indices:  # otherwise no word is left to rank by
                requests.append(
                    models.QueryRequest(
                        query=_sparse(terms), using=BM25, limit=limit, filter=condition
                    )
                )
        if not requests:
            return []
        found = self._link(self._link.client.query_batch_points, self._link.collection, requests)
        rankings = [best([(str(p.id), p.score) for p in one.points], limit) for one in found]
        scores = dict(rankings[0])
        if mode == "hybrid":
            scores = dict(best(fused([[i for i, _ in ranking] for ranking in rankings]), k))
        payloads = {str(r.id): r.payload or {} for r in self._records(list(scores))}
        return [
            to_hit(payloads[point], score, self._link.location)
            for point, score in scores.items()
            if point in payloads
        ]

    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPassage]:
        """Return stored passages; see `VectorStore.get`."""
        records = self._records([point_id(i) for i in ids], with_vectors=with_vectors)
        found = {stored.passage.id: stored for stored in map(self._stored, records)}
        return [found[i] for i in dict.fromkeys(ids) if i in found]

    def scan(
        self, filter: Filter | None = None, *, with_vectors: bool = False
    ) -> Iterator[StoredPassage]:
        """Yield stored passages; see `VectorStore.scan`."""
        condition = translated_filter(filter, CONDITIONS)
        for record in self._scroll(condition, with_vectors=with_vectors):
            yield self._stored(record)

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return stored vectors; see `VectorStore.vectors`."""
        wanted = {point_id(i): i for i in ids}
        found = {
            wanted[str(record.id)]: _vector(record)
            for record in self._records(list(wanted), with_vectors=True, with_payload=False)
        }
        return {i: vector for i, vector in found.items() if vector is not None}

    def vectors_of_content(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return vectors by content; see `VectorStore.vectors_of_content`."""
        found: dict[str, NDArray[np.float32]] = {}
        wanted = list(dict.fromkeys(digests))
        for first in range(0, len(wanted), _PAGE):
            condition = models.Filter(
                must=[CONDITIONS.any_of("content", wanted[first : first + _PAGE])]
            )
            for record in self._scroll(condition, with_vectors=True, fields=["content"]):
                vector = _vector(record)
                if vector is not None:
                    found[(record.payload or {})["content"]] = vector
        return found

    def delete(self, ids: Sequence[str]) -> None:
        """Remove passages; see `VectorStore.delete`."""
        if ids:
            points: Any = models.PointIdsList(points=[point_id(i) for i in ids])
            self._link(self._link.client.delete, self._link.collection, points, wait=True)

    def delete_matching(self, filter: Filter) -> int:
        """Remove what matches; see `VectorStore.delete_matching`."""
        condition = translated_filter(filter, CONDITIONS)
        ids = [str(record.id) for record in self._scroll(condition, fields=[])]
        self.delete(ids)
        return len(ids)

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of stored passages, or of those that match."""
        condition = translated_filter(filter, CONDITIONS)
        name = self._link.collection
        return int(
            self._link(self._link.client.count, name, count_filter=condition, exact=True).count
        )

    def roots(self) -> dict[str, int]:
        """Return the number of passages of each root."""
        records = self._scroll(None, fields=["root"])
        return dict(Counter((record.payload or {})["root"] for record in records))

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Return what is stored of each source of a root; see `VectorStore.sources`."""
        sources: dict[str, StoredSource] = {}
        condition = translated_filter(Compare("root", "==", root), CONDITIONS)
        for record in self._scroll(condition, fields=["id", "source", *VERSION_FIELDS]):
            payload = record.payload or {}
            stored = sources.setdefault(payload["source"], StoredSource())
            stored.ids.setdefault(to_version(payload), set()).add(payload["id"])
        return sources

    def note_update(self, root: str, note: UpdateNote | None) -> None:
        """Do nothing: a server stores only passages."""

    def notes(self) -> dict[str, UpdateNote]:
        """Return nothing: a server stores only passages."""
        return {}

    def require_space(self, passages: int, text_bytes: int = 0) -> None:
        """Do nothing: a server does not report its disk."""

    def size(self) -> None:
        """Return None: a server does not report it."""

    def optimize(self) -> None:
        """Do nothing: a server optimizes by itself."""

    def refresh(self) -> bool:
        """Return False: each search sees what the server has."""
        return False

    def close(self) -> None:
        """Close the connection; further calls do nothing."""
        self._link.close()

    def _stored(self, record: models.Record) -> StoredPassage:
        payload = record.payload or {}
        where = self._link.location
        return StoredPassage(to_passage(payload, where), to_version(payload), _vector(record))

    def _records(
        self, points: Sequence[str], *, with_vectors: bool = False, with_payload: bool = True
    ) -> Iterator[models.Record]:
        for first in range(0, len(points), _PAGE):
            yield from self._link(
                self._link.client.retrieve,
                self._link.collection,
                points[first : first + _PAGE],
                with_payload=with_payload,
                with_vectors=[DENSE] if with_vectors else False,
            )

    def _scroll(
        self,
        condition: models.Filter | None,
        *,
        with_vectors: bool = False,
        fields: list[str] | None = None,
    ) -> Iterator[models.Record]:
        """Yield every matching record, fetched in pages; without `fields`, with all fields."""
        offset: Any = None
        while True:
            records, offset = self._link(
                self._link.client.scroll,
                self._link.collection,
                scroll_filter=condition,
                limit=_PAGE,
                offset=offset,
                with_payload=True if fields is None else (fields or False),
                with_vectors=[DENSE] if with_vectors else False,
            )
            yield from records
            if offset is None:
                return


def _manifest(info: models.CollectionInfo) -> Any:
    """Return the manifest entry of a collection's metadata, which anybody may write."""
    return (info.config.metadata or {}).get(MANIFEST_KEY)


def _make_indexes(link: Link, present: Container[str]) -> None:
    """Create the payload indexes that are missing; creating an existing one does no harm."""
    keyword = models.PayloadSchemaType.KEYWORD
    for name in _INDEXED:
        if name not in present:
            link(link.client.create_payload_index, link.collection, name, keyword)


def _sparse(terms: Terms) -> models.SparseVector:
    return models.SparseVector(indices=terms.indices, values=terms.values)


def _vector(record: models.Record) -> NDArray[np.float32] | None:
    named = record.vector
    if not isinstance(named, dict) or DENSE not in named:
        return None
    return np.asarray(named[DENSE], dtype=np.float32)
