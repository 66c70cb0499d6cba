"""The target of a run: its settings, the records of finished shards, the manifest.

    TARGET/corpus-0001-3f2a9c1b7d52-00000.parquet   the output of a shard
    TARGET/_quaver/settings.json                    what every shard has in common
    TARGET/_quaver/done/NAME.json                   the record of a shard, written after its output
    TARGET/_quaver/manifest.jsonl                   the records of earlier runs, a line each
    TARGET/_quaver/failed/NAME.jsonl                rows without a vector, with reasons
    TARGET/_quaver/unfinished/                      files that are being written
    TARGET/_quaver/lock, driver.json, drivers/      who works on it: see driver.py

Workers write outputs and records, each under another name first. So a run can be killed at any moment
on any engine: a shard with a record and an output is finished, any other is done again and replaces
what there is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

import msgspec

from quaver.bulk.place import (
    Place,
    find_place,
    make_folder,
    read_bytes,
    read_many,
    reading,
    remove,
    write_bytes,
    writing,
)
from quaver.bulk.shard import Shard
from quaver.errors import BulkError, needs_extra

with needs_extra("bulk"):
    from pyarrow import fs

VERSION = 1
"""Of the layout of a target."""


@dataclass(frozen=True)
class Settings:
    """What all shards of a target have in common; a later run must have the same, but for the model's name.

    Attributes:
        version: of the layout.
        model: hub id or folder name of the first run.
        fingerprint: of the model, see `Embedder.fingerprint`; it says which model that is.
        precision: what the engine computes in.
        max_seq_length: maximum number of tokens in a text.
        prompt: text before every text.
        dimension: components of a vector, words of a vocabulary, or labels of a pair.
        output: "float32", "float16", "int8" or "binary".
        format: "parquet" or "npy".
        column: the column with the texts.
        keep: columns carried along.
        shard_bytes: bytes of a source file in a shard.
        kind: "dense", "sparse", "multi-vector" or "scores".
        second: the column with the second text of each pair, or "".
        activation: what the scores of pairs went through: "sigmoid" or "identity"; else "".
    """

    version: int
    model: str
    fingerprint: str
    precision: str
    max_seq_length: int
    prompt: str
    dimension: int
    output: str
    format: str
    column: str
    keep: tuple[str, ...]
    shard_bytes: int
    kind: str = "dense"
    second: str = ""
    activation: str = ""

    @property
    def described_model(self) -> str:
        """The model's name, and the first digits of its fingerprint."""
        return f"{self.model!r} (fingerprint {self.fingerprint[:12]})"


@dataclass(frozen=True)
class Record:
    """A finished shard: a line of the manifest.

    Attributes:
        output: name of the file in the target.
        source: the file it was made from, a path or URI.
        size: of that file, in bytes.
        modified: of that file, in nanoseconds since 1970.
        part: number of the part, from 0.
        parts: parts of the file.
        first: first row, record batch or byte of the part.
        last: the one after the last, -1 for the end.
        rows: rows of the output, as many as the part has.
        failed: rows without a vector.
        tokens: tokens that went through the model.
        truncated: texts that were longer than the model allows.
        bytes: size of the output.
        sha256: digest of the output.
        fingerprint: of the model.
        isa: the instruction set that computed it.
        threads: of the worker.
        quaver: version of Quaver.
        seconds: from opening the part to renaming its output.
        finished: seconds since 1970.
        known_as: see `Shard.known_as`.
    """

    output: str
    source: str
    size: int
    modified: int
    part: int
    parts: int
    first: int
    last: int
    rows: int
    failed: int
    tokens: int
    truncated: int
    bytes: int
    sha256: str
    fingerprint: str
    isa: str
    threads: int
    quaver: str
    seconds: float
    finished: float
    known_as: str = ""

    def is_of(self, shard: Shard) -> bool:
        """Whether this was made from a shard as it is now, by whatever name of its file."""
        made = Shard(**{f.name: getattr(self, f.name) for f in fields(Shard)})
        return replace(made, source=shard.source, known_as=shard.known_as) == shard


