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

A store with sparse or token vectors also has:

    tokens.G         a record for each row: where its sparse and token vectors are
    weights.G        the weights of the words of passages, float16
    sparse.G.N       which passages have which weights; see `postings`
    multi.G          the vectors of the tokens of passages, int8

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
from quaver.sparse_encoder import SparseVector
from quaver.store import lock, manifest, state, status
from quaver.store.column import Column, sync_folder
from quaver.store.fields import Field
from quaver.store.filters import Equal, Every, Filter, Negated, Plan, Some, Within, plan
from quaver.store.lock import StoreLock
from quaver.store.lookup import Lookup
from quaver.store.manifest import Manifest, TokenModel
from quaver.store.matching import matches
from quaver.store.nearest import EXACT_ROWS, Sketches, nearest, sketches, words_of
from quaver.store.payload import to_hit, to_passage, to_payload, to_version
from quaver.store.postings import (
    MAX_POSTINGS,
    MERGE_FAN_IN,
    Postings,
    Weights,
    merged,
    products,
    scores,
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
from quaver.store.query import (
    best,
    check_upsert,
    checked_rankings,
    fused,
    maxsim,
    with_models,
)
from quaver.store.rows import (
    DROPPED_RECORD,
    HAS_MULTI,
    HAS_SPARSE,
    HAS_VECTOR,
    MAX_ROWS,
    ROW_RECORD,
    TOKEN_RECORD,
    WEIGHT_RECORD,
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
"""Number of files of postings up to which `optimize` merges nothing."""

_KEPT = 8
"""Number of filters whose rows, and of fields whose values, are cached until something changes."""

_STATE_BYTES = 1 << 16
"""Room that is kept for the files of a commit."""

_POSTING_BYTES = 20
"""Maximum bytes of a posting in a file of words: its row and weight, and its term if no other has it."""

_PAGE = 4096
_COLUMNS = ("rows", "texts", "vectors", "sketches", "dropped", "tokens", "weights", "multi")
DATA_FILE = re.compile(rf"(?:{'|'.join(_COLUMNS)})\.(\d+)|(?:words|sparse)\.(\d+)\.(\d+)")
INVERTED: dict[str, type[np.floating[Any]]] = {"words": np.float32, "sparse": np.float16}
"""The inverted indexes by the names of their files, with the type of their weights."""

_OWN_FILES = {
    lock.FILE_NAME,
    *(name + end for name in (state.FILE_NAME, status.FILE_NAME) for end in ("", ".new")),
    manifest.FILE_NAME + ".new",
}


class Files:
    """The files of a generation, without its postings.

    Attributes:
        rows: records of `rows.ROW`.
        texts: bytes.
        vectors: float32 (D,) each.
        sketches: uint64 (words,) each.
        dropped: records of `rows.DROPPED`.
        columns: all of them by name, those of sparse and token vectors too.
    """

    def __init__(
        self,
        store: Path,
        generation: int,
        manifest: Manifest,
        *,
        writable: bool,
        create: bool = False,
    ) -> None:
        """Open the files.

        Args:
            store: the store's folder.
            generation: which.
            manifest: the store's manifest.
            writable: whether records will be written.
            create: whether to create them, empty.

        Raises:
            FileNotFoundError: one is missing.
            StoreError: one cannot be opened.
        """
        self.columns: dict[str, Column] = {}
        try:
            for name, width in column_widths(manifest).items():
                path = store / f"{name}.{generation}"
                self.columns[name] = Column(path, width, writable=writable, create=create)
        except BaseException:
            self.close()
            raise
        self.rows, self.texts = self.columns["rows"], self.columns["texts"]
        self.vectors, self.sketches = self.columns["vectors"], self.columns["sketches"]
        self.dropped = self.columns["dropped"]

    def close(self) -> None:
        """Close the files; mapped views stay valid."""
        for column in self.columns.values():
            column.close()


@dataclass(frozen=True)
class _MappedRun:
    """A file of words or of sparse vectors, mapped, and its postings."""

    path: Path
    run: Run
    data: memoryview
    postings: Postings


class _Inverted:
    """An inverted index: its files, and the postings of rows that are not committed.

    Attributes:
        name: "words" or "sparse", as its files begin.
        weights: type of the weights.
        written: its files.
    """

    def __init__(self, name: str, written: list[_MappedRun]) -> None:
        self.name, self.weights, self.written = name, INVERTED[name], written
        self._pending: list[tuple[NDArray[np.uint32], NDArray[np.uint32], Weights]] = []
        self._joined: Postings | None = None

    def add(self, terms: NDArray[np.uint32], rows: NDArray[np.uint32], weights: Weights) -> None:
        """Take the postings of further rows."""
        self._pending.append((terms, rows, weights))
        self._joined = None

    @property
    def waiting(self) -> int:
        """Number of postings that are in no file."""
        return sum(len(terms) for terms, _, _ in self._pending)

    def unwritten(self) -> Postings:
        """Return the postings that are in no file."""
        if self._joined is None:
            terms, rows, weights = (
                np.concatenate(parts) for parts in zip(*self._pending, strict=True)
            )
            self._joined = Postings.of(terms, rows, weights)
        return self._joined

    def clear(self) -> None:
        """Forget the postings that are in no file."""
        self._pending, self._joined = [], None


@dataclass(frozen=True)
class _Tokens:
    """The sparse and token vectors of rows to append.

    Attributes:
        records: `TOKEN_RECORD` of each row, with places from 0.
        weights: `WEIGHT_RECORD` of all rows, one after the other.
        multi: bytes of all token vectors.
        flags: uint32, `HAS_SPARSE` and `HAS_MULTI` of each row.
    """

    records: NDArray[np.void]
    weights: NDArray[np.void]
    multi: bytes
    flags: NDArray[np.uint32]

    @property
    def vectors(self) -> int:
        """How many token vectors there are."""
        return int(self.records["multi"].sum())

    @property
    def size(self) -> int:
        """Bytes on disk, those of the postings too."""
        return self.records.nbytes + 2 * self.weights.nbytes + len(self.multi)


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
            found = found if held is None else cls._readable(path)
            store = cls(path, found, held)
            if held is not None:
                if store.manifest != found:
                    # A killed writer had committed its models, and not copied them here.
                    store.manifest.write(path)
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
                self._open_state(committed)
                return
            except FileNotFoundError as error:
                # A writer started a new generation in between, or the file is really gone.
                if attempt and State.read(self.path).commit == committed.commit:
                    raise StoreError(
                        f"{error.filename} is missing; `quaver check {self.path} --repair` "
                        "restores what can be"
                    ) from error
        raise StoreError(f"{self.path} changes faster than it can be opened; try again")

    def _open_state(self, committed: State) -> None:
        """Open the files of a state, check them, and move to them; until then nothing is changed.

        Raises:
            FileNotFoundError: one is missing.
            StoreError: one is broken, or cannot be opened.
        """
        made = agreed(committed.manifest, self.manifest)
        if made is None:
            raise StoreError(
                f"{self.path / manifest.FILE_NAME} and {state.FILE_NAME} contradict each other: one "
                f"is broken; `quaver check {self.path} --repair` restores it"
            )
        counts = counts_of(committed)
        files = Files(self.path, committed.generation, made, writable=not self.read_only)
        try:
            for name, column in files.columns.items():
                count = counts[name]
                if column.records() < count:
                    raise StoreError(
                        f"{column.path} must hold {count * column.width} bytes, it is shorter; "
                        f"`quaver check {self.path} --repair` restores what can be"
                    )
            summed = {
                "rows": committed.rows_sum,
                "dropped": committed.dropped_sum,
                "tokens": committed.tokens_sum,
            }
            for name, wanted in summed.items():
                found = files.columns.get(name)
                if found is not None and zlib.crc32(found.view(counts[name])) != wanted:
                    raise self._broken(found.path)
            records = np.frombuffer(files.rows.view(committed.rows), ROW_RECORD)
            alive = np.ones(committed.rows, np.bool_)
            dropped = np.frombuffer(files.dropped.view(committed.dropped), DROPPED_RECORD)["row"]
            if len(dropped) and int(dropped.max()) >= committed.rows:
                raise self._broken(files.dropped.path)
            alive[dropped] = False
            runs = {"words": committed.runs, "sparse": committed.sparse_runs}
            indexes = {
                name: _Inverted(name, [self._mapped(name, committed, run) for run in runs[name]])
                for name in INVERTED
            }
        except BaseException:
            files.close()
            raise
        with self._mutex:
            self.manifest = made
            self._files = files
            self._state = committed
            self._next_run = committed.next_run
            self._rows, self._texts, self._dropped = (
                committed.rows,
                committed.texts,
                committed.dropped,
            )
            self._rows_sum, self._dropped_sum = committed.rows_sum, committed.dropped_sum
            self._weights, self._multi = committed.weights, committed.multi
            self._tokens_sum = committed.tokens_sum
            self._alive = alive
            self._vectored = (records["flags"] & HAS_VECTOR).astype(np.bool_)
            self._count = int(alive.sum())
            self._indexes = indexes
            self._retired: list[Path] = []
            # Files of postings whose checksum was compared, or that this process wrote.
            self._checked: set[Path] = set()
            self._lookups: dict[str, Lookup] = {}
            self._sketches: Sketches | None = None
            self._filtered: dict[str, NDArray[np.intp]] = {}
            self._fields: dict[str, Field] = {}

    def _mapped(self, name: str, committed: State, run: Run) -> _MappedRun:
        path = self.path / f"{name}.{committed.generation}.{run.number}"
        column = Column(path, 1, writable=False)
        try:
            if column.records() != run.size:
                raise self._broken(path)
            data = column.view(run.size)
            return _MappedRun(path, run, data, Postings.read(data, path, INVERTED[name]))
        finally:
            column.close()

    def _tidy(self) -> None:
        """Drop what a killed writer left: uncommitted records and unknown files."""
        counts = counts_of(self._state)
        for name, column in self._files.columns.items():
            column.cut(counts[name])
        self.drop_strangers(self.path, self._state)

    @staticmethod
    def drop_strangers(path: Path, committed: State) -> None:
        """Delete files with names of a store that the committed state does not list.

        Args:
            path: the store's folder, whose lock is held.
            committed: the state.
        """
        runs = {run.number for run in (*committed.runs, *committed.sparse_runs)}
        columns = column_widths(Manifest.parse(committed.manifest, where=state.FILE_NAME))
        for entry in path.iterdir():
            found = DATA_FILE.fullmatch(entry.name)
            if found is None:
                continue
            generation, of_words, number = found.groups()
            known = (
                entry.name.partition(".")[0] in columns if number is None else int(number) in runs
            )
            if int(generation or of_words) == committed.generation and known:
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
            sketched, fields = self._sketches, self._fields
            committed = State.read(self.path)
            if committed.commit == self._state.commit:
                return False
            if agreed(committed.manifest, self.manifest) is None:
                raise StoreMismatchError(
                    f"the store at {self.path} was created again with other settings: open it again"
                )
            self._load()
            before.close()
            if self._state.generation == generation:
                # They take what the new rows have when they are next used.
                self._sketches, self._fields = sketched, fields
            return True

    # --- Writing --------------------------------------------------------------------------------
    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        versions: Mapping[str, FileVersion] | None = None,
        tokens: Sequence[PassageTokens] | None = None,
    ) -> None:
        """Store passages; see `VectorStore.upsert`.

        Raises:
            InputError: the vectors do not fit the passages or the store.
            StoreWriteError: the disk is full or cannot be written.
        """
        self._require_writable()
        check_upsert([passage.id for passage in passages], vectors, tokens, manifest=self.manifest)
        if not passages:
            return
        records = np.zeros(len(passages), ROW_RECORD)
        parts: list[bytes] = []
        terms: list[int] = []
        weights: list[float] = []
        lengths: list[int] = []
        for record, passage in zip(records, passages, strict=True):
            payload = to_payload(passage, versions, late_chunking=self.manifest.late_chunking)
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
        encoded = _encoded(tokens, len(passages))
        records["flags"] |= encoded.flags
        with self._mutex:
            self._require_writable()
            numbers = np.arange(self._rows, self._rows + len(records), dtype=np.uint32)
            blob = b"".join(parts)
            # With the words of all that is not committed yet, so that the next commit succeeds.
            postings = len(terms) + sum(index.waiting for index in self._indexes.values())
            size = len(blob) + _POSTING_BYTES * postings + encoded.size
            self.require_space(len(records), size)
            self._append(records, blob, matrix, encoded)
            self._indexes["words"].add(
                np.array(terms, np.uint32),
                np.repeat(numbers, lengths),
                np.array(weights, np.float32),
            )
            if len(encoded.weights):
                self._indexes["sparse"].add(
                    encoded.weights["word"].copy(),
                    np.repeat(numbers, encoded.records["weights"]),
                    encoded.weights["weight"].copy(),
                )

    def add_models(
        self, *, sparse: TokenModel | None = None, multi: TokenModel | None = None
    ) -> None:
        """Record models; see `VectorStore.add_models`.

        Raises:
            StoreWriteError: the disk is full or cannot be written; the store has no new models.
        """
        with self._mutex:
            self._require_writable()
            made = with_models(self.manifest, self.path, sparse, multi)
            if made == self.manifest:
                return
            self.flush()
            new, summed = column_widths(made), self._tokens_sum
            for name in new.keys() - self._files.columns.keys():
                path = self.path / f"{name}.{self._state.generation}"
                column = Column(path, new[name], writable=True, create=True)
                try:
                    if name == "tokens":
                        summed = self._write_empty_tokens(column)
                    column.sync()
                finally:
                    column.close()
            sync_folder(self.path)
            self._write_state(replace(self._state, manifest=made.to_json(), tokens_sum=summed))
            before = self._files
            self._load()
            before.close()
            # Only a copy of what is committed: if this fails, the next writer makes it.
            made.write(self.path)

    def _write_empty_tokens(self, column: Column) -> int:
        """Write a record for each row that has no vectors yet, and return the checksum of all."""
        summed = 0
        empty = np.zeros(_PAGE, TOKEN_RECORD)
        seal(empty)
        require_disk_space(self.path, self._rows * column.width, StoreWriteError)
        for first in range(0, self._rows, _PAGE):
            data = empty[: min(_PAGE, self._rows - first)].tobytes()
            column.write(first, data)
            summed = zlib.crc32(data, summed)
        return summed

    def incomplete(self) -> list[str]:
        """Return the ids of passages that lack vectors; see `VectorStore.incomplete`."""
        with self._mutex:
            self._require_open()
            rows = np.flatnonzero(self._alive[: self._rows] & ~self._is_complete())
            return [payload["id"] for payload in self._payloads(rows.tolist(), texts=False)]

    def _is_complete(self) -> NDArray[np.bool_]:
        """Return which rows have the sparse and token vectors of all models."""
        wanted = HAS_SPARSE if self.manifest.sparse is not None else 0
        wanted |= HAS_MULTI if self.manifest.multi is not None else 0
        whole: NDArray[np.bool_] = (self._records()["flags"] & wanted) == wanted
        return whole

    def require_space(self, passages: int, text_bytes: int = 0) -> None:
        """Check that more passages fit on the disk; see `VectorStore.require_space`."""
        widths = column_widths(self.manifest)
        size = passages * (widths["rows"] + widths["vectors"] + widths["sketches"]) + text_bytes
        require_disk_space(self.path, size + _STATE_BYTES, StoreWriteError)

    def _append(
        self,
        records: NDArray[np.void],
        texts: bytes,
        vectors: NDArray[np.float32],
        tokens: _Tokens,
    ) -> None:
        """Append records and drop those that they replace."""
        first = self._rows
        if first + len(records) > MAX_ROWS:
            raise StoreWriteError(f"a store holds {MAX_ROWS} rows at most: {self.path} is full")
        sizes = _text_sizes(records)
        records["at"] = self._texts + np.cumsum(sizes) - sizes
        seal(records)
        keys = [(int(high), int(low)) for high, low in records["id"]]
        replaced = [row for rows in self._rows_of("id", keys) for row in rows]
        sketched = sketches(vectors)
        data = records.tobytes()
        self._files.texts.write(self._texts, texts)
        self._files.vectors.write(first, vectors.data)
        self._files.sketches.write(first, sketched.data)
        columns, places = self._files.columns, b""
        if "tokens" in columns:
            tokens.records["weights_at"] += np.uint64(self._weights)
            tokens.records["multi_at"] += np.uint64(self._multi)
            seal(tokens.records)
            places = tokens.records.tobytes()
            columns["tokens"].write(first, places)
        if "weights" in columns:
            columns["weights"].write(self._weights, tokens.weights.tobytes())
        if "multi" in columns:
            columns["multi"].write(self._multi, tokens.multi)
        self._files.rows.write(first, data)
        # Last of all writes: if one fails, nothing was counted, and the next change overwrites it.
        removals = self._write_dropped(replaced)
        self._rows += len(records)
        self._texts += len(texts)
        self._weights += len(tokens.weights)
        self._multi += tokens.vectors
        self._rows_sum = zlib.crc32(data, self._rows_sum)
        self._tokens_sum = zlib.crc32(places, self._tokens_sum)
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
        """Write the postings of uncommitted rows, and merge files of similar size."""
        for index in self._indexes.values():
            if index.waiting:
                index.written.append(self._new_run(index, index.unwritten(), level=0))
                index.clear()
            while _should_merge(index):
                self._merge(index, len(index.written) - MERGE_FAN_IN, len(index.written))

    def _commit(self) -> None:
        now = replace(
            self._state,
            rows=self._rows,
            texts=self._texts,
            dropped=self._dropped,
            rows_sum=self._rows_sum,
            dropped_sum=self._dropped_sum,
            runs=tuple(mapped.run for mapped in self._indexes["words"].written),
            next_run=self._next_run,
            weights=self._weights,
            multi=self._multi,
            tokens_sum=self._tokens_sum,
            sparse_runs=tuple(mapped.run for mapped in self._indexes["sparse"].written),
        )
        if now == self._state:
            return
        try:
            for column in self._files.columns.values():
                column.sync()
            sync_folder(self.path)
        except StoreWriteError as error:
            # The system may have dropped what it failed to write, so another sync proves nothing.
            self._failed = str(error)
            raise
        self._write_state(now)
        for path in self._retired:
            with suppress(OSError):  # it does no harm, and the next writer drops it
                path.unlink()
        self._retired.clear()

    def _write_state(self, now: State) -> None:
        """Commit a state whose files are on disk."""
        now = replace(now, commit=now.commit + 1)
        try:
            now.write(self.path)
        except StoreWriteError as error:
            if State.read(self.path) != self._state:  # the new one exists, but may not be on disk
                self._failed = str(error)
            raise
        self._state = now

    def _new_run(self, index: _Inverted, postings: Postings, *, level: int) -> _MappedRun:
        """Write a file of postings; it belongs to the store after the next commit."""
        number, self._next_run = self._next_run, self._next_run + 1
        generation = self._state.generation
        made = _write_run(self.path, generation, number, postings, level=level, name=index.name)
        self._checked.add(made.path)
        return made

    def _merge(self, index: _Inverted, first: int, last: int) -> None:
        """Merge several files of postings into one."""
        group = index.written[first:last]
        postings = merged(
            [self._checked_postings(each) for each in group], self._alive[: self._rows]
        )
        level = 1 + max(each.run.level for each in group)
        index.written[first:last] = [self._new_run(index, postings, level=level)]
        self._retired += [each.path for each in group]

    def optimize(self) -> None:
        """Merge files of postings, and rewrite everything if many rows were dropped."""
        with self._mutex:
            self._require_writable()
            self._write_pending()
            self._commit()
            if self._rows - self._count > max(MIN_DROPPED, MAX_DROPPED_SHARE * self._rows):
                self._write_anew()
                return
            for index in self._indexes.values():
                if len(index.written) <= _MANY_RUNS:
                    continue
                for first, last in reversed(_groups([each.run for each in index.written])):
                    if last - first > 1:
                        self._merge(index, first, last)
            self._commit()

    def _write_anew(self) -> None:
        """Write the remaining rows as the next generation."""
        generation = self._state.generation + 1
        kept = np.flatnonzero(self._alive[: self._rows])
        postings = sum(each.run.size for index in self._indexes.values() for each in index.written)
        tokens = _TokenCopies(self._files, self._rows, self._weights, self._multi)
        texts = int(_text_sizes(self._records()[kept]).sum())
        self.require_space(len(kept), texts + postings + tokens.size(kept))
        try:
            files = Files(self.path, generation, self.manifest, writable=True, create=True)
        except FileNotFoundError as error:
            raise StoreError(f"cannot reach the store at {self.path}: {error.strerror}") from error
        try:
            rows_sum = self._copy_rows(kept, files, tokens)
            runs = self._copy_runs(kept, generation)
            for column in files.columns.values():
                column.sync()
            sync_folder(self.path)
            State(
                commit=self._state.commit + 1,
                generation=generation,
                rows=len(kept),
                texts=texts,
                rows_sum=rows_sum,
                runs=tuple(runs["words"]),
                next_run=1 + sum(map(len, runs.values())),
                manifest=self._state.manifest,
                weights=tokens.weights,
                multi=tokens.multi,
                tokens_sum=tokens.summed,
                sparse_runs=tuple(runs["sparse"]),
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

    def _copy_rows(self, kept: NDArray[np.intp], files: Files, tokens: _TokenCopies) -> int:
        """Write rows, their texts, vectors and tokens into new files, and return the rows' checksum."""
        dimension = self.manifest.dimension
        records = self._records()
        texts = self._files.texts.view(self._texts)
        vectors = self._files.vectors.view(self._rows)
        sketched = self._files.sketches.view(self._rows)
        size = rows_sum = 0
        for first in range(0, len(kept), _PAGE):
            page = kept[first : first + _PAGE]
            part = records[page]
            sizes = _text_sizes(part)
            places = zip(part["at"].tolist(), sizes.tolist(), strict=True)
            blob = b"".join(texts[at : at + length] for at, length in places)
            part["at"] = size + np.cumsum(sizes) - sizes
            seal(part)
            data = part.tobytes()
            files.texts.write(size, blob)
            files.vectors.write(first, _taken(vectors, page, 4 * dimension))
            files.sketches.write(first, _taken(sketched, page, 8 * words_of(dimension)))
            tokens.write(files, first, page)
            files.rows.write(first, data)
            size += len(blob)
            rows_sum = zlib.crc32(data, rows_sum)
        return rows_sum

    def _copy_runs(self, kept: NDArray[np.intp], generation: int) -> dict[str, list[Run]]:
        """Write the postings of rows, merged, as files of a generation, and return them by index."""
        renamed = np.zeros(self._rows, np.uint32)
        renamed[kept] = np.arange(len(kept), dtype=np.uint32)
        runs: dict[str, list[Run]] = {}
        number = 1
        for name, index in self._indexes.items():
            runs[name] = []
            for first, last in _groups([each.run for each in index.written]):
                group = [self._checked_postings(each) for each in index.written[first:last]]
                postings = merged(group, self._alive[: self._rows], renamed)
                made = _write_run(self.path, generation, number, postings, level=1, name=name)
                runs[name].append(made.run)
                number += 1
        return runs

    # --- Searching --------------------------------------------------------------------------------
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
        """Find the best passages; see `VectorStore.search`.

        Raises:
            InputError: an argument is invalid.
            StoreMismatchError: the store lacks the vectors that the mode compares.
            StoreError: a passage found is damaged.
        """
        check_range("k", k)
        names = checked_rankings(
            self.manifest,
            self.path,
            mode,
            vector=vector,
            text=text,
            sparse=sparse,
            multi=multi,
            candidates=candidates,
        )
        depth = k if multi is None else max(k, candidates)
        limit = depth if len(names) == 1 else max(depth, CANDIDATES)
        with self._mutex:
            self._require_open()
            # From here on the data cannot change, whatever is written meanwhile.
            count, records, alive = self._count, self._records(), self._alive[: self._rows]
            allowed = None if filter is None else _mask(self._matching(filter), len(alive))
            vectored = self._vectored[: self._rows]
            vectors = self._vectors() if "dense" in names else None
            approximate = "dense" in names and self._rows > EXACT_ROWS
            sketched = self._all_sketches() if approximate else None
            texts = self._files.texts.view(self._texts)
            words = self._postings("words") if "bm25" in names else []
            weighted = self._postings("sparse") if "sparse" in names else []
            held = None if multi is None else self._held_tokens()
        rankings = []
        if vector is not None and vectors is not None:
            among = alive & vectored if allowed is None else alive & vectored & allowed
            rows, values = nearest(vector, vectors, among, sketched, limit)
            ranking = _best(records, rows, values, limit)
            self._check_vectors(records, vectors, [row for _, row, _ in ranking[:k]])
            rankings.append(ranking)
        if "bm25" in names and text is not None:
            terms = self._analyzer.query(text).indices
            found = scores(words, terms, alive, count)
            rows = np.flatnonzero(found if allowed is None else found * allowed)
            rankings.append(_best(records, rows, found[rows], limit))
        if "sparse" in names and sparse is not None:
            found = products(weighted, sparse.indices, sparse.values, alive)
            rows = np.flatnonzero((found > 0) if allowed is None else (found > 0) & allowed)
            rankings.append(_best(records, rows, found[rows], limit))
        row_of = {number: row for ranking in rankings for number, row, _ in ranking}
        ranked = [(number, score) for number, _, score in rankings[0]] if rankings else []
        if len(rankings) > 1:
            ranked = best(fused([[number for number, _, _ in r] for r in rankings]), depth)
        if multi is not None and held is not None:
            numbers = [n for n, _ in ranked if records["flags"][row_of[n]] & HAS_MULTI]
            stored = [held.multi_of(row_of[number]) for number in numbers]
            ranked = best(zip(numbers, maxsim(multi, stored), strict=True), k)
        payloads = self._payloads([row_of[number] for number, _ in ranked], records, texts)
        return [
            to_hit(payload, score, self.path)
            for payload, (_, score) in zip(payloads, ranked, strict=True)
        ]

    def _postings(self, name: str) -> list[Postings]:
        """Return all postings of an inverted index, those of uncommitted rows too."""
        index = self._indexes[name]
        found = [self._checked_postings(each) for each in index.written]
        return [*found, index.unwritten()] if index.waiting else found

    def _held_tokens(self) -> HeldTokens:
        """Return the sparse and token vectors of the rows; they never change."""
        counts = {"tokens": self._rows, "weights": self._weights, "multi": self._multi}
        columns = self._files.columns
        views = {name: columns[name].view(n) for name, n in counts.items() if name in columns}
        return HeldTokens(self.path, views, self.manifest)

    def _check_vectors(
        self, records: NDArray[np.void], vectors: NDArray[np.float32], rows: Sequence[int]
    ) -> None:
        """Raise StoreError if the vector of a hit is damaged."""
        sums = records["vector_sum"][rows].tolist()
        for vector, wanted in zip(vectors[rows], sums, strict=True):
            if zlib.crc32(vector.data) != wanted:
                raise self._broken(self._files.vectors.path)

    def _checked_postings(self, mapped: _MappedRun) -> Postings:
        """Return the postings of a file, compared with their checksum once."""
        if mapped.path not in self._checked:
            if zlib.crc32(mapped.data) != mapped.run.sum:
                raise self._broken(mapped.path)
            self._checked.add(mapped.path)
        return mapped.postings

    def _all_sketches(self) -> NDArray[np.uint64]:
        """Return the sketches of all rows, uint64 (N, words), read from the file as far as they are new."""
        if self._sketches is None:
            self._sketches = Sketches(self.manifest.dimension)
        held = self._sketches
        if held.rows < self._rows:
            words = words_of(self.manifest.dimension)
            stored = np.frombuffer(self._files.sketches.view(self._rows), np.uint64)
            stored = stored.reshape(-1, words)
            for first in range(held.rows, self._rows, 1 << 16):
                held.extend(stored[first : first + (1 << 16)])
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
        return self._vectors_by("id", {i: id_key(i) for i in ids})

    def vectors_of_content(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return vectors by content; see `VectorStore.vectors_of_content`."""
        return self._vectors_by("content", {digest: content_key(digest) for digest in digests})

    def _vectors_by(
        self, name: str, keys: Mapping[str, tuple[int, int]]
    ) -> dict[str, NDArray[np.float32]]:
        with self._mutex:
            self._require_open()
            rows = self._row_of_each(name, keys, self._vectored)
            return dict(zip(rows, self._sound_vectors(list(rows.values())), strict=True))

    def tokens(self, ids: Sequence[str]) -> dict[str, PassageTokens]:
        """Return sparse and token vectors; see `VectorStore.tokens`."""
        return self._tokens_by("id", {i: id_key(i) for i in ids})

    def tokens_of_content(self, digests: Sequence[str]) -> dict[str, PassageTokens]:
        """Return sparse and token vectors by content; see `VectorStore.tokens_of_content`."""
        return self._tokens_by("content", {digest: content_key(digest) for digest in digests})

    def _tokens_by(
        self, name: str, keys: Mapping[str, tuple[int, int]]
    ) -> dict[str, PassageTokens]:
        with self._mutex:
            self._require_open()
            held, flags = self._held_tokens(), self._records()["flags"]
            rows = self._row_of_each(name, keys, self._is_complete())
            return {key: held.of(row, int(flags[row])) for key, row in rows.items()}

    def _row_of_each(
        self, name: str, keys: Mapping[str, tuple[int, int]], among: NDArray[np.bool_]
    ) -> dict[str, int]:
        """Return a row for each key that has one with a flag; of several the last.

        Args:
            name: "id" or "content".
            keys: what is asked for, and its key in the records.
            among: the flag of each row.
        """
        found = self._rows_of(name, list(keys.values()))
        return {
            asked: row
            for asked, rows in zip(keys, found, strict=True)
            for row in rows
            if among[row]
        }

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
                self._indexes = {}
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
            if "tokens" in self._files.columns:
                held, flags = self._held_tokens(), self._records()["flags"]
                for i, row in enumerate(rows):
                    found[i] = replace(found[i], tokens=held.of(row, int(flags[row])))
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
        records = self._records() if records is None else records
        held = self._files.texts.view(self._texts) if held is None else held
        fields = ("at", "head", "head_sum", "text", "text_sum")
        for first in range(
            0, len(rows), _PAGE
        ):  # a million rows at once would be 290 MB of numbers
            part = records[rows[first : first + _PAGE]]
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
        files = Files(path, generation, manifest, writable=True, create=True)
    except FileNotFoundError as error:
        raise StoreWriteError(f"cannot write {path}: {error.strerror}") from error
    try:
        for column in files.columns.values():
            column.sync()
    finally:
        files.close()
    # Not from zero, so that a reader notices when a store was deleted and created again.
    first = secrets.randbits(40) if commit is None else commit
    State(commit=first, generation=generation, manifest=manifest.to_json()).write(path)


def _write_run(
    store: Path, generation: int, number: int, postings: Postings, *, level: int, name: str
) -> _MappedRun:
    """Write a file of postings; it belongs to the store once a state lists it.

    Args:
        store: the store's folder.
        generation: its generation.
        number: its number.
        postings: its content.
        level: how often the postings were merged.
        name: "words" or "sparse".

    Raises:
        StoreWriteError: the disk is full or cannot be written.
    """
    path = store / f"{name}.{generation}.{number}"
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
        view = column.view(len(data))
        held = Postings.read(view, path, INVERTED[name])
    except StoreError:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        column.close()
    run = Run(number, level, len(postings.rows), len(data), zlib.crc32(data))
    return _MappedRun(path, run, view, held)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors scaled to unit length; unit vectors keep their bits, and zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    lengths[(np.abs(lengths - 1) < 1e-6) | (lengths == 0)] = 1
    scaled: NDArray[np.float32] = (vectors / lengths[:, None]).astype(np.float32)
    return scaled


def column_widths(manifest: Manifest) -> dict[str, int]:
    """Return the record size of each file in bytes, by name."""
    widths = {
        "rows": ROW_RECORD.itemsize,
        "texts": 1,
        "vectors": 4 * manifest.dimension,
        "sketches": 8 * words_of(manifest.dimension),
        "dropped": DROPPED_RECORD.itemsize,
    }
    if manifest.sparse is not None or manifest.multi is not None:
        widths["tokens"] = TOKEN_RECORD.itemsize
    if manifest.sparse is not None:
        widths["weights"] = WEIGHT_RECORD.itemsize
    if manifest.multi is not None:
        widths["multi"] = manifest.multi.dimension
    return widths


def counts_of(committed: State) -> dict[str, int]:
    """Return the number of committed records of each file, by name."""
    by_row = dict.fromkeys(("rows", "vectors", "sketches", "tokens"), committed.rows)
    return {
        **by_row,
        "texts": committed.texts,
        "dropped": committed.dropped,
        "weights": committed.weights,
        "multi": committed.multi,
    }


def agreed(kept: str, manifest: Manifest) -> Manifest | None:
    """Return a store's manifest from both of its copies; None if they contradict each other.

    A user may correct the places of models in `quaver.json`. Which models there are is what was committed:
    `quaver.json` follows.

    Args:
        kept: the copy in the committed state.
        manifest: the one of `quaver.json`.
    """
    try:
        other = Manifest.parse(kept, where=state.FILE_NAME)
    except StoreError:
        return None
    made = replace(
        manifest,
        sparse=_placed(manifest.sparse, other.sparse),
        multi=_placed(manifest.multi, other.multi),
        format_version=other.format_version,
    )
    return (
        made
        if replace(other, model=made.model, sparse=made.sparse, multi=made.multi) == made
        else None
    )


def _placed(mine: TokenModel | None, kept: TokenModel | None) -> TokenModel | None:
    same = mine is not None and kept is not None and replace(mine, model=kept.model) == kept
    return mine if same else kept


def _should_merge(index: _Inverted) -> bool:
    last = [mapped.run for mapped in index.written[-MERGE_FAN_IN:]]
    return (
        len(last) == MERGE_FAN_IN
        and len({run.level for run in last}) == 1
        and sum(run.postings for run in last) <= MAX_POSTINGS
    )


class HeldTokens:
    """The sparse and token vectors of a store's rows, mapped from its files and checked as they are read."""

    def __init__(self, path: Path, views: Mapping[str, memoryview], manifest: Manifest) -> None:
        """Map the files.

        Args:
            path: the store's folder, for messages.
            views: the records of tokens, weights and multi, those that there are.
            manifest: the store's manifest.
        """
        self._path = path
        none = memoryview(b"")
        self._records = np.frombuffer(views.get("tokens", none), TOKEN_RECORD)
        self._weights = np.frombuffer(views.get("weights", none), WEIGHT_RECORD)
        length = 1 if manifest.multi is None else manifest.multi.dimension
        self._multi = np.frombuffer(views.get("multi", none), np.int8).reshape(-1, length)
        self._words = 0 if manifest.sparse is None else manifest.sparse.dimension

    def of(self, row: int, flags: int) -> PassageTokens:
        """Return what a row has, as its flags say."""
        return PassageTokens(
            sparse=self.sparse_of(row) if flags & HAS_SPARSE else None,
            multi=self.multi_of(row) if flags & HAS_MULTI else None,
        )

    def sparse_of(self, row: int) -> SparseVector:
        """Return the weights of a row's words."""
        found = self._part("weights", row, self._weights)
        return SparseVector(
            found["word"].astype(np.int32), found["weight"].astype(np.float32), self._words
        )

    def multi_of(self, row: int) -> NDArray[np.int8]:
        """Return the vectors of a row's tokens."""
        return self._part("multi", row, self._multi)

    def _part(self, name: str, row: int, held: NDArray[Any]) -> NDArray[Any]:
        if row < len(self._records):
            record = self._records[row]
            first = int(record[f"{name}_at"])
            found = held[first : first + int(record[name])]
            if len(found) == record[name] and zlib.crc32(found.tobytes()) == record[f"{name}_sum"]:
                return found
        kind = "sparse" if name == "weights" else "token"
        raise StoreError(
            f"the {kind} vectors in {self._path} are broken: a checksum does not fit; `quaver check "
            f"{self._path} --repair` restores what can be"
        )


class _TokenCopies:
    """Copies the sparse and token vectors of rows into the files of the next generation.

    Attributes:
        weights: records of weights written so far.
        multi: token vectors written so far.
        summed: CRC-32 of the records of tokens written so far.
    """

    def __init__(self, files: Files, rows: int, weights: int, multi: int) -> None:
        self.weights = self.multi = self.summed = 0
        self._has = "tokens" in files.columns
        self._widths = {name: column.width for name, column in files.columns.items()}
        if self._has:
            counts = {"weights": weights, "multi": multi}
            self._records = np.frombuffer(files.columns["tokens"].view(rows), TOKEN_RECORD)
            self._held = {
                name: files.columns[name].view(count)
                for name, count in counts.items()
                if name in files.columns
            }

    def size(self, rows: NDArray[np.intp]) -> int:
        """Return the bytes of some rows."""
        if not self._has:
            return 0
        found = self._records[rows]
        return found.nbytes + sum(
            int(found[name].sum()) * self._widths[name] for name in self._held
        )

    def write(self, files: Files, first: int, rows: NDArray[np.intp]) -> None:
        """Write some rows.

        Args:
            files: the files of the next generation.
            first: number of the first row there.
            rows: the rows here.
        """
        if not self._has:
            return
        part = self._records[rows]
        for name, held in self._held.items():
            width, written = self._widths[name], getattr(self, name)
            places = zip(part[f"{name}_at"].tolist(), part[name].tolist(), strict=True)
            data = b"".join(held[width * at : width * (at + count)] for at, count in places)
            counts = part[name].astype(np.int64)
            part[f"{name}_at"] = written + np.cumsum(counts) - counts
            files.columns[name].write(written, data)
            setattr(self, name, written + len(data) // width)
        seal(part)
        data = part.tobytes()
        files.columns["tokens"].write(first, data)
        self.summed = zlib.crc32(data, self.summed)


def _encoded(tokens: Sequence[PassageTokens] | None, count: int) -> _Tokens:
    """Return sparse and token vectors as they are written."""
    records = np.zeros(count, TOKEN_RECORD)
    flags = np.zeros(count, np.uint32)
    weights: list[NDArray[np.void]] = [np.zeros(0, WEIGHT_RECORD)]
    multi: list[bytes] = []
    for row, one in enumerate(tokens or ()):
        if one.sparse is not None:
            part = np.zeros(len(one.sparse), WEIGHT_RECORD)
            part["word"], part["weight"] = one.sparse.indices, one.sparse.values
            weights.append(part)
            records["weights"][row] = len(part)
            records["weights_sum"][row] = zlib.crc32(part.tobytes())
            flags[row] |= HAS_SPARSE
        if one.multi is not None:
            data = one.multi.tobytes()
            multi.append(data)
            records["multi"][row], records["multi_sum"][row] = len(one.multi), zlib.crc32(data)
            flags[row] |= HAS_MULTI
    for name in ("weights", "multi"):
        counts = records[name].astype(np.uint64)
        records[f"{name}_at"] = np.cumsum(counts) - counts
    return _Tokens(records, np.concatenate(weights), b"".join(multi), flags)


def _groups(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Return the ranges of neighboring runs to merge, each as (first, one past the last)."""
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


def _text_sizes(records: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the bytes of each row's head and text."""
    sizes: NDArray[np.int64] = records["head"].astype(np.int64) + records["text"]
    return sizes


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
