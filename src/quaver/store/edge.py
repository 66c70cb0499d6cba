"""Passages in Qdrant Edge: a store in a folder, inside this process.

The folder holds ``quaver.json`` (the manifest), ``lock`` and ``shard/`` (Qdrant Edge's files). The
vector is named "dense", so that a sparse one for hybrid search can stand beside it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from quaver.errors import (
    InputError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreWriteError,
)
from quaver.passages import Passage
from quaver.store import lock, manifest
from quaver.store.lock import StoreLock
from quaver.store.manifest import Manifest
from quaver.store.protocol import FileVersion, Hit, StoredSource
from quaver.store.room import holes, require_room

_VECTOR = "dense"
_SHARD = "shard"
_UNFINISHED = "shard.new"
_OWN_FILES = frozenset({lock.FILE_NAME, manifest.FILE_NAME + ".new", _SHARD, _UNFINISHED})
_PAGE = 4096
_HIT_FIELDS = ("text", "source", "heading", "start", "end", "root")
_FILTERS = ("source", "heading", "root")


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
            _make_shard(path, manifest.dimension)
            shard = _load_shard(path)
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
            # Loading reads its vector files whole, and on some file systems that fills their holes.
            require_room(path, holes(path / _SHARD, "**/vectors/*.mmap"))
            shard = _load_shard(path)
        except BaseException:
            lock.release()
            raise
        return cls(path, manifest, shard, lock)

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32],
        *,
        versions: Mapping[str, FileVersion] | None = None,
    ) -> None:
        """Stores passages; see ``VectorStore.upsert``.

        Raises:
            InputError: The vectors do not fit the passages or the store.
            StoreWriteError: The disk is full or cannot be written.
        """
        expected = (len(passages), self.manifest.dimension)
        if vectors.shape != expected:
            raise InputError(
                f"vectors must have one row per passage: got shape {vectors.shape}, "
                f"expected {expected}"
            )
        if not passages:
            return
        points = [
            edge.Point(
                id=passage.id, vector={_VECTOR: row.tolist()}, payload=_payload(passage, versions)
            )
            for passage, row in zip(passages, vectors, strict=True)
        ]
        # Log and segment both hold the data; twice that leaves space for their growth in steps.
        size = vectors.nbytes + sum(
            len(passage.text.encode()) + len(passage.heading) + 512 for passage in passages
        )
        require_room(self.path, 4 * size)
        with _translated(f"cannot store {len(points)} passages in {self.path}"):
            self._shard.update(edge.UpdateOperation.upsert_points(points))

    def flush(self) -> None:
        """Returns when everything before is on disk; see ``VectorStore.flush``."""
        with _translated(f"cannot write {self.path}"):
            self._shard.flush()

    def search(
        self, vector: NDArray[np.float32], *, k: int, filter: Mapping[str, str] | None = None
    ) -> list[Hit]:
        """Finds the nearest passages; see ``VectorStore.search``.

        Raises:
            InputError: The vector has another dimension, k is below 1, or the filter names an
                unknown field.
        """
        if vector.shape != (self.manifest.dimension,):
            raise InputError(
                f"a query vector must have shape ({self.manifest.dimension},): got {vector.shape}"
            )
        if k < 1:
            raise InputError(f"k must be at least 1: got {k}")
        request = edge.QueryRequest(
            query=edge.Query.Nearest(vector.tolist(), using=_VECTOR),
            limit=k,
            filter=_condition(filter),
            with_payload=True,
        )
        with _translated(f"cannot search {self.path}"):
            found = self._shard.query(request)
        # Equal scores are ordered by id: the same query gives the same list every time.
        hits = [_hit(str(point.id), point.score, point.payload or {}, self.path) for point in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Returns stored vectors; see ``VectorStore.vectors``."""
        found: dict[str, NDArray[np.float32]] = {}
        for first in range(0, len(ids), _PAGE):
            with _translated(f"cannot read {self.path}"):
                page: list[Any] = list(ids[first : first + _PAGE])
                records = self._shard.retrieve(page, with_payload=False, with_vector=True)
            for record in records:
                named = record.vector
                if isinstance(named, dict):
                    found[str(record.id)] = np.asarray(named[_VECTOR], dtype=np.float32)
        return found

    def delete(self, ids: Sequence[str]) -> None:
        """Removes passages; see ``VectorStore.delete``."""
        if ids:
            require_room(self.path, 128 * len(ids))
            with _translated(f"cannot delete from {self.path}"):
                self._shard.update(edge.UpdateOperation.delete_points(list(ids)))

    def count(self) -> int:
        """Returns how many passages are stored."""
        with _translated(f"cannot read {self.path}"):
            return self._shard.count(edge.CountRequest(exact=True))

    def roots(self) -> dict[str, int]:
        """Returns how many passages are stored of each root."""
        return dict(Counter(payload["root"] for _, payload in self._payloads(["root"])))

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Returns what is stored of each source of a root; see ``VectorStore.sources``."""
        sources: dict[str, StoredSource] = {}
        fields = ["source", "file_digest", "file_passages"]
        for identity, payload in self._payloads(fields, {"root": root}):
            digest = payload.get("file_digest")
            version = FileVersion(digest, payload["file_passages"]) if digest else None
            stored = sources.setdefault(payload["source"], StoredSource())
            stored.ids.setdefault(version, set()).add(identity)
        return sources

    def _payloads(
        self, fields: list[str], filter: Mapping[str, str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields id and some payload of every stored passage."""
        offset: Any = None
        while True:
            request = edge.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=_condition(filter),
                with_payload=fields,
                with_vector=False,
            )
            with _translated(f"cannot read {self.path}"):
                records, offset = self._shard.scroll(request)
            for record in records:
                yield str(record.id), record.payload or {}
            if offset is None:
                return

    def optimize(self) -> None:
        """Builds the search graph where enough is stored, and drops what was deleted."""
        # Segments are rewritten beside the old ones, which go away afterwards.
        used = sum(
            file.stat().st_blocks * 512
            for file in (self.path / _SHARD).rglob("*")
            if file.is_file()
        )
        state = "everything is stored, searching is only slower"
        require_room(self.path, 2 * used, then=f"{state}; make room and run it again")
        with _translated(f"cannot optimize {self.path} ({state})"):
            self._shard.optimize()

    def close(self) -> None:
        """Writes what is pending and releases the lock; further calls do nothing."""
        if self._lock.held:
            try:
                with _translated(f"cannot close {self.path}"):
                    self._shard.close()
            finally:
                self._lock.release()


