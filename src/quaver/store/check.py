"""Check a store against its checksums, and repair it."""

from __future__ import annotations

import json
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.errors import (
    StoreError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreWriteError,
)
from quaver.store import manifest as manifests
from quaver.store import state as states
from quaver.store import status
from quaver.store.column import Column, sync_folder
from quaver.store.folder import (
    DATA_FILE,
    INVERTED,
    FolderStore,
    HeldTokens,
    agreed,
    column_widths,
    counts_of,
)
from quaver.store.lock import StoreLock
from quaver.store.manifest import Manifest
from quaver.store.nearest import sketches, words_of
from quaver.store.parquet import pieces
from quaver.store.payload import to_passage, to_version
from quaver.store.postings import Postings
from quaver.store.protocol import PassageTokens, StoredPassage
from quaver.store.rows import (
    DROPPED_RECORD,
    HAS_MULTI,
    HAS_SPARSE,
    HAS_VECTOR,
    ROW_RECORD,
    TOKEN_RECORD,
    from_text,
    sealed,
)
from quaver.store.state import Run, State
from quaver.store.status import read_notes
from quaver.store.terms import TermAnalyzer

Embed = Callable[[Sequence[Passage], Manifest], NDArray[np.float32]]
"""A function that embeds passages: float32 (len(passages), dimension), unit rows. With late chunking it gets
all passages of a document, in order."""

Encode = Callable[[Sequence[Passage], Manifest], Sequence[PassageTokens]]
"""A function that makes the sparse and token vectors of passages, with the models of the manifest."""

_PAGE = 2048
_ANEW = "repaired.new"


@dataclass(frozen=True)
class Damage:
    """A damaged part of a store.

    Attributes:
        part: the kind of part: "manifest", "state", "file", "row", "dropped", "text", "vector",
            "sketch", "words", "tokens", "sparse", "multi" or "notes".
        detail: the problem, in one line.
        id: the passage's id, if known.
        root: its folder; empty if unknown.
        source: its file; empty if unknown.
    """

    part: str
    detail: str
    id: str = ""
    root: str = ""
    source: str = ""


@dataclass(frozen=True)
class StoreCheck:
    """The result of checking a store.

    Attributes:
        location: the store's folder.
        passages: passages that are stored and can be read.
        damages: the damaged parts; empty if there are none.
    """

    location: str
    passages: int
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


@dataclass(frozen=True)
class StoreRepair:
    """The result of repairing a store.

    Attributes:
        check: the damage before the repair.
        passages: passages that are stored now.
        embedded: how many of them were embedded again, counted once for a vector and once for sparse or
            token vectors.
        lost: passages whose text could not be read, or with late chunking whose vector needs the text of
            such a passage; updating their folders restores those of files.
        returned: removed passages that are back, because the record of their removal was damaged;
            updating their folders removes those of files again.
    """

    check: StoreCheck
    passages: int
    embedded: int
    lost: int
    returned: int = 0


def check_store(path: Path) -> StoreCheck:
    """Read everything in a store and compare it with its checksums.

    Other processes may use the store meanwhile; the state committed at the beginning is checked.

    Args:
        path: the store's folder.

    Returns:
        what is wrong.

    Raises:
        StoreNotFoundError: there is no store at this path.
        StoreMismatchError: a later version of Quaver wrote it.
        StoreError: it cannot be read at all, or too little of it is left.
    """
    for _ in range(10):
        found = _Examined(path)
        if not found.is_outdated():
            break
    return found.result()


def repair_store(
    path: Path, embed: Embed | None = None, encode: Encode | None = None, *, wait: float = 0.0
) -> StoreRepair:
    """Repair a store.

    Readable passages are written to a new generation, which replaces the old one atomically.
    Passages with a damaged vector are embedded again, and so are those with damaged sparse or token
    vectors.

    Args:
        path: the store's folder.
        embed: embeds passages; needed only if `check_store` finds a damaged vector.
        encode: makes sparse and token vectors; needed only if it finds damaged ones.
        wait: seconds to wait for a process that writes.

    Returns:
        what was done.

    Raises:
        StoreLockedError: another process writes to the store.
        StoreError: it cannot be repaired, or vectors are damaged and no model was given.
    """
    held = StoreLock(path, wait=wait) if path.is_dir() else None
    try:
        found = _Examined(path)
        checked = found.result()
        if checked.ok:
            return StoreRepair(checked, checked.passages, 0, 0)
        if found.vectors_lost and embed is None:
            raise StoreError(
                f"{found.vectors_lost} passages of {path} need new vectors: name the model "
                f"that made the store ({found.manifest.model})"
            )
        if found.tokens_lost and encode is None:
            raise StoreError(
                f"{found.tokens_lost} passages of {path} need new sparse or token vectors: give "
                "`encode`, which makes them"
            )
        if any(damage.part == "notes" for damage in checked.damages):
            status.write_notes(path, {})
        passages = checked.passages
        if all(damage.part in ("notes", "manifest") for damage in checked.damages):
            found.manifest.write(path)
        else:
            passages = _write_anew(path, found, embed, encode)
        embedded = found.vectors_lost + found.tokens_lost
        return StoreRepair(checked, passages, embedded, found.lost, found.returned)
    except OSError as error:
        raise StoreWriteError(f"cannot repair {path}: {error.strerror or error}") from error
    finally:
        if held is not None:
            held.release()


