"""A store on a Qdrant server, for many processes and machines.

A collection has the vectors "dense" and "bm25", "sparse" and "multi" if it was created with models for
them, and the manifest in its metadata. Many processes can write
at once, but two simultaneous updates of one folder are not kept apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.errors import (
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
    check_range,
    needs_extra,
)
from quaver.sparse_encoder import SparseVector
from quaver.store.filters import Compare, Filter
from quaver.store.manifest import Manifest, TokenModel
from quaver.store.payload import (
    VERSION_FIELDS,
    point_id,
    to_hit,
    to_passage,
    to_payload,
    to_version,
)
from quaver.store.protocol import (
    CANDIDATES,
    FileVersion,
    Hit,
    Mode,
    PassageTokens,
    StoredPassage,
    StoredSource,
)
from quaver.store.qdrant_filter import translated_filter
from quaver.store.query import (
    best,
    check_upsert,
    checked_rankings,
    fused,
    is_complete,
    rounded,
    with_models,
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
    MULTI,
    SPARSE,
    Link,
    collection_settings,
    search_params,
)

_PAGE = 1024
_CONFLICT = 409
_ENCODED = "encoded"
"""Field of a point's payload with the names of its sparse and token vectors."""

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
        tokens: Sequence[PassageTokens] | None = None,
    ) -> None:
        """Store passages; see `VectorStore.upsert`."""
        ids = [passage.id for passage in passages]
        check_upsert(ids, vectors, tokens, manifest=self.manifest)
        rows = [None] * len(passages) if vectors is None else vectors.tolist()
        encoded = [PassageTokens()] * len(passages) if tokens is None else tokens
        points = []
        for passage, row, one in zip(passages, rows, encoded, strict=True):
            terms = self._terms.document(embedded_text(passage.heading, passage.text))
            named: dict[str, Any] = {BM25: _sparse(terms)}
            if row is not None:
                named[DENSE] = row
            if one.sparse is not None:
                named[SPARSE] = _weights(rounded(one.sparse))
            if one.multi is not None:
                named[MULTI] = _unpacked(one.multi)
            payload = to_payload(passage, versions, late_chunking=self.manifest.late_chunking)
            if made := [name for name in (SPARSE, MULTI) if name in named]:
                payload[_ENCODED] = made
            points.append(
                models.PointStruct(id=point_id(passage.id), vector=named, payload=payload)
            )
        if points:
            self._link(self._link.client.upsert, self._link.collection, points, wait=True)

    def add_models(
        self, *, sparse: TokenModel | None = None, multi: TokenModel | None = None
    ) -> None:
        """Check that the collection has these models: a server's collection cannot get other vectors."""
        if with_models(self.manifest, self._link.location, sparse, multi) != self.manifest:
            raise StoreMismatchError(
                f"the vectors of a collection are set when it is created: {self._link.location} was created "
                "without these; make another one with --sparse or --multi"
            )

    def incomplete(self) -> list[str]:
        """Return the ids of passages that lack vectors; see `VectorStore.incomplete`."""
        kinds = [name for name in (SPARSE, MULTI) if getattr(self.manifest, name) is not None]
        if not kinds:
            return []
        lacking: list[Any] = [
            models.Filter(must_not=[CONDITIONS.any_of(_ENCODED, [name])]) for name in kinds
        ]
        records = self._scroll(models.Filter(should=lacking), fields=["id"])
        return [(record.payload or {})["id"] for record in records]

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
        sparse: SparseVector | None = None,
        multi: NDArray[np.float32] | None = None,
        candidates: int = CANDIDATES,
    ) -> list[Hit]:
        """Find the best passages; see `VectorStore.search`."""
        check_range("k", k)
        names = checked_rankings(
            self.manifest,
            self._link.location,
            mode,
            vector=vector,
            text=text,
            sparse=sparse,
            multi=multi,
            candidates=candidates,
        )
        condition = translated_filter(filter, CONDITIONS)
        depth = k if multi is None else max(k, candidates)
        limit = depth if len(names) == 1 else max(depth, CANDIDATES)
        requests = []
        if "dense" in names and vector is not None:
            params = search_params(self.manifest.vectors)
            requests.append(
                models.QueryRequest(
                    query=vector.tolist(), using=DENSE, limit=limit, filter=condition, params=params
                )
            )
        if "bm25" in names and text is not None:
            terms = self._terms.query(text)
            if terms.indices:  # otherwise no word is left to rank by
                requests.append(
                    models.QueryRequest(
                        query=_sparse(terms), using=BM25, limit=limit, filter=condition
                    )
                )
        if "sparse" in names and sparse is not None and len(sparse):
            requests.append(
                models.QueryRequest(
                    query=_weights(sparse), using=SPARSE, limit=limit, filter=condition
                )
            )
        if not requests:
            return []
        found = self._link(self._link.client.query_batch_points, self._link.collection, requests)
        rankings = [best([(str(p.id), p.score) for p in one.points], limit) for one in found]
        scores = dict(rankings[0])
        if len(names) > 1:
            scores = dict(best(fused([[i for i, _ in ranking] for ranking in rankings]), depth))
        if multi is not None and scores:
            scores = self._reranked(list(scores), multi, k)
        payloads = {str(r.id): r.payload or {} for r in self._records(list(scores))}
        return [
            to_hit(payloads[point], score, self._link.location)
            for point, score in scores.items()
            if point in payloads
        ]

    def _reranked(self, points: list[str], multi: NDArray[np.float32], k: int) -> dict[str, float]:
        """Return the best of some points by MaxSim, which the server computes."""
        found = self._link(
            self._link.client.query_points,
            self._link.collection,
            query=multi.tolist(),
            using=MULTI,
            limit=len(points),
            query_filter=models.Filter(must=[models.HasIdCondition(has_id=list(points))]),
            with_payload=False,
        )
        return dict(best([(str(p.id), p.score) for p in found.points], k))

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

    def tokens(self, ids: Sequence[str]) -> dict[str, PassageTokens]:
        """Return sparse and token vectors; see `VectorStore.tokens`."""
        wanted = {point_id(i): i for i in ids}
        found = {
            wanted[str(record.id)]: self._tokens(record)
            for record in self._records(list(wanted), with_vectors=True, with_payload=False)
        }
        return {i: one for i, one in found.items() if is_complete(one, self.manifest)}

    def tokens_of_content(self, digests: Sequence[str]) -> dict[str, PassageTokens]:
        """Return sparse and token vectors by content; see `VectorStore.tokens_of_content`."""
        found: dict[str, PassageTokens] = {}
        wanted = list(dict.fromkeys(digests))
        for first in range(0, len(wanted), _PAGE):
            condition = models.Filter(
                must=[CONDITIONS.any_of("content", wanted[first : first + _PAGE])]
            )
            for record in self._scroll(condition, with_vectors=True, fields=["content"]):
                one = self._tokens(record)
                if is_complete(one, self.manifest):
                    found[(record.payload or {})["content"]] = one
        return found

    def _tokens(self, record: models.Record) -> PassageTokens:
        """Return the sparse and token vectors of a record."""
        named: Any = record.vector if isinstance(record.vector, dict) else {}
        sparse = multi = None
        if self.manifest.sparse is not None and SPARSE in named:
            order = np.argsort(named[SPARSE].indices)
            sparse = SparseVector(
                np.asarray(named[SPARSE].indices, np.int32)[order],
                np.asarray(named[SPARSE].values, np.float32)[order],
                self.manifest.sparse.dimension,
            )
        if self.manifest.multi is not None and MULTI in named:
            multi = _packed(np.asarray(named[MULTI], np.float32))
        return PassageTokens(sparse, multi)

    @property
    def _vector_names(self) -> list[str]:
        """The vectors that are read back."""
        return [
            DENSE,
            *(name for name in (SPARSE, MULTI) if getattr(self.manifest, name) is not None),
        ]

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
        tokens = self._tokens(record) if record.vector is not None else None
        return StoredPassage(
            to_passage(payload, where), to_version(payload), _vector(record), tokens
        )

    def _records(
        self, points: Sequence[str], *, with_vectors: bool = False, with_payload: bool = True
    ) -> Iterator[models.Record]:
        for first in range(0, len(points), _PAGE):
            yield from self._link(
                self._link.client.retrieve,
                self._link.collection,
                points[first : first + _PAGE],
                with_payload=with_payload,
                with_vectors=self._vector_names if with_vectors else False,
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
                with_vectors=self._vector_names if with_vectors else False,
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


def _weights(weights: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=weights.indices.tolist(), values=weights.values.tolist())


def _unpacked(multi: NDArray[np.int8]) -> list[list[float]]:
    """Return token vectors as numbers; a server has no empty ones, so zeros stand for a passage without."""
    rows = multi if len(multi) else np.zeros((1, multi.shape[1]), np.int8)
    unpacked: list[list[float]] = (rows.astype(np.float32) / 127).tolist()
    return unpacked


def _packed(rows: NDArray[np.float32]) -> NDArray[np.int8]:
    packed: NDArray[np.int8] = np.rint(rows * 127).astype(np.int8)
    return packed[:0] if len(packed) == 1 and not packed.any() else packed


def _sparse(terms: Terms) -> models.SparseVector:
    return models.SparseVector(indices=terms.indices, values=terms.values)


def _vector(record: models.Record) -> NDArray[np.float32] | None:
    named = record.vector
    if not isinstance(named, dict) or DENSE not in named:
        return None
    return np.asarray(named[DENSE], dtype=np.float32)