def _make_shard(path: Path, dimension: int) -> None:
    """Makes the shard under another name and renames it, so that none is half made."""
    try:
        for rest in (_UNFINISHED, _SHARD):
            if (path / rest).exists():
                shutil.rmtree(path / rest)
        (path / _UNFINISHED).mkdir()
    except OSError as error:
        raise StoreWriteError(f"cannot write {path}: {error.strerror}") from error
    config = edge.EdgeConfig(
        vectors={_VECTOR: edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)}
    )
    with _translated(f"cannot make a store at {path}"):
        edge.EdgeShard.create(str(path / _UNFINISHED), config).close()
    (path / _UNFINISHED).rename(path / _SHARD)


def _load_shard(path: Path) -> edge.EdgeShard:
    """Opens the shard of a store."""
    with _translated(f"cannot open the store at {path}"):
        return edge.EdgeShard.load(str(path / _SHARD))


def _payload(passage: Passage, versions: Mapping[str, FileVersion] | None) -> dict[str, Any]:
    """Returns what is stored beside a vector."""
    payload: dict[str, Any] = {
        "text": passage.text,
        "source": passage.source,
        "heading": passage.heading,
        "start": passage.start,
        "end": passage.end,
        "root": passage.root,
    }
    if versions is not None:
        version = versions[passage.source]
        payload |= {"file_digest": version.digest, "file_passages": version.passages}
    return payload


def _hit(identity: str, score: float, payload: dict[str, Any], path: Path) -> Hit:
    """Builds a hit from what is stored."""
    try:
        return Hit(identity, score, *(payload[name] for name in _HIT_FIELDS))
    except KeyError as error:
        raise StoreError(
            f"passage {identity} in {path} lacks {error.args[0]!r}: the store is broken; "
            "index again into another folder"
        ) from error


def _condition(filter: Mapping[str, str] | None) -> edge.Filter | None:
    """Translates a filter."""
    if not filter:
        return None
    unknown = sorted(set(filter) - set(_FILTERS))
    if unknown:
        raise InputError(f"a filter can name {', '.join(_FILTERS)}: got {unknown[0]!r}")
    return edge.Filter(
        must=[edge.FieldCondition(key=k, match=edge.MatchValue(v)) for k, v in filter.items()]
    )


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turns Qdrant Edge's errors, all of them plain ``Exception``, into ours by their text."""
    try:
        yield
    except BaseException as error:
        # Damaged files can make its Rust code panic; that class has no public name and is no
        # Exception.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        message = f"{doing}: {error}"
        if "WouldBlock" in str(error):
            raise StoreLockedError(message) from error
        if any(sign in str(error) for sign in _WRITE_SIGNS):
            raise StoreWriteError(message) from error
        raise StoreError(f"{message}; if it stays so, index again into another folder") from error


_WRITE_SIGNS = (
    "No space left",
    "StorageFull",
    "PermissionDenied",
    "Permission denied",
    "ReadOnly",
    "FileTooLarge",
    "File too large",
    "os error 28",
)