class _Examined:
    """A store, read as far as possible.

    Attributes:
        manifest: the store's manifest.
        vectors_lost: readable passages with a damaged vector.
        tokens_lost: readable passages with damaged sparse or token vectors.
        lost: stored passages that cannot be read.
        returned: removed passages that are stored again, because their removal is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Read everything."""
        self.path = path
        self.damages: list[Damage] = []
        self.vectors_lost = self.tokens_lost = self.lost = self.returned = 0
        self.passages_read = 0
        self.state: State | None = None
        self.manifest = self._manifest()
        self._sound: NDArray[np.intp] = np.empty(0, np.intp)
        self._vector_sound: NDArray[np.bool_] = np.empty(0, np.bool_)
        self.generation = self._generation()
        self._columns = self._open_columns()
        try:
            self._examine()
        finally:
            for column in self._columns.values():
                if column is not None:
                    column.close()
        try:
            read_notes(path)
        except StoreError as error:
            self._say("notes", str(error))

    def is_outdated(self) -> bool:
        """Return whether the files disappeared because a writer started a new generation."""
        if self.state is None or not any(damage.part == "file" for damage in self.damages):
            return False
        try:
            return State.read(self.path).generation != self.state.generation
        except StoreError:
            return False

    def result(self) -> StoreCheck:
        """Return the result."""
        return StoreCheck(str(self.path), self.passages_read, tuple(self.damages))

    def _say(self, part: str, detail: str, **whose: str) -> None:
        self.damages.append(Damage(part, detail, **whose))

    # --- What everything hangs on ---------------------------------------------------------------
    def _manifest(self) -> Manifest:
        try:
            made: Manifest | StoreError = Manifest.read(self.path)
        except StoreMismatchError:
            raise
        except StoreError as error:
            made = error
        try:
            self.state = State.read(self.path)
            kept = Manifest.parse(self.state.manifest, where=states.FILE_NAME)
        except StoreError as error:
            if not isinstance(made, Manifest):
                if isinstance(made, StoreNotFoundError):
                    raise made from error
                raise StoreError(
                    f"{made}; and {error}: too little is left of the store at {self.path}; index "
                    "again into another place"
                ) from error
            self._say("state", str(error))
            return made
        whole = agreed(self.state.manifest, made) if isinstance(made, Manifest) else None
        if whole is not None:
            return whole
        if isinstance(made, StoreNotFoundError):
            self._say("manifest", f"{manifests.FILE_NAME} is missing")
        elif isinstance(made, StoreError):
            self._say("manifest", f"{manifests.FILE_NAME} is broken: {made}")
        else:
            self._say(
                "manifest", f"{manifests.FILE_NAME} is not the one that the store was made with"
            )
        return kept

    def _generation(self) -> int:
        if self.state is not None:
            return self.state.generation
        found = {
            int(match[1])
            for entry in self.path.iterdir()
            if (match := re.fullmatch(r"rows\.(\d+)", entry.name))
        }
        # If there are two, one was being written: the one with more records is complete.
        sizes = {g: (self.path / f"rows.{g}").stat().st_size for g in found}
        return max(found, key=lambda g: (sizes[g], g), default=1)

    def _open_columns(self) -> dict[str, Column | None]:
        columns: dict[str, Column | None] = {}
        for name, width in column_widths(self.manifest).items():
            path = self.path / f"{name}.{self.generation}"
            try:
                columns[name] = Column(path, width, writable=False)
            except FileNotFoundError:
                columns[name] = None
                self._say("file", f"{path.name} is missing")
        return columns

    def _held(self, name: str, wanted: int | None) -> memoryview:
        """Return the records of a file that are committed and present."""
        column = self._columns[name]
        if column is None:
            return memoryview(b"")
        there = column.records()
        if wanted is not None and there < wanted:
            self._say("file", f"{column.path.name} must hold {wanted} records: it has {there}")
        return column.view(there if wanted is None else min(there, wanted))

    # --- Everything else --------------------------------------------------------------------------
    def _examine(self) -> None:
        state = self.state
        data = self._held("rows", None if state is None else state.rows)
        records = np.frombuffer(data, ROW_RECORD)
        sound = np.ones(len(records), np.bool_)
        if state is None or zlib.crc32(data) != state.rows_sum or len(records) < state.rows:
            sound = sealed(records)
            for row in np.flatnonzero(~sound).tolist():
                self._say("row", f"row {row} is broken")
        stored, missing = self._stored(records, sound)
        self.lost += missing + int((stored & ~sound).sum())
        rows = np.flatnonzero(stored & sound)
        texts = self._held("texts", None if state is None else state.texts)
        readable = np.array([self._reads(records[row], texts) for row in rows], np.bool_)
        self.lost += int((~readable).sum())
        self._sound = rows[readable]
        self.passages_read = len(self._sound)
        self._records, self._texts = records, texts
        self._examine_vectors(records, None if state is None else state.rows)
        self._examine_tokens(records, state)
        if state is not None:
            self._examine_words(state, len(records))
            if self.manifest.sparse is not None:
                self._examine_sparse(state, len(records))

    def _stored(
        self, records: NDArray[np.void], sound: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], int]:
        """Return which rows are stored, and how many are beyond the end of their file."""
        state = self.state
        rows = len(records) if state is None else state.rows
        data = self._held("dropped", None if state is None else state.dropped)
        dropped = np.frombuffer(data, DROPPED_RECORD)
        fits = (dropped["row"] == ~dropped["inverse"]) & (dropped["row"] < rows)
        broken = int((~fits).sum())
        if broken:
            self._say("dropped", f"{broken} removals are broken: what they removed is back")
        elif state is not None and zlib.crc32(data) != state.dropped_sum:
            self._say("dropped", "the removals are broken: what some removed may be back")
        whole = np.ones(rows, np.bool_)
        whole[dropped["row"][fits]] = False
        missing, stored = int(whole[len(records) :].sum()), whole[: len(records)]
        # If an id occurs twice because a removal is damaged, the later row is newer.
        alive = np.flatnonzero(stored & sound)[::-1]
        ids = np.ascontiguousarray(records["id"][alive])
        _, newest = np.unique(ids, axis=0, return_index=True)
        older = np.ones(len(alive), np.bool_)
        older[newest] = False
        repeated = int(older.sum())
        if repeated and not any(damage.part == "dropped" for damage in self.damages):
            self._say("dropped", f"{repeated} passages are stored twice: their removal is missing")
        stored[alive[older]] = False
        if state is not None:
            # What the state counts as stored, against what is: removals that got lost.
            back = int(stored.sum()) + missing - (state.rows - state.dropped)
            self.returned = max(0, back)
        return stored, missing

    def _reads(self, record: np.void, texts: memoryview) -> bool:
        """Return whether a passage's head and text can be read."""
        at, head, text = int(record["at"]), int(record["head"]), int(record["text"])
        data = texts[at : at + head]
        whose = {"id": str(UUID(int=int(record["id"][0]) << 64 | int(record["id"][1])))}
        if len(data) < head or zlib.crc32(data) != record["head_sum"]:
            self._say("text", "its fields cannot be read", **whose)
            return False
        payload = json.loads(bytes(data))
        whose = {key: str(payload.get(key, "")) for key in ("id", "root", "source")}
        data = texts[at + head : at + head + text]
        if len(data) < text or zlib.crc32(data) != record["text_sum"]:
            self._say("text", "its text cannot be read", **whose)
            return False
        return True

    def _examine_vectors(self, records: NDArray[np.void], wanted: int | None) -> None:
        dimension = self.manifest.dimension
        vectors = np.frombuffer(self._held("vectors", wanted), np.float32).reshape(-1, dimension)
        stored = np.frombuffer(self._held("sketches", wanted), np.uint64)
        stored = stored.reshape(-1, words_of(dimension))
        self._vector_sound = np.zeros(len(records), np.bool_)
        unlike = 0
        for first in range(0, len(self._sound), _PAGE):
            rows = self._sound[first : first + _PAGE]
            rows = rows[(records["flags"][rows] & HAS_VECTOR) != 0]
            there = rows[rows < len(vectors)]
            found = vectors[there]
            sums = np.array([zlib.crc32(vector.data) for vector in found], np.uint32)
            fits = sums == records["vector_sum"][there]
            self._vector_sound[there[fits]] = True
            for row in [*there[~fits].tolist(), *rows[len(there) :].tolist()]:
                high, low = records["id"][row].tolist()
                self.vectors_lost += 1
                self._say("vector", "its vector is broken", id=str(UUID(int=high << 64 | low)))
            known = there[fits][there[fits] < len(stored)]
            expected = sketches(found[fits][: len(known)])
            unlike += int((stored[known] != expected).any(axis=1).sum())
        if unlike:
            self._say(
                "sketch", f"the sketches of {unlike} vectors are broken: they may not be found"
            )
        self._vectors = vectors

    def _examine_tokens(self, records: NDArray[np.void], state: State | None) -> None:
        counts = {} if state is None else counts_of(state)
        names = [name for name in ("tokens", "weights", "multi") if name in self._columns]
        views: dict[str, memoryview] = {n: self._held(n, counts.get(n)) for n in names}
        self._tokens = HeldTokens(self.path, views, self.manifest)
        # What of each row can be read: `HAS_SPARSE` and `HAS_MULTI`.
        self._readable = np.zeros(len(records), np.uint32)
        if not names:
            return
        places = np.frombuffer(views["tokens"], TOKEN_RECORD)
        whole = np.zeros(len(records), np.bool_)
        whole[: len(places)] = sealed(places)[: len(records)]
        for row in np.flatnonzero(~whole[: len(places)]).tolist():
            self._say("tokens", f"record {row} of sparse and token vectors is broken")
        for row in self._sound.tolist():
            flags = int(records["flags"][row])
            broken = []
            for flag, part in ((HAS_SPARSE, "sparse"), (HAS_MULTI, "multi")):
                if not flags & flag:
                    continue
                try:
                    if not whole[row]:
                        raise StoreError("its record is broken")
                    self._tokens.of(row, flag)
                    self._readable[row] |= flag
                except StoreError:
                    broken.append(part)
            self.tokens_lost += bool(broken)
            for part in broken:
                high, low = records["id"][row].tolist()
                what = "sparse vector is" if part == "sparse" else "token vectors are"
                self._say(part, f"its {what} broken", id=str(UUID(int=high << 64 | low)))

    def _speaks(self, row: int) -> bool:
        """Return whether a passage has words that keyword search would find."""
        passage = self._passage(row).passage
        analyzer = TermAnalyzer(self.manifest.language)
        return bool(analyzer.document(embedded_text(passage.heading, passage.text)).indices)

    def _examine_words(self, state: State, rows: int) -> None:
        with_words = self._examine_postings("words", state.generation, state.runs, rows)
        if with_words is None:
            return
        silent = [row for row in self._sound.tolist() if not with_words[row] and self._speaks(row)]
        if silent:
            self._say("words", f"{len(silent)} passages have no words: keyword search misses them")

    def _examine_sparse(self, state: State, rows: int) -> None:
        found = self._examine_postings("sparse", state.generation, state.sparse_runs, rows)
        if found is None:
            return
        silent = [
            row
            for row in self._sound[~found[self._sound]].tolist()
            if self._readable[row] & HAS_SPARSE and len(self._tokens.sparse_of(row))
        ]
        if silent:
            self._say(
                "sparse", f"{len(silent)} passages are missing in the index of sparse vectors"
            )

    def _examine_postings(
        self, name: str, generation: int, runs: Sequence[Run], rows: int
    ) -> NDArray[np.bool_] | None:
        """Return which rows have postings in an inverted index; None if it is damaged."""
        with_words = np.zeros(rows, np.bool_)
        whole = True
        for run in runs:
            path = self.path / f"{name}.{generation}.{run.number}"
            try:
                column = Column(path, 1, writable=False)
            except FileNotFoundError:
                self._say(name, f"{path.name} is missing")
                whole = False
                continue
            try:
                data = column.view(column.records())
                if len(data) != run.size or zlib.crc32(data) != run.sum:
                    self._say(name, f"{path.name} is broken: its checksum does not fit")
                    whole = False
                elif not (postings := Postings.read(data, path, INVERTED[name])).is_sound(rows):
                    self._say(name, f"{path.name} contradicts the store")
                    whole = False
                else:
                    with_words[np.unique(postings.rows)] = True
            finally:
                column.close()
        return with_words if whole else None

    # --- What can be taken over -------------------------------------------------------------------
    def sound_passages(self, embed: Embed | None, encode: Encode | None) -> Iterator[StoredPassage]:
        """Yield the readable passages, with new vectors for damaged ones."""
        for first in range(0, len(self._sound), _PAGE):
            rows = self._sound[first : first + _PAGE]
            page = [self._passage(row) for row in rows.tolist()]
            wanted = (self._records["flags"][rows] & HAS_VECTOR) != 0
            sound = self._vector_sound[rows]
            anew = np.flatnonzero(wanted & ~sound).tolist()
            vectors: dict[int, NDArray[np.float32]] = {
                i: self._vectors[rows[i]] for i in np.flatnonzero(wanted & sound).tolist()
            }
            gone: set[int] = set()
            if anew and embed is not None and self.manifest.late_chunking:
                again = self._documents_again([int(rows[i]) for i in anew], embed)
                vectors |= {i: again[int(rows[i])] for i in anew if int(rows[i]) in again}
                gone = {i for i in anew if i not in vectors}
                self.vectors_lost -= len(gone)
                self.lost += len(gone)
            elif anew and embed is not None:
                made = embed([page[i].passage for i in anew], self.manifest)
                vectors |= dict(zip(anew, made, strict=True))
            tokens = [self._tokens.of(row, int(self._readable[row])) for row in rows.tolist()]
            flags = self._records["flags"][rows] & (HAS_SPARSE | HAS_MULTI)
            lost = np.flatnonzero(flags != self._readable[rows]).tolist()
            if lost and encode is not None:
                encoded = encode([page[i].passage for i in lost], self.manifest)
                for i, one in zip(lost, encoded, strict=True):
                    tokens[i] = one
            for i, stored in enumerate(page):
                if i not in gone:
                    yield replace(stored, vector=vectors.get(i), tokens=tokens[i])

    def _documents_again(self, rows: Sequence[int], embed: Embed) -> dict[int, NDArray[np.float32]]:
        """Embed the documents of some rows with late chunking, and return the vectors of their rows.

        A file of which a passage cannot be read is left out: its passages need all of it.
        """
        found: dict[int, NDArray[np.float32]] = {}
        tried: set[int] = set()
        for row in rows:
            if row in tried:
                continue
            first = self._passage(row)
            mine = [(row, first)]
            if first.passage.source:
                roots, sources = (self._records[name] for name in ("root", "source"))
                sound = self._sound
                same = (roots[sound] == roots[row]) & (sources[sound] == sources[row])
                held = [(other, self._passage(other)) for other in sound[same].tolist()]
                mine = [(other, one) for other, one in held if one.version == first.version]
            tried |= {other for other, _ in mine}
            if first.version is not None and len(mine) < first.version.passages:
                continue
            mine.sort(key=lambda one: one[1].passage.start)
            vectors = embed([one.passage for _, one in mine], self.manifest)
            found |= {other: vector for (other, _), vector in zip(mine, vectors, strict=True)}
        return found

    def _passage(self, row: int) -> StoredPassage:
        record = self._records[row]
        at, head, text = int(record["at"]), int(record["head"]), int(record["text"])
        payload: dict[str, Any] = json.loads(bytes(self._texts[at : at + head]))
        payload["text"] = from_text(bytes(self._texts[at + head : at + head + text]))
        return StoredPassage(to_passage(payload, self.path), to_version(payload))


