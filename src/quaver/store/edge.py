"""Passages in Qdrant Edge: a store in a folder, inside this process.

The folder holds ``quaver.json`` (the manifest), ``lock`` and ``shard/`` (Qdrant Edge's files). Each
passage has a vector named "dense" and a sparse one named "bm25".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from quaver.errors import StoreExistsError, StoreWriteError
from quaver.passages import Passage, embedded_text
from quaver.store import lock, manifest
from quaver.store.edge_errors import translated
from quaver.store.edge_shard import (
    BM25,
    CONDITIONS,
    DENSE,
    SEGMENT_BYTES,
    drop_unfinished,
    load_shard,
    make_shard,
    point_number,
    record_vector,
    search_params,
)
from quaver.store.filters import Compare, Filter
from quaver.store.lock import StoreLock
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
from quaver.store.query import CANDIDATES, best, check_k, check_upsert, checked_mode, fused
from quaver.store.room import holes, require_room
from quaver.store.status import UpdateNote, disk_usage, read_notes, write_notes
from quaver.store.terms import TermAnalyzer

_SHARD = "shard"
_UNFINISHED = "shard.new"
_OWN_FILES = frozenset({lock.FILE_NAME, manifest.FILE_NAME + ".new", _SHARD, _UNFINISHED})
_PAGE = 4096


class EdgeStore:
    """A ``VectorStore`` on Qdrant Edge; use ``create`` or ``open``.

    Attributes:
        path: The store's folder.
        manifest: What it was made with.
    """

    def __init__(
        self, path: Path, manifest: Manifest, shard: edge.EdgeShard, lock: StoreLock
    ) -> None:
        """Joins the parts; ``create`` and ``open`` are the usual ways.

        Args:
            path: The store's folder.
            manifest: What it was made with.
            shard: Qdrant Edge's shard, open.
            lock: The lock, held.
        """
        self.path = path
        self.manifest = manifest
        self._shard = shard
        self._lock = lock
        self._terms = TermAnalyzer(manifest.language)
        self._loose = 0  # bytes of vectors that are in no search graph yet

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether a finished store is at this path."""
        return (path / manifest.FILE_NAME).exists()

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> EdgeStore:
        """Makes an empty store; one whose creation was interrupted is made anew.

        Args:
            path: A folder that does not exist or is empty; its parents are made.
            manifest: What the store is made with.

        Returns:
            The open store.

        Raises:
            StoreExistsError: Something else is at this path.
            StoreLockedError: Another process is making a store here.
            StoreWriteError: The folder cannot be written or the disk is full.
        """
        if cls.exists(path):
            raise StoreExistsError(
                f"a new store needs an empty folder: there is a store at {path}; open it"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in _OWN_FILES)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreExistsError(
                f"a new store needs an empty folder: {path} is or lies below a file"
            ) from error
        except OSError as error:
            raise StoreWriteError(f"cannot make the folder {path}: {error.strerror}") from error
        if foreign:
            raise StoreExistsError(
                f"a new store needs an empty folder: {path} holds {foreign[0]}; give another path"
            )
        lock = StoreLock(path)
        try:
            require_room(path, 0)
            make_shard(path / _UNFINISHED, path / _SHARD, manifest)
            shard = load_shard(path / _SHARD)
            manifest.write(path)
        except BaseException:
            lock.release()
            raise
        return cls(path, manifest, shard, lock)

    @classmethod
    def open(cls, path: Path) -> EdgeStore:
        """Opens a store.

        Args:
            path: The store's folder.

        Returns:
            The open store.

        Raises:
            StoreNotFoundError: There is no store at this path.
            StoreMismatchError: Another version of Quaver wrote it.
            StoreLockedError: Another process holds it.
            StoreWriteError: The folder cannot be written (searching, too, needs a lock), or the
                disk is full.
            StoreError: Its files are broken.
        """
        manifest = Manifest.read(path)
        lock = StoreLock(path)
        try:
            drop_unfinished(path / _SHARD)
            # Loading reads its vector files whole, and on some file systems that fills their holes.
            require_room(path, holes(path / _SHARD, "**/vectors/*.mmap"))
            shard = load_shard(path / _SHARD)
        except BaseException:
            lock.release()
            raise
        return cls(path, manifest, shard, lock)

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        versions: Mapping[str, FileVersion] | None = None,
    ) -> None:
        """Stores passages; see ``VectorStore.upsert``.

        Raises:
            InputError: The vectors do not fit the passages or the store.
            StoreWriteError: The disk is full or cannot be written.
        """
        check_upsert(
            [passage.id for passage in passages], vectors, dimension=self.manifest.dimension
        )
        if not passages:
            return
        rows = [None] * len(passages) if vectors is None else vectors.tolist()
        points = [
            self._point(passage, row, versions) for passage, row in zip(passages, rows, strict=True)
        ]
        # Log and segment both hold the data; twice that leaves space for their growth in steps.
        size = sum(
            2 * len(passage.text.encode("utf-8", "replace")) + len(passage.heading) + 512
            for passage in passages
        )
        require_room(self.path, 4 * (size + (0 if vectors is None else vectors.nbytes)))
        with translated(f"cannot store {len(points)} passages in {self.path}"):
            self._shard.update(edge.UpdateOperation.upsert_points(points))
        self._loose += 0 if vectors is None else vectors.nbytes

    def _point(
        self,
        passage: Passage,
        row: list[float] | None,
        versions: Mapping[str, FileVersion] | None,
    ) -> edge.Point:
        terms = self._terms.document(embedded_text(passage.heading, passage.text))
        named: dict[str, Any] = {BM25: edge.SparseVector(terms.indices, terms.values)}
        if row is not None:
            named[DENSE] = row
        return edge.Point(
            id=point_id(passage.id), vector=named, payload=to_payload(passage, versions)
        )

    def flush(self) -> None:
        """Returns when everything before is on disk; see ``VectorStore.flush``."""
        with translated(f"cannot write {self.path}"):
            self._shard.flush()
        if self._loose >= SEGMENT_BYTES:
            self.optimize()

    def search(
        self,
        vector: NDArray[np.float32] | None = None,
        *,
        k: int,
        text: str | None = None,
        mode: Mode | None = None,
        filter: Filter | None = None,
    ) -> list[Hit]:
        """Finds the best passages; see ``VectorStore.search``.

        Raises:
            InputError: An argument breaks its rule.
        """
        check_k(k)
        mode = checked_mode(vector, text, mode, dimension=self.manifest.dimension)
        condition = translated_filter(filter, CONDITIONS)
        limit = max(k, CANDIDATES) if mode == "hybrid" else k
        requests = []
        if mode != "bm25" and vector is not None:
            query = edge.Query.Nearest(vector.tolist(), using=DENSE)
            params = search_params(self.manifest.vectors)
            requests.append(
                edge.QueryRequest(limit=limit, query=query, params=params, filter=condition)
            )
        if mode != "dense" and text is not None:
            terms = self._terms.query(text)
            if terms.indices:  # else no word is left of it: there is nothing to rank by
                sparse = edge.SparseVector(terms.indices, terms.values)
                query = edge.Query.Nearest(sparse, using=BM25)
                requests.append(edge.QueryRequest(limit=limit, query=query, filter=condition))
        with translated(f"cannot search {self.path}"):
            found = self._shard.query_batch(edge.QueryBatchRequest(requests)) if requests else []
        rankings = [best([(point_number(p), p.score) for p in points], limit) for points in found]
        scores = dict(rankings[0]) if rankings else {}
        if mode == "hybrid":
            scores = dict(best(fused([[i for i, _ in ranking] for ranking in rankings]), k))
        records = self._records([UUID(int=number) for number in scores])
        payloads = {point_number(record): record.payload or {} for record in records}
        return [
            to_hit(payloads[number], score, self.path)
            for number, score in scores.items()
            if number in payloads
        ]

    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPassage]:
        """Returns stored passages; see ``VectorStore.get``."""
        found: dict[str, StoredPassage] = {}
        for record in self._records([point_id(i) for i in ids], with_vectors=with_vectors):
            stored = self._stored(record)
            found[stored.passage.id] = stored
        return [found[i] for i in dict.fromkeys(ids) if i in found]

    def scan(
        self, filter: Filter | None = None, *, with_vectors: bool = False
    ) -> Iterator[StoredPassage]:
        """Yields stored passages; see ``VectorStore.scan``."""
        for record in self._scroll(translated_filter(filter, CONDITIONS), True, with_vectors):
            yield self._stored(record)

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Returns stored vectors; see ``VectorStore.vectors``."""
        wanted = {point_id(i): i for i in ids}
        found = {
            wanted[str(record.id)]: record_vector(record)
            for record in self._records(list(wanted), with_vectors=True, with_payload=False)
        }
        return {i: vector for i, vector in found.items() if vector is not None}

    def vectors_of_content(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Returns vectors by content; see ``VectorStore.vectors_of_content``."""
        found: dict[str, NDArray[np.float32]] = {}
        wanted = list(dict.fromkeys(digests))
        for first in range(0, len(wanted), _PAGE):
            # A condition of its own: "content" is no field that a filter can name.
            match = edge.MatchAny(wanted[first : first + _PAGE])
            condition = edge.Filter(must=[edge.FieldCondition(key="content", match=match)])
            for record in self._scroll(condition, ["content"], True):
                vector = record_vector(record)
                if vector is not None:
                    found[(record.payload or {})["content"]] = vector
        return found

    def delete(self, ids: Sequence[str]) -> None:
        """Removes passages; see ``VectorStore.delete``."""
        if ids:
            require_room(self.path, 128 * len(ids))
            points: list[Any] = [point_id(i) for i in ids]
            with translated(f"cannot delete from {self.path}"):
                self._shard.update(edge.UpdateOperation.delete_points(points))

    def delete_matching(self, filter: Filter) -> int:
        """Removes what matches; see ``VectorStore.delete_matching``."""
        ids = [
            str(record.id)
            for record in self._scroll(translated_filter(filter, CONDITIONS), False, False)
        ]
        self.delete(ids)
        return len(ids)

    def count(self, filter: Filter | None = None) -> int:
        """Returns how many passages are stored, or match."""
        condition = translated_filter(filter, CONDITIONS)
        with translated(f"cannot read {self.path}"):
            return self._shard.count(edge.CountRequest(exact=True, filter=condition))

    def roots(self) -> dict[str, int]:
        """Returns how many passages are stored of each root."""
        records = self._scroll(None, ["root"], False)
        return dict(Counter((record.payload or {})["root"] for record in records))

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Returns what is stored of each source of a root; see ``VectorStore.sources``."""
        sources: dict[str, StoredSource] = {}
        condition = translated_filter(Compare("root", "==", root), CONDITIONS)
        for record in self._scroll(condition, ["id", "source", *VERSION_FIELDS], False):
            payload = record.payload or {}
            stored = sources.setdefault(payload["source"], StoredSource())
            stored.ids.setdefault(to_version(payload), set()).add(payload["id"])
        return sources

    def _stored(self, record: edge.Record) -> StoredPassage:
        payload = record.payload or {}
        return StoredPassage(
            to_passage(payload, self.path), to_version(payload), record_vector(record)
        )

    def _records(
        self, points: list[Any], *, with_vectors: bool = False, with_payload: bool = True
    ) -> Iterator[edge.Record]:
        for first in range(0, len(points), _PAGE):
            with translated(f"cannot read {self.path}"):
                page = self._shard.retrieve(
                    points[first : first + _PAGE],
                    with_payload=with_payload,
                    with_vector=[DENSE] if with_vectors else False,
                )
            yield from page

    def _scroll(
        self, condition: edge.Filter | None, with_payload: bool | list[str], with_vectors: bool
    ) -> Iterator[edge.Record]:
        """Yields every matching record, a page at a time."""
        offset: Any = None
        while True:
            request = edge.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=condition,
                with_payload=with_payload,
                with_vector=[DENSE] if with_vectors else False,
            )
            with translated(f"cannot read {self.path}"):
                records, offset = self._shard.scroll(request)
            yield from records
            if offset is None:
                return

    def note_update(self, root: str, note: UpdateNote | None) -> None:
        """Keeps what an update left to tell; see ``VectorStore.note_update``."""
        notes = read_notes(self.path)
        notes.pop(root, None)
        write_notes(self.path, notes if note is None else {**notes, root: note})

    def notes(self) -> dict[str, UpdateNote]:
        """Returns what was kept of updates, by root."""
        return read_notes(self.path)

    def size(self) -> int:
        """Returns the bytes that the store takes on the disk."""
        return disk_usage(self.path)

    def optimize(self) -> None:
        """Builds the search graph where enough is stored, and drops what was deleted."""
        # Segments are rewritten beside the old ones, which go away afterwards.
        used = sum(
            file.stat().st_blocks * 512
            for file in (self.path / _SHARD).rglob("*")
            if file.is_file()
        )
        state = "what is stored stays, searching is only slower"
        require_room(self.path, 2 * used, then=f"{state}; make room and run it again")
        with translated(f"cannot optimize {self.path} ({state})"):
            self._shard.optimize()
        self._loose = 0

    def close(self) -> None:
        """Writes what is pending and releases the lock; further calls do nothing."""
        if self._lock.held:
            try:
                with translated(f"cannot close {self.path}"):
                    self._shard.close()
            finally:
                self._lock.release()