class Target:
    """A folder of outputs and what is known about them.

    Attributes:
        place: the folder.
    """

    def __init__(self, name: str) -> None:
        """Name a target; nothing is read or written yet.

        Args:
            name: a path or URI.
        """
        self.place = find_place(name)
        self._own = self.place / "_quaver"

    # --- Settings -----------------------------------------------------------------------------------
    def settings(self) -> Settings | None:
        """Return the settings of the target; None if there is none yet.

        Raises:
            BulkError: they cannot be read.
        """
        place = self._own / "settings.json"
        with reading(place):
            if not place.filesystem.get_file_info(place.path).is_file:
                return None
        try:
            return msgspec.json.decode(read_bytes(place), type=Settings)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BulkError(
                f"cannot read the settings of a target: {place.name}: {error}; restore the file, or embed "
                "into another target"
            ) from error

    def adopt(self, settings: Settings) -> Settings:
        """Write the settings of a target without outputs, or compare them with those of an existing one.

        Args:
            settings: of this run. The model may have another name: it is the same one by its fingerprint.

        Returns:
            the settings of the target, which outputs record.

        Raises:
            BulkError: the target was made with others; nothing was changed.
            BulkWriteError: the target cannot be written.
        """
        there = self.settings()
        if there is not None and replace(there, model=settings.model) != settings:
            with reading(self.place):
                outputs = self._list(self.place)
            if not outputs:  # nothing was made with those
                for name in ("done", "failed", "unfinished"):
                    with reading(self._own):
                        files = self._list(self._own / name)
                    self._delete(files)
                remove(self._own / "manifest.jsonl")
                there = None
        if there is None:
            with writing(self.place):
                make_folder(self.place)
            self._write("settings.json", msgspec.json.format(msgspec.json.encode(settings)))
            return settings
        different = [
            f"{name} {old!r}, not {new!r}"
            for name, old, new in (
                (f.name, getattr(there, f.name), getattr(settings, f.name))
                for f in fields(Settings)
                if f.name not in ("model", "fingerprint")
            )
            if old != new
        ]
        if there.fingerprint != settings.fingerprint:
            different.insert(
                0, f"the model {there.described_model}, not {settings.described_model}"
            )
        if different:
            raise BulkError(
                f"a target has one model and one set of options: {self.place.name} was made with "
                f"{'; '.join(different)}; give the same options, or another target"
            )
        return there

    # --- Records ------------------------------------------------------------------------------------
    def finished(self) -> dict[str, Record]:
        """Return the records whose output is there, by the output's name.

        Raises:
            BulkError: the target cannot be read.
        """
        with reading(self.place):
            there = {info.base_name: info.size for info in self._list(self.place)}
        found: dict[str, Record] = {}
        for record in self._records():
            newest = found.get(record.output)
            if newest is None or newest.finished <= record.finished:
                found[record.output] = record
        return {name: r for name, r in found.items() if there.get(name) == r.bytes}

    def _records(self) -> Iterable[Record]:
        manifest = self._own / "manifest.jsonl"
        with reading(manifest):
            whole = manifest.filesystem.get_file_info(manifest.path).is_file
            done = [self._own / "done" / info.base_name for info in self._list(self._own / "done")]
        lines = read_bytes(manifest).splitlines() if whole else []
        lines += read_many(read_bytes, done)
        for line in lines:
            try:
                yield msgspec.json.decode(line, type=Record)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise BulkError(
                    f"cannot read a record of {self._own.name}: {error}: {line[:80]!r}; delete that line of "
                    "manifest.jsonl or that file of done/, and its shard is embedded again"
                ) from error

    def record_of(self, shard: Shard, output: str) -> Record | None:
        """Return the record that a worker wrote for a shard as it is now, if any."""
        place = self._own / "done" / f"{shard.name}.json"
        with reading(place):
            names = [place.path, (self.place / output).path]
            written, made = place.filesystem.get_file_info(names)
        if not (written.is_file and made.is_file):
            return None
        record = msgspec.json.decode(read_bytes(place), type=Record)
        return record if record.is_of(shard) and record.bytes == made.size else None

    def add(self, shard: Shard, record: Record) -> None:
        """Record that a shard is finished."""
        self._write(f"done/{shard.name}.json", msgspec.json.encode(record))

    def write_failures(self, shard: Shard, failures: Mapping[int, str]) -> None:
        """Write which rows of a shard have no vector, and why; replace an earlier file."""
        name = f"failed/{shard.name}.jsonl"
        if failures:
            lines = [
                msgspec.json.encode(
                    {"source": shard.source, "part": shard.part, "row": row, "reason": why}
                )
                for row, why in failures.items()
            ]
            self._write(name, b"\n".join(lines) + b"\n")
        else:
            remove(self._own / name)

    def drop(self, records: Iterable[Record]) -> None:
        """Delete outputs whose source changed, and why rows of theirs have no result.

        Args:
            records: of these outputs.
        """
        for record in records:
            remove(self.place / record.output)
            remove(self._own / "failed" / f"{record.output.rpartition('.')[0]}.jsonl")

    def compact(self) -> dict[str, Record]:
        """Delete unfinished files, and move the records of finished shards into the manifest.

        Returns:
            the records, as `finished` does.
        """
        # First: they may be what fills the disk.
        self._delete(self._list(self._own / "unfinished"))
        loose = self._list(self._own / "done")  # a record that comes later stays for the next run
        found = self.finished()
        ordered = sorted(found.values(), key=lambda record: (record.source, record.part))
        if loose:
            lines = b"".join(msgspec.json.encode(record) + b"\n" for record in ordered)
            self._write("manifest.jsonl", lines)
        self._delete(loose)
        return {record.output: record for record in ordered}

    def _delete(self, files: Iterable[fs.FileInfo]) -> None:
        """Delete files; a worker of a killed run may finish and rename one in between."""
        with writing(self._own):
            for info in files:
                with suppress(FileNotFoundError):
                    self._own.filesystem.delete_file(info.path)

    def aside(self, name: str) -> Place:
        """Return a name for a file that is not complete, different in each call."""
        return self._own / "unfinished" / f"{name}.{uuid.uuid4().hex}"

    def _write(self, name: str, content: bytes) -> None:
        write_bytes(self._own / name, content, self.aside(name.rpartition("/")[2]))

    def _list(self, folder: Place) -> list[fs.FileInfo]:
        selector = fs.FileSelector(folder.path, allow_not_found=True)
        return [info for info in folder.filesystem.get_file_info(selector) if info.is_file]


def to_json(settings: Settings) -> str:
    """Return what a Parquet file says about its vectors or scores."""
    said = (
        "model",
        "fingerprint",
        "precision",
        "prompt",
        "kind",
        "dimension",
        "output",
        "activation",
    )
    return msgspec.json.encode({name: asdict(settings)[name] for name in said}).decode()