def _write_anew(path: Path, found: _Examined, embed: Embed | None, encode: Encode | None) -> int:
    """Write the readable passages as a new generation, which replaces all others.

    Returns:
        the number of passages.
    """
    anew = path / _ANEW
    shutil.rmtree(anew, ignore_errors=True)
    try:
        store = FolderStore.create(anew, found.manifest)
        try:
            for piece in pieces(found.sound_passages(embed, encode)):
                store.upsert(
                    piece.passages, piece.vectors, versions=piece.versions, tokens=piece.tokens
                )
                store.flush()
            store.optimize()
            count = store.count()
        finally:
            store.close()
        written = State.read(anew)
        generation = 1 + max(
            (
                int(number)
                for entry in path.iterdir()
                if (match := DATA_FILE.fullmatch(entry.name))
                for number in match.groups()[:2]
                if number
            ),
            default=0,
        )
        for entry in sorted(anew.iterdir()):
            if DATA_FILE.fullmatch(entry.name):
                name, _, end = entry.name.partition(".")
                tail = "." + end.partition(".")[2] if "." in end else ""
                entry.rename(path / f"{name}.{generation}{tail}")
        sync_folder(path)
        commit = int(time.time()) if found.state is None else found.state.commit
        # From here on the new generation is the store; readers of the old one notice the change.
        replace(written, generation=generation, commit=commit + 1).write(path)
        found.manifest.write(path)
    finally:
        shutil.rmtree(anew, ignore_errors=True)
    FolderStore.drop_strangers(path, State.read(path))
    return count
