"""A store in a folder: one process writes, any number read, and no reader waits.

    quaver.json      the manifest: model and settings
    lock             held by the process that writes
    state.json       the committed state; see `state`
    updates.json     when folders were updated, and what could not be read; see `status`
    rows.G           a record for each passage that was ever written; see `rows`
    texts.G          their heads and texts, one after the other
    vectors.G        their vectors, float32, unit length; zeros where there is none
    sketches.G       the signs of these; see `nearest`
    dropped.G        the rows that are no longer stored
    words.G.N        which passages hold which words; see `postings`

Files are append-only or written once. A commit renames a new state.json into place once everything
it refers to is on disk. So a reader maps the committed files and reads them without a lock, even
from a read-only folder; `refresh` moves to a newer state. When a fifth of the rows has been
dropped, everything is rewritten as the next generation G, and readers keep the files that they have
open.

Each record has the checksums of its parts, state.json those of records and words. Everything is
checked when it is read, and `check` reads it all.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.disk_space import require_disk_space
from quaver.documents import Passage, embedded_text
from quaver.errors import (
    InputError,
    StoreClosedError,
    StoreError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreWriteError,
    check_range,
)
from quaver.store import lock, manifest, state, status
from quaver.store.column import Column, sync_folder
from quaver.store.fields import Field
from quaver.store.filters import Equal, Every, Filter, Negated, Plan, Some, Within, plan
from quaver.store.lock import StoreLock
from quaver.store.lookup import Lookup
from quaver.store.manifest import Manifest
from quaver.store.matching import matches
from quaver.store.nearest import EXACT_ROWS, Sketches, nearest, sketches, words_of
from quaver.store.payload import to_hit, to_passage, to_payload, to_version
from quaver.store.postings import MAX_POSTINGS, MERGE_FAN_IN, Postings, merged, scores
from quaver.store.protocol import FileVersion, Hit, Mode, StoredPassage, StoredSource
from quaver.store.query import (
    CANDIDATES,
    best,
    check_upsert,
    checked_mode,
    fused,
)
from quaver.store.rows import (
    DROPPED_RECORD,
    HAS_VECTOR,
    MAX_ROWS,
    ROW_RECORD,
    content_key,
    from_text,
    id_key,
    mixed,
    name_hash,
    seal,
    to_head,
    to_text,
)
from quaver.store.state import Run, State
from quaver.store.status import UpdateNote, folder_size, read_notes, write_notes
from quaver.store.terms import TermAnalyzer

PRECISIONS = ("float32", "int8", "binary")
"""Values of `Manifest.vectors`. A folder searches the same way with all three; see `nearest`."""

MAX_DROPPED_SHARE = 0.2
"""Share of dropped rows at which everything is rewritten."""

MIN_DROPPED = 1000
"""Number of dropped rows below which nothing is rewritten."""

_MANY_RUNS = 4
"""Number of word files up to which `optimize` merges nothing."""

_KEPT = 8
"""Number of filters whose rows, and of fields whose values, are cached until something changes."""

_STATE_BYTES = 1 << 16
"""Room that is kept for the files of a commit."""

_POSTING_BYTES = 20
"""Maximum bytes of a posting in a file of words: its row and weight, and its term if no other has it."""

_PAGE = 4096
_COLUMNS = ("rows", "texts", "vectors", "sketches", "dropped")
DATA_FILE = re.compile(rf"(?:{'|'.join(_COLUMNS)})\.(\d+)|words\.(\d+)\.(\d+)")
_OWN_FILES = {
    lock.FILE_NAME,
    *(name + end for name in (state.FILE_NAME, status.FILE_NAME) for end in ("", ".new")),
    manifest.FILE_NAME + ".new",
}


class Files:
    """The files of a generation, without its words.

    Attributes:
        rows: records of `rows.ROW`.
        texts: bytes.
        vectors: float32 (D,) each.
        sketches: uint64 (words,) each.
        dropped: records of `rows.DROPPED`.
    """

    def __init__(
        self, store: Path, generation: int, dimension: int, *, writable: bool, create: bool = False
    ) -> None:
        """Open the files.

        Args:
            store: the store's folder.
            generation: which.
            dimension: length of a vector.
            writable: whether records will be written.
            create: whether to create them, empty.

        Raises:
            FileNotFoundError: one is missing.
            StoreError: one cannot be opened.
        """
        opened: list[Column] = []
        try:
            for name, width in column_widths(dimension).items():
                path = store / f"{name}.{generation}"
                opened.append(Column(path, width, writable=writable, create=create))
        except BaseException:
            for column in opened:
                column.close()
            raise
        self.all = tuple(opened)
        self.rows, self.texts, self.vectors, self.sketches, self.dropped = opened

    def close(self) -> None:
        """Close the files; mapped views stay valid."""
        for column in self.all:
            column.close()


@dataclass(frozen=True)
class _Words:
    """A file of words and its postings."""

    path: Path
    run: Run
    data: memoryview
    postings: Postings


class FolderStore:
    """A `VectorStore` in a folder; use `create` or `open`.

    Threads may share it.

    Attributes:
        path: the store's folder.
        manifest: the store's manifest.
        read_only: whether it was opened for reading only.
    """

    def __init__(self, path: Path, manifest: Manifest, held: StoreLock | None) -> None:
        """Read the committed state; most callers use `create` or `open`.

        Args:
            path: the store's folder.
            manifest: the store's manifest.
            held: the lock; None for reading only.

        Raises:
            StoreError: the committed state cannot be read.
        """
        self.path = path
        self.manifest = manifest
        self.read_only = held is None
        self._lock = held
        self._mutex = threading.RLock()
        self._closed = False
        self._failed: str | None = None
        self._load()
        self._analyzer = TermAnalyzer(manifest.language)

    # --- Making and opening ---------------------------------------------------------------------
    @classmethod
    def exists(cls, path: Path) -> bool:
        """Return whether a complete store is at this path.

        Raises:
            StoreError: the folder above may not be entered.
        """
        try:
            return (path / manifest.FILE_NAME).exists()
        except OSError as error:
            raise StoreError(f"cannot read the store at {path}: {error.strerror}") from error

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> FolderStore:
        """Create an empty store, also over one whose creation was interrupted.

        Args:
            path: a folder that does not exist or is empty; its parents are created.
            manifest: the manifest of the new store.

        Returns:
            the open store.

        Raises:
            InputError: the manifest has an unknown kind of vectors.
            StoreExistsError: something else is at this path.
            StoreLockedError: another process is creating a store here.
            StoreWriteError: the folder cannot be written or the disk is full.
        """
        if manifest.vectors not in PRECISIONS:
            raise InputError(
                f"vectors must be one of {', '.join(PRECISIONS)}: got {manifest.vectors!r}"
            )
        if cls.exists(path):
            raise StoreExistsError(
                f"a new store needs an empty folder: there is a store at {path}; open it"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = sorted(entry.name for entry in path.iterdir())
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreExistsError(
                f"a new store needs an empty folder: {path} is a file or below one"
            ) from error
        except OSError as error:
            raise StoreWriteError(f"cannot make the folder {path}: {error.strerror}") from error
        foreign = [n for n in names if n not in _OWN_FILES and not DATA_FILE.fullmatch(n)]
        if foreign:
            raise StoreExistsError(
                f"a new store needs an empty folder: {path} holds {foreign[0]}; give another path"
            )
        held = StoreLock(path)
        try:
            # Again, now that nobody else can create one.
            if cls.exists(path):
                raise StoreExistsError(
                    f"a new store needs an empty folder: there is a store at {path}; open it"
                )
            if holds_data(path):
                raise StoreExistsError(_without_manifest(path))
            make_empty(path, manifest, generation=1)
            manifest.write(path)
            return cls(path, manifest, held)
        except BaseException:
            held.release()
            raise

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, wait: float = 0.0) -> FolderStore:
        """Open a store.

        Args:
            path: the store's folder.
            read_only: open for reading the committed state, without the lock; the folder need not
                be writable.
            wait: seconds to wait for another process that writes.

        Returns:
            the open store.

        Raises:
            StoreNotFoundError: there is no store at this path.
            StoreMismatchError: another version of Quaver wrote it.
            StoreLockedError: another process writes to it.
            StoreWriteError: the folder cannot be written, and `read_only` is False.
            StoreError: its files are broken.
        """
        found = cls._readable(path)
        held = None if read_only else StoreLock(path, wait=wait)
        try:
            # Read again once it is locked: it may have been repaired meanwhile.
            store = cls(path, found if held is None else cls._readable(path), held)
            if held is not None:
                store._tidy()
        except BaseException:
            if held is not None:
                held.release()
            raise
        return store

    @staticmethod
    def _readable(path: Path) -> Manifest:
        try:
            return Manifest.read(path)
        except StoreNotFoundError:
            if holds_data(path):
                raise StoreError(_without_manifest(path)) from None
            raise

    def _load(self) -> None:
        """Open the files of the committed state and check sizes, records and removals."""
        for attempt in range(10):
            committed = State.read(self.path)
            try:
                self._opened(committed)
                return
            except FileNotFoundError as error:
                # A writer started a new generation in between, or the file is really gone.
                if attempt and State.read(self.path).commit == committed.commit:
                    raise StoreError(
                        f"{error.filename} is missing; `quaver check {self.path} --repair` "
                        "restores what can be"
                    ) from error
        raise StoreError(f"{self.path} changes faster than it can be opened; try again")

    def _opened(self, committed: State) -> None:
        if not same_space(committed.manifest, self.manifest):
            raise StoreError(
                f"{self.path / manifest.FILE_NAME} and {state.FILE_NAME} contradict each other: one "
                f"is broken; `quaver check {self.path} --repair` restores it"
            )
        files = Files(
            self.path, committed.generation, self.manifest.dimension, writable=not self.read_only
        )
        try:
            for column, count in zip(files.all, _counts(committed), strict=True):
                if column.records() < count:
                    raise StoreError(
                        f"{column.path} must hold {count * column.width} bytes, it is shorter; "
                        f"`quaver check {self.path} --repair` restores what can be"
                    )
            for column, count, wanted in (
                (files.rows, committed.rows, committed.rows_sum),
                (files.dropped, committed.dropped, committed.dropped_sum),
            ):
                if zlib.crc32(column.view(count)) != wanted:
                    raise self._broken(column.path)
            records = np.frombuffer(files.rows.view(committed.rows), ROW_RECORD)
            alive = np.ones(committed.rows, np.bool_)
            dropped = np.frombuffer(files.dropped.view(committed.dropped), DROPPED_RECORD)["row"]
            if len(dropped) and int(dropped.max()) >= committed.rows:
                raise self._broken(files.dropped.path)
            alive[dropped] = False
            words = [self._words(committed, run) for run in committed.runs]
        except BaseException:
            files.close()
            raise
        with self._mutex:
            self._files = files
            self._state = committed
            self._next_run = committed.next_run
            self._rows, self._texts, self._dropped = (
                committed.rows,
                committed.texts,
                committed.dropped,
            )
            self._rows_sum, self._dropped_sum = committed.rows_sum, committed.dropped_sum
            self._alive = alive
            self._vectored = (records["flags"] & HAS_VECTOR).astype(np.bool_)
            self._count = int(alive.sum())
            self._written: list[_Words] = words
            self._pending: list[tuple[NDArray[np.uint32], ...]] = []
            self._pending_words: Postings | None = None
            self._retired: list[Path] = []
            # Files of words whose checksum was compared, or that this process wrote.
            self._checked: set[Path] = set()
            self._lookups: dict[str, Lookup] = {}
            self._sketches: Sketches | None = None
            self._filtered: dict[str, NDArray[np.intp]] = {}
            self._fields: dict[str, Field] = {}

    def _words(self, committed: State, run: Run) -> _Words:
        path = self.path / f"words.{committed.generation}.{run.number}"
        column = Column(path, 1, writable=False)
        try:
            if column.records() != run.size:
                raise self._broken(path)
            data = column.view(run.size)
            return _Words(path, run, data, Postings.read(data, path))
        finally:
            column.close()

    def _tidy(self) -> None:
        """Drop what a killed writer left: uncommitted records and unknown files."""
        for column, count in zip(self._files.all, _counts(self._state), strict=True):
            column.cut(count)
        self.drop_strangers(self.path, self._state)

    @staticmethod
    def drop_strangers(path: Path, committed: State) -> None:
        """Delete files with names of a store that the committed state does not list.

        Args:
            path: the store's folder, whose lock is held.
            committed: the state.
        """
        runs = {run.number for run in committed.runs}
        for entry in path.iterdir():
            found = DATA_FILE.fullmatch(entry.name)
            if found is None:
                continue
            generation, of_words, number = found.groups()
            if int(generation or of_words) == committed.generation and (
                number is None or int(number) in runs
            ):
                continue
            with suppress(OSError):  # it does no harm
                entry.unlink()

    def _broken(self, path: Path) -> StoreError:
        return StoreError(
            f"{path} is broken: its checksum does not fit; `quaver check {self.path} --repair` "
            "restores what can be"
        )

    def refresh(self) -> bool:
        """Move to the newest committed state; see `VectorStore.refresh`."""
        with self._mutex:
            self._require_open()
            if not self.read_only:
                return False
            before, generation = self._files, self._state.generation
            drawn, fields = self._sketches, self._fields
            committed = State.read(self.path)
            if committed.commit == self._state.commit:
                return False
            if not same_space(committed.manifest, self.manifest):
                raise StoreMismatchError(
                    f"the store at {self.path} was created again with other settings: open it again"
                )
            self._load()
            before.close()
            if self._state.generation == generation:
                self._sketches, self._fields = drawn, fields  # they take what the new rows have
            return True

    # --- Writing --------------------------------------------------------------------------------
    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        versions: Mapping[str, FileVersion] | None = None,
    ) -> None:
        """Store passages; see `VectorStore.upsert`.

        Raises:
            InputError: the vectors do not fit the passages or the store.
            StoreWriteError: the disk is full or cannot be written.
        """
        self._require_writable()
        check_upsert(
            [passage.id for passage in passages], vectors, dimension=self.manifest.dimension
        )
        if not passages:
            return
        records = np.zeros(len(passages), ROW_RECORD)
        parts: list[bytes] = []
        terms: list[int] = []
        weights: list[float] = []
        lengths: list[int] = []
        for record, passage in zip(records, passages, strict=True):
            payload = to_payload(passage, versions)
            head, text = to_head(payload), to_text(passage.text)
            parts += (head, text)
            record["id"] = id_key(passage.id)
            record["content"] = content_key(payload["content"])
            record["root"], record["source"] = name_hash(passage.root), name_hash(passage.source)
            record["head"], record["text"] = len(head), len(text)
            record["head_sum"], record["text_sum"] = zlib.crc32(head), zlib.crc32(text)
            found = self._analyzer.document(embedded_text(passage.heading, passage.text))
            terms += found.indices
            weights += found.values
            lengths.append(len(found.indices))
        matrix = np.zeros((len(passages), self.manifest.dimension), np.float32)
        if vectors is not None:
            matrix[:] = unit(vectors)
            records["flags"] = HAS_VECTOR
            records["vector_sum"] = [zlib.crc32(row.data) for row in matrix]
        with self._mutex:
            self._require_writable()
            numbers = np.arange(self._rows, self._rows + len(records), dtype=np.uint32)
            words = (
                np.array(terms, np.uint32),
                np.repeat(numbers, lengths),
                np.array(weights, np.float32).view(np.uint32),
            )
            blob = b"".join(parts)
            # With the words of all that is not committed yet, so that the next commit succeeds.
            postings = len(terms) + sum(len(pending[0]) for pending in self._pending)
            self.require_space(len(records), len(blob) + _POSTING_BYTES * postings)
            self._append(records, blob, matrix)
            self._pending.append(words)
            self._pending_words = None

    def require_space(self, passages: int, text_bytes: int = 0) -> None:
        """Check that more passages fit on the disk; see `VectorStore.require_space`."""
        widths = column_widths(self.manifest.dimension)
        size = passages * (widths["rows"] + widths["vectors"] + widths["sketches"]) + text_bytes
        require_disk_space(self.path, size + _STATE_BYTES, StoreWriteError)

    def _append(
        self, records: NDArray[np.void], texts: bytes, vectors: NDArray[np.float32]
    ) -> None:
        """Append records and drop those that they replace."""
        first = self._rows
        if first + len(records) > MAX_ROWS:
            raise StoreWriteError(f"a store holds {MAX_ROWS} rows at most: {self.path} is full")
        sizes = records["head"].astype(np.uint64) + records["text"]
        records["at"] = self._texts + np.cumsum(sizes) - sizes
        seal(records)
        keys = [(int(high), int(low)) for high, low in records["id"]]
        replaced = [row for rows in self._rows_of("id", keys) for row in rows]
        sketched = sketches(vectors)
        data = records.tobytes()
        self._files.texts.write(self._texts, texts)
        self._files.vectors.write(first, vectors.data)
        self._files.sketches.write(first, sketched.data)
        self._files.rows.write(first, data)
        # Last of all writes: if one fails, nothing was counted, and the next change overwrites it.
        removals = self._write_dropped(replaced)
        self._rows += len(records)
        self._texts += len(texts)
        self._rows_sum = zlib.crc32(data, self._rows_sum)
        self._alive = _grown(self._alive, self._rows, True)
        self._vectored = _grown(self._vectored, self._rows, False)
        self._vectored[first : self._rows] = (records["flags"] & HAS_VECTOR).astype(np.bool_)
        self._count += len(records)
        for name, lookup in self._lookups.items():
            lookup.add(first, mixed(records[name]).tolist())
        if self._sketches is not None and self._sketches.rows == first:
            self._sketches.extend(sketched)
        self._filtered.clear()
        self._count_dropped(replaced, removals)

    def _drop(self, rows: Sequence[int]) -> None:
        self._count_dropped(rows, self._write_dropped(rows))

    def _write_dropped(self, rows: Sequence[int]) -> bytes:
        """Write removals after the counted ones; they count only after `_count_dropped`."""
        gone = np.empty(len(rows), DROPPED_RECORD)
        gone["row"] = rows
        gone["inverse"] = ~gone["row"]
        data = gone.tobytes()
        if data:
            self._files.dropped.write(self._dropped, data)
        return data

    def _count_dropped(self, rows: Sequence[int], data: bytes) -> None:
        if not rows:
            return
        self._dropped += len(rows)
        self._dropped_sum = zlib.crc32(data, self._dropped_sum)
        self._alive[list(rows)] = False
        self._count -= len(rows)
        self._filtered.clear()

    def delete(self, ids: Sequence[str]) -> None:
        """Remove passages; see `VectorStore.delete`."""
        with self._mutex:
            self._require_writable()
            found = self._rows_of("id", [id_key(i) for i in dict.fromkeys(ids)])
            self._drop([row for rows in found for row in rows])

    def delete_matching(self, filter: Filter) -> int:
        """Remove what matches; see `VectorStore.delete_matching`."""
        with self._mutex:
            self._require_writable()
            rows = self._matching(filter).tolist()
            self._drop(rows)
            return len(rows)

    def flush(self) -> None:
        """Commit all earlier changes; see `VectorStore.flush`."""
        with self._mutex:
            self._require_writable()
            self._write_pending()
            self._commit()

    def _write_pending(self) -> None:
        """Write the words of uncommitted rows, and merge word files of similar size."""
        if self._pending:
            self._written.append(self._new_words(self._unwritten(), level=0))
            self._pending, self._pending_words = [], None
        while self._should_merge():
            self._merge(len(self._written) - MERGE_FAN_IN, len(self._written))

    def _commit(self) -> None:
        now = replace(
            self._state,
            rows=self._rows,
            texts=self._texts,
            dropped=self._dropped,
            rows_sum=self._rows_sum,
            dropped_sum=self._dropped_sum,
            runs=tuple(words.run for words in self._written),
            next_run=self._next_run,
        )
        if now == self._state:
            return
        try:
            for column in self._files.all:
                column.sync()
            sync_folder(self.path)
        except StoreWriteError as error:
            # The system may have dropped what it failed to write, so another sync proves nothing.
            self._failed = str(error)
            raise
        now = replace(now, commit=now.commit + 1)
        try:
            now.write(self.path)
        except StoreWriteError as error:
            if State.read(self.path) != self._state:  # the new one exists, but may not be on disk
                self._failed = str(error)
            raise
        self._state = now
        for path in self._retired:
            with suppress(OSError):  # it does no harm, and the next writer drops it
                path.unlink()
        self._retired.clear()

    def _unwritten(self) -> Postings:
        """Return the postings of uncommitted rows."""
        if self._pending_words is None:
            terms, rows, weights = (
                np.concatenate(parts) for parts in zip(*self._pending, strict=True)
            )
            self._pending_words = Postings.of(terms, rows, weights.view(np.float32))
        return self._pending_words

    def _new_words(self, postings: Postings, *, level: int) -> _Words:
        """Write a file of words; it belongs to the store after the next commit."""
        number, self._next_run = self._next_run, self._next_run + 1
        made = write_words(self.path, self._state.generation, number, postings, level=level)
        self._checked.add(made.path)
        return made

    def _should_merge(self) -> bool:
        last = [words.run for words in self._written[-MERGE_FAN_IN:]]
        return (
            len(last) == MERGE_FAN_IN
            and len({run.level for run in last}) == 1
            and sum(run.postings for run in last) <= MAX_POSTINGS
        )

    def _merge(self, first: int, last: int) -> None:
        """Merge several files of words into one."""
        group = self._written[first:last]
        postings = merged([self._sound(words) for words in group], self._alive[: self._rows])
        level = 1 + max(words.run.level for words in group)
        self._written[first:last] = [self._new_words(postings, level=level)]
        self._retired += [words.path for words in group]

    def optimize(self) -> None:
        """Merge files of words, and rewrite everything if many rows were dropped."""
        with self._mutex:
            self._require_writable()
            self._write_pending()
            self._commit()
            if self._rows - self._count > max(MIN_DROPPED, MAX_DROPPED_SHARE * self._rows):
                self._write_anew()
                return
            if len(self._written) <= _MANY_RUNS:
                return
            for first, last in reversed(_groups([words.run for words in self._written])):
                if last - first > 1:
                    self._merge(first, last)
            self._commit()

    def _write_anew(self) -> None:
        """Write the remaining rows as the next generation."""
        generation = self._state.generation + 1
        kept = np.flatnonzero(self._alive[: self._rows])
        renamed = np.zeros(self._rows, np.uint32)
        renamed[kept] = np.arange(len(kept), dtype=np.uint32)
        dimension = self.manifest.dimension
        records = self._records()
        texts = self._files.texts.view(self._texts)
        vectors = self._files.vectors.view(self._rows)
        drawn = self._files.sketches.view(self._rows)
        sizes = records["head"][kept].astype(np.int64) + records["text"][kept]
        words = sum(written.run.size for written in self._written)
        self.require_space(len(kept), int(sizes.sum()) + words)
        rows = size = rows_sum = 0
        try:
            files = Files(self.path, generation, dimension, writable=True, create=True)
        except FileNotFoundError as error:
            raise StoreError(f"cannot reach the store at {self.path}: {error.strerror}") from error
        try:
            for first in range(0, len(kept), _PAGE):
                page = kept[first : first + _PAGE]
                part = records[page]
                sizes = part["head"].astype(np.int64) + part["text"]
                places = zip(part["at"].tolist(), sizes.tolist(), strict=True)
                blob = b"".join(texts[at : at + length] for at, length in places)
                part["at"] = size + np.cumsum(sizes) - sizes
                seal(part)
                data = part.tobytes()
                files.texts.write(size, blob)
                files.vectors.write(rows, _taken(vectors, page, 4 * dimension))
                files.sketches.write(rows, _taken(drawn, page, 8 * words_of(dimension)))
                files.rows.write(rows, data)
                rows, size, rows_sum = (
                    rows + len(page),
                    size + len(blob),
                    zlib.crc32(data, rows_sum),
                )
            runs: list[Run] = []
            for first, last in _groups([words.run for words in self._written]):
                group = [self._sound(words) for words in self._written[first:last]]
                postings = merged(group, self._alive[: self._rows], renamed)
                runs.append(
                    write_words(self.path, generation, len(runs) + 1, postings, level=1).run
                )
            for column in files.all:
                column.sync()
            sync_folder(self.path)
            State(
                commit=self._state.commit + 1,
                generation=generation,
                rows=rows,
                texts=size,
                rows_sum=rows_sum,
                runs=tuple(runs),
                next_run=len(runs) + 1,
                manifest=self._state.manifest,
            ).write(self.path)
        except BaseException:
            if State.read(self.path).generation != generation:
                self._tidy()
            raise
        finally:
            files.close()
        before = self._files
        self._load()
        before.close()
        self._tidy()

    # --- Searching --------------------------------------------------------------------------------
    def search(
        self,
        vector: NDArray[np.float32] | None = None,
        *,
        k: int,
        text: str | None = None,
        mode: Mode | None = None,
        filter: Filter | None = None,
    ) -> list[Hit]:
        """Find the best passages; see `VectorStore.search`.

        Raises:
            InputError: an argument is invalid.
            StoreError: a passage found is damaged.
        """
        check_range("k", k)
        mode = checked_mode(vector, text, mode, dimension=self.manifest.dimension)
        limit = max(k, CANDIDATES) if mode == "hybrid" else k
        with self._mutex:
            self._require_open()
            # From here on the data cannot change, whatever is written meanwhile.
            count, records, alive = self._count, self._records(), self._alive[: self._rows]
            allowed = None if filter is None else _mask(self._matching(filter), len(alive))
            vectored = self._vectored[: self._rows]
            vectors = self._vectors() if mode != "bm25" else None
            drawn = self._sketched() if mode != "bm25" and self._rows > EXACT_ROWS else None
            texts = self._files.texts.view(self._texts)
            words = [self._sound(found) for found in self._written] if mode != "dense" else []
            if self._pending:
                words.append(self._unwritten())
        rankings = []
        if vector is not None and vectors is not None:
            among = alive & vectored if allowed is None else alive & vectored & allowed
            rows, values = nearest(vector, vectors, among, drawn, limit)
            ranking = _best(records, rows, values, limit)
            self._check_vectors(records, vectors, [row for _, row, _ in ranking[:k]])
            rankings.append(ranking)
        if mode != "dense" and text is not None:
            terms = self._analyzer.query(text).indices
            found = scores(words, terms, alive, count)
            rows = np.flatnonzero(found if allowed is None else found * allowed)
            rankings.append(_best(records, rows, found[rows], limit))
        row_of = {number: row for ranking in rankings for number, row, _ in ranking}
        ranked = [(number, score) for number, _, score in rankings[0]] if rankings else []
        if mode == "hybrid":
            ranked = best(fused([[number for number, _, _ in r] for r in rankings]), k)
        payloads = self._payloads([row_of[number] for number, _ in ranked], records, texts)
        return [
            to_hit(payload, score, self.path)
            for payload, (_, score) in zip(payloads, ranked, strict=True)
        ]

    def _check_vectors(
        self, records: NDArray[np.void], vectors: NDArray[np.float32], rows: Sequence[int]
    ) -> None:
        """Raise StoreError if the vector of a hit is damaged."""
        sums = records["vector_sum"][rows].tolist()
        for vector, wanted in zip(vectors[rows], sums, strict=True):
            if zlib.crc32(vector.data) != wanted:
                raise self._broken(self._files.vectors.path)

    def _sound(self, words: _Words) -> Postings:
        """Return the postings of a file of words, compared with their checksum once."""
        if words.path not in self._checked:
            if zlib.crc32(words.data) != words.run.sum:
                raise self._broken(words.path)
            self._checked.add(words.path)
        return words.postings

    def _sketched(self) -> NDArray[np.uint64]:
        if self._sketches is None:
            self._sketches = Sketches(self.manifest.dimension)
        held = self._sketches
        if held.rows < self._rows:
            words = words_of(self.manifest.dimension)
            drawn = np.frombuffer(self._files.sketches.view(self._rows), np.uint64).reshape(
                -1, words
            )
            for first in range(held.rows, self._rows, 1 << 16):
                held.extend(drawn[first : first + (1 << 16)])
        return held.all()

    # --- Reading ----------------------------------------------------------------------------------
    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPassage]:
        """Return stored passages; see `VectorStore.get`."""
        with self._mutex:
            self._require_open()
            keys = [id_key(i) for i in dict.fromkeys(ids)]
            rows = [row for found in self._rows_of("id", keys) for row in found]
            return self._stored(rows, with_vectors)

    def scan(
        self, filter: Filter | None = None, *, with_vectors: bool = False
    ) -> Iterator[StoredPassage]:
        """Yield stored passages; see `VectorStore.scan`."""
        with self._mutex:
            self._require_open()
            rows = self._matching(filter).tolist()
            keys = self._records()["id"][rows]
            files = self._files
        for first in range(0, len(rows), _PAGE):
            with self._mutex:
                self._require_open()
                page = rows[first : first + _PAGE]
                if self._files is not files:  # a new generation, or a refresh
                    wanted = [(int(a), int(b)) for a, b in keys[first : first + _PAGE]]
                    page = [row for found in self._rows_of("id", wanted) for row in found]
                found = self._stored(page, with_vectors)
            yield from found

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return stored vectors; see `VectorStore.vectors`."""
        wanted = list(dict.fromkeys(ids))
        with self._mutex:
            self._require_open()
            found = self._rows_of("id", [id_key(i) for i in wanted])
            rows = {i: row for i, rows in zip(wanted, found, strict=True) for row in rows}
            rows = {i: row for i, row in rows.items() if self._vectored[row]}
            return dict(zip(rows, self._sound_vectors(list(rows.values())), strict=True))

    def vectors_of_content(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return vectors by content; see `VectorStore.vectors_of_content`."""
        wanted = list(dict.fromkeys(digests))
        with self._mutex:
            self._require_open()
            found = self._rows_of("content", [content_key(digest) for digest in wanted])
            rows = {
                digest: row
                for digest, rows in zip(wanted, found, strict=True)
                for row in rows
                if self._vectored[row]
            }
            return dict(zip(rows, self._sound_vectors(list(rows.values())), strict=True))

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of stored passages, or of those that match."""
        with self._mutex:
            self._require_open()
            return self._count if filter is None else len(self._matching(filter))

    def roots(self) -> dict[str, int]:
        """Return the number of passages of each root."""
        with self._mutex:
            self._require_open()
            rows = self._matching(None)
            _, first, counts = np.unique(
                self._records()["root"][rows], return_index=True, return_counts=True
            )
            payloads = self._payloads(rows[first].tolist())
            return {
                payload["root"]: count
                for payload, count in zip(payloads, counts.tolist(), strict=True)
            }

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Return what is stored of each source of a root; see `VectorStore.sources`."""
        sources: dict[str, StoredSource] = {}
        with self._mutex:
            self._require_open()
            records = self._records()
            mine = self._alive[: self._rows] & (records["root"] == np.uint64(name_hash(root)))
            for payload in self._payloads(np.flatnonzero(mine).tolist(), texts=False):
                stored = sources.setdefault(payload["source"], StoredSource())
                stored.ids.setdefault(to_version(payload), set()).add(payload["id"])
        return sources

    def note_update(self, root: str, note: UpdateNote | None) -> None:
        """Store the note of an update; see `VectorStore.note_update`."""
        self._require_writable()
        notes = self.notes()
        notes.pop(root, None)
        write_notes(self.path, notes if note is None else {**notes, root: note})

    def notes(self) -> dict[str, UpdateNote]:
        """Return the notes of updates, by root."""
        return read_notes(self.path)

    def size(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return folder_size(self.path)

    def close(self) -> None:
        """Commit pending changes and release the lock; further calls do nothing."""
        with self._mutex:
            if self._closed:
                return
            try:
                if not self.read_only and self._failed is None:
                    self._write_pending()
                    self._commit()
            finally:
                self._closed = True
                self._files.close()
                self._sketches, self._lookups, self._filtered, self._fields = None, {}, {}, {}
                self._written, self._pending, self._pending_words = [], [], None
                if self._lock is not None:
                    self._lock.release()

    def __enter__(self) -> FolderStore:
        """Return the store itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the store."""
        self.close()

    # --- Rows and payloads ------------------------------------------------------------------------
    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"this store is closed: open {self.path} again")

    def _require_writable(self) -> None:
        self._require_open()
        if self.read_only:
            raise StoreWriteError(
                f"the store at {self.path} was opened to read: open it without read_only to write"
            )
        if self._failed is not None:
            raise StoreWriteError(
                f"{self._failed}; open the store again, what was flushed is there"
            )

    def _records(self) -> NDArray[np.void]:
        return np.frombuffer(self._files.rows.view(self._rows), ROW_RECORD)

    def _vectors(self) -> NDArray[np.float32]:
        flat = np.frombuffer(self._files.vectors.view(self._rows), np.float32)
        return flat.reshape(-1, self.manifest.dimension)

    def _rows_of(self, name: str, keys: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Return the stored rows of each key; an id has at most one."""
        lookup = self._lookups.get(name)
        if lookup is None or lookup.is_loose:
            lookup = self._lookups[name] = Lookup(mixed(self._records()[name]))
        if not keys:
            return []
        found = lookup.find(mixed(np.array(keys, np.uint64)).tolist())
        if not any(found):
            return found
        records = self._records()[name]
        return [
            [row for row in rows if self._alive[row] and tuple(records[row].tolist()) == key]
            for rows, key in zip(found, keys, strict=True)
        ]

    def _matching(self, filter: Filter | None) -> NDArray[np.intp]:
        """Return the rows that match, ascending."""
        alive = self._alive[: self._rows]
        if filter is None:
            return np.flatnonzero(alive)
        checked = plan(filter)
        key = repr(checked)
        if key not in self._filtered:
            if len(self._filtered) >= _KEPT:
                self._filtered.clear()
            mask = self._mask(checked)
            self._filtered[key] = (
                self._read_matching(checked) if mask is None else np.flatnonzero(alive & mask)
            )
        return self._filtered[key]

    def _mask(self, checked: Plan) -> NDArray[np.bool_] | None:
        """Return which rows match; None if the passages must be read to decide."""
        if isinstance(checked, Negated):
            mask = self._mask(checked.part)
            return None if mask is None else ~mask
        if isinstance(checked, (Every, Some)):
            every = isinstance(checked, Every)
            whole = np.full(self._rows, every, np.bool_)
            for part in checked.parts:
                mask = self._mask(part)
                if mask is None:
                    return None
                whole = whole & mask if every else whole | mask
            return whole
        if isinstance(checked, Equal) and checked.key in ("id", "root", "source"):
            values = [value for value in checked.values if isinstance(value, str)]
            if checked.key == "id":
                found = self._rows_of("id", [id_key(value) for value in values])
                return _mask([row for rows in found for row in rows], self._rows)
            hashes = np.array([name_hash(value) for value in values], np.uint64)
            return np.isin(self._records()[checked.key], hashes)
        field = self._field(checked.key)
        return None if field is None else field.mask(checked)

    def _field(self, key: str) -> Field | None:
        """Return the values of a field in all rows; None if there are too many."""
        if key in ("id", "text", "source"):
            return None
        name = Field.name_of(key)
        if name not in self._fields:
            if len(self._fields) >= _KEPT:
                self._fields.clear()
            self._fields[name] = Field(key)
        field = self._fields[name]
        if field.rows < self._rows and not field.is_full:
            alive = self._alive[field.rows : self._rows]
            payloads = self._payloads((np.flatnonzero(alive) + field.rows).tolist(), texts=False)
            field.extend(
                (next(payloads) if stored else None for stored in alive.tolist()), len(alive)
            )
        return None if field.is_full else field

    def _read_matching(self, checked: Plan) -> NDArray[np.intp]:
        rows = np.flatnonzero(self._alive[: self._rows])
        payloads = self._payloads(
            rows.tolist(), texts=_reads_text(checked), needles=_needles(checked)
        )
        fits = (payload is not None and matches(payload, checked) for payload in payloads)
        return rows[np.fromiter(fits, np.bool_, len(rows))]

    def _stored(self, rows: Sequence[int], with_vectors: bool) -> list[StoredPassage]:
        found = [
            StoredPassage(to_passage(payload, self.path), to_version(payload))
            for payload in self._payloads(rows)
        ]
        if with_vectors:
            at = [i for i, row in enumerate(rows) if self._vectored[row]]
            for i, vector in zip(at, self._sound_vectors([rows[i] for i in at]), strict=True):
                found[i] = replace(found[i], vector=vector)
        return found

    def _payloads(
        self,
        rows: Sequence[int],
        records: NDArray[np.void] | None = None,
        held: memoryview | None = None,
        *,
        texts: bool = True,
        needles: Sequence[bytes] | None = None,
    ) -> Iterator[Any]:
        """Yield the payloads of rows, checked, with or without their text.

        If needles are given, None stands for a payload whose head contains none of them.
        """
        if not rows:
            return
        part = (self._records() if records is None else records)[rows]
        held = self._files.texts.view(self._texts) if held is None else held
        fields = ("at", "head", "head_sum", "text", "text_sum")
        for at, head, head_sum, text, text_sum in zip(
            *(part[name].tolist() for name in fields), strict=True
        ):
            data = held[at : at + head]
            if zlib.crc32(data) != head_sum:
                raise self._broken(self._files.texts.path)
            found = bytes(data)
            if needles is not None and not any(needle in found for needle in needles):
                yield None
                continue
            payload: dict[str, Any] = json.loads(found)
            if texts:
                data = held[at + head : at + head + text]
                if zlib.crc32(data) != text_sum:
                    raise self._broken(self._files.texts.path)
                payload["text"] = from_text(bytes(data))
            yield payload

    def _sound_vectors(self, rows: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of rows, checked."""
        if not rows:
            return
        wanted = self._records()["vector_sum"][rows].tolist()
        for vector, summed in zip(self._vectors()[rows], wanted, strict=True):
            if zlib.crc32(vector.data) != summed:
                raise self._broken(self._files.vectors.path)
            yield vector


def holds_data(path: Path) -> bool:
    """Return whether a folder holds records of a store, with or without its manifest."""
    try:
        return any(
            DATA_FILE.fullmatch(entry.name) is not None and entry.stat().st_size > 0
            for entry in path.iterdir()
        )
    except OSError:
        return False


def _without_manifest(path: Path) -> str:
    return (
        f"{path / manifest.FILE_NAME} is missing, but {path} holds the passages of a store: "
        f"`quaver check {path} --repair` restores it"
    )


def make_empty(
    path: Path, manifest: Manifest, *, generation: int, commit: int | None = None
) -> None:
    """Create the files of an empty store and commit them.

    Args:
        path: the store's folder.
        manifest: the manifest of the new store.
        generation: generation of the files.
        commit: number of the commit; None for a random one.

    Raises:
        StoreWriteError: they cannot be created.
    """
    try:
        files = Files(path, generation, manifest.dimension, writable=True, create=True)
    except FileNotFoundError as error:
        raise StoreWriteError(f"cannot write {path}: {error.strerror}") from error
    try:
        for column in files.all:
            column.sync()
    finally:
        files.close()
    # Not from zero, so that a reader notices when a store was deleted and created again.
    first = secrets.randbits(40) if commit is None else commit
    State(commit=first, generation=generation, manifest=manifest.to_json()).write(path)


def write_words(
    store: Path, generation: int, number: int, postings: Postings, *, level: int
) -> _Words:
    """Write a file of words; it belongs to the store once a state lists it.

    Args:
        store: the store's folder.
        generation: its generation.
        number: its number.
        postings: its content.
        level: how often the postings were merged.

    Raises:
        StoreWriteError: the disk is full or cannot be written.
    """
    path = store / f"words.{generation}.{number}"
    data = postings.to_bytes()
    require_disk_space(store, len(data), StoreWriteError)
    try:
        column = Column(path, 1, writable=True, create=True)
    except FileNotFoundError as error:
        raise StoreWriteError(f"cannot write {path}: {error.strerror}") from error
    try:
        column.write(0, data)
        column.sync()
        # Mapped, so that it need not stay in memory.
        mapped = column.view(len(data))
        held = Postings.read(mapped, path)
    except StoreError:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        column.close()
    run = Run(number, level, len(postings.rows), len(data), zlib.crc32(data))
    return _Words(path, run, mapped, held)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors scaled to unit length; unit vectors keep their bits, and zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    lengths[(np.abs(lengths - 1) < 1e-6) | (lengths == 0)] = 1
    scaled: NDArray[np.float32] = (vectors / lengths[:, None]).astype(np.float32)
    return scaled


def column_widths(dimension: int) -> dict[str, int]:
    """Return the record size of each file in bytes, by name."""
    widths = (
        ROW_RECORD.itemsize,
        1,
        4 * dimension,
        8 * words_of(dimension),
        DROPPED_RECORD.itemsize,
    )
    return dict(zip(_COLUMNS, widths, strict=True))


def _counts(committed: State) -> tuple[int, ...]:
    rows = committed.rows
    return rows, committed.texts, rows, rows, committed.dropped


def same_space(kept: str, manifest: Manifest) -> bool:
    """Return whether two manifests agree except for the model's place, which a user may correct."""
    try:
        other = Manifest.parse(kept, where=state.FILE_NAME)
    except StoreError:
        return False
    return replace(other, model=manifest.model) == manifest


def _groups(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Return the range of neighboring word files to merge, as (first, one past the last)."""
    groups: list[tuple[int, int]] = []
    size = 0
    for at, run in enumerate(runs):
        if groups and size + run.postings <= MAX_POSTINGS:
            groups[-1] = groups[-1][0], at + 1
            size += run.postings
        else:
            groups.append((at, at + 1))
            size = run.postings
    return groups


def _best(
    records: NDArray[np.void], rows: NDArray[np.intp], values: NDArray[np.float64], limit: int
) -> list[tuple[int, int, float]]:
    """Return the best rows as (UUID as a number, row, score); equal scores in the order of UUIDs."""
    if len(rows) > limit:
        least = np.partition(values, len(values) - limit)[len(values) - limit]
        kept = values >= least
        rows, values = rows[kept], values[kept]
    ids = records["id"][rows]
    order = np.lexsort((ids[:, 1], ids[:, 0], -values))[:limit]
    return [
        ((high << 64) | low, row, value)
        for (high, low), row, value in zip(
            ids[order].tolist(), rows[order].tolist(), values[order].tolist(), strict=True
        )
    ]


def _mask(rows: Sequence[int] | NDArray[np.intp], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, np.bool_)
    mask[np.asarray(rows, np.intp)] = True
    return mask


def _grown(flags: NDArray[np.bool_], count: int, value: bool) -> NDArray[np.bool_]:
    """Return the array with room for `count` items; new items have this value."""
    if count <= len(flags):
        return flags
    grown = np.full(max(count, len(flags) * 5 // 4), value, np.bool_)
    grown[: len(flags)] = flags
    return grown


def _taken(data: memoryview, rows: NDArray[np.intp], width: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, width)[rows].tobytes()


def _needles(checked: Plan) -> Sequence[bytes] | None:
    """Return byte strings of which a matching passage's head contains at least one; None if unknown."""
    if isinstance(checked, Equal) and checked.key != "text":
        if all(isinstance(value, str) for value in checked.values):
            return [json.dumps(value).encode() for value in checked.values]
        return _named(checked.key)
    if isinstance(checked, Within) and checked.key != "text":
        return _named(checked.key)
    if isinstance(checked, Every):
        known = (_needles(part) for part in checked.parts)
        return next((needles for needles in known if needles is not None), None)
    if isinstance(checked, Some):
        parts = [_needles(part) for part in checked.parts]
        known_parts = [part for part in parts if part is not None]
        if len(known_parts) == len(parts):
            return [needle for part in known_parts for needle in part]
    return None


def _named(key: str) -> Sequence[bytes]:
    return [json.dumps(key.rpartition(".")[2].removesuffix("[]")).encode()]


def _reads_text(checked: Plan) -> bool:
    if isinstance(checked, (Every, Some)):
        return any(_reads_text(part) for part in checked.parts)
    return _reads_text(checked.part) if isinstance(checked, Negated) else checked.key == "text"
