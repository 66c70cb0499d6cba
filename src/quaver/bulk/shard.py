"""Shards: the parts of a source, each read in blocks of rows."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import msgspec

from quaver.bulk.place import Listed, Place, find_place, reading
from quaver.errors import BulkError, InputError, needs_extra

with needs_extra("bulk"):
    import pyarrow as pa
    from pyarrow import ipc, parquet

ROWS = 1024
"""Rows in a block."""
BLOCK_BYTES = 16 << 20
"""Bytes of lines after which a block ends earlier."""
LINE_BYTES = 64 << 20
"""Bytes of the longest line; a longer one fails."""

ENDINGS = re.compile(
    r"\.(?P<format>parquet|pq|arrow|feather|ipc|"
    r"(?P<lines>jsonl|ndjson|csv|tsv|txt)(?P<packed>\.(?:gz|bz2|zst))?)$",
    re.IGNORECASE,
)
"""File names that say their format."""

_FORMATS = {"pq": "parquet", "feather": "arrow", "ipc": "arrow", "ndjson": "jsonl", "txt": "text"}


@dataclass(frozen=True)
class Shard:
    """A part of a source file: the unit of work that becomes one output file.

    Attributes:
        source: the file, a path or URI.
        size: of the file, in bytes.
        modified: of the file, in nanoseconds since 1970.
        part: the number of this part in the file, from 0.
        parts: parts of the file.
        first: first row (Parquet), record batch (Arrow) or byte (lines) of the part.
        last: the one after the last; -1 for the end of the file.
        known_as: another path or URI of the file, by which the target has it; "" for the same.
    """

    source: str
    size: int
    modified: int
    part: int
    parts: int
    first: int
    last: int
    known_as: str = ""

    @property
    def name(self) -> str:
        """The name of its output, without ending: the file's, a digest of the whole path, the part."""
        source = self.known_as or self.source
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        path = PurePosixPath(source.partition("?")[0])
        stem = re.sub(r"[^\w.-]", "_", ENDINGS.sub("", path.name)).lstrip("._") or "file"
        return f"{stem[:100]}-{digest}-{self.part:05d}"

    @property
    def weight(self) -> int:
        """About the bytes of the file that belong to it, for progress."""
        return self.size // self.parts

    @property
    def place(self) -> Place:
        """The file, of this process's filesystem."""
        return find_place(self.source)

    def describe(self) -> str:
        """Return the file, and the part if there are several."""
        return (
            f"{self.source}, part {self.part + 1} of {self.parts}"
            if self.parts > 1
            else self.source
        )


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a shard.

    Attributes:
        texts: a text or a pair of texts per row, None where there is none.
        reasons: why there is none, by position in the block.
        kept: the columns to carry along, with the same rows; None without such columns.
        share: the share of the shard that is read with this block, from 0 to 1.
        absent: kept columns that no row has, although rows are whole; JSON lines have no header.
    """

    texts: list[Text | None]
    reasons: dict[int, str]
    kept: Any
    share: float
    absent: frozenset[str] = frozenset()


Text = str | tuple[str, str]
"""What a row has: a text, or a pair of them."""


def file_format(path: str) -> str:
    """Return a file's format by its ending: "parquet", "arrow", "jsonl", "csv", "tsv" or "text"."""
    found = ENDINGS.search(path)
    assert found is not None, path
    ending = (found["lines"] or found["format"]).lower()
    return _FORMATS.get(ending, ending)


def split_file(file: Listed, shard_bytes: int) -> list[Shard]:
    """Split a file into shards of about the same size.

    A Parquet file is split between rows, an Arrow file between record batches, and lines of JSON or
    text at line ends. CSV is not split, because a quoted field may contain line ends; neither is a
    compressed file. A file that cannot be opened is one shard, which then fails.

    Args:
        file: the file.
        shard_bytes: bytes of the file in a shard.

    Returns:
        the shards in the order of the file.
    """
    parts = max(1, round(file.size / shard_bytes))
    bounds = [0, -1]
    if parts > 1:
        try:
            with reading(file.place):
                bounds = _bounds(file, parts)
        except BulkError:
            bounds = [0, -1]
    number = len(bounds) - 1
    return [
        Shard(file.place.name, file.size, file.modified, part, number, first, last)
        for part, (first, last) in enumerate(pairwise(bounds))
    ]


def _bounds(file: Listed, parts: int) -> list[int]:
    kind = file_format(file.place.path)
    if kind in ("csv", "tsv") or ENDINGS.search(file.place.path)["packed"]:  # type: ignore[index]
        return [0, -1]
    if kind in ("jsonl", "text"):
        return _even(file.size, parts)
    with file.place.filesystem.open_input_file(file.place.path) as stream:
        if kind == "arrow":
            if not _is_file(stream):
                return [0, -1]
            return _even(ipc.open_file(stream).num_record_batches, parts)
        metadata = parquet.ParquetFile(stream).metadata
        starts = [0]
        for group in range(metadata.num_row_groups):
            starts.append(starts[-1] + metadata.row_group(group).num_rows)
    # A part ends with a row group if one ends near: reading part of a group decodes all before it.
    even = _even(metadata.num_rows, parts)
    near = metadata.num_rows / parts / 4
    snapped = {min(starts, key=lambda start: abs(start - bound)) for bound in even}
    return sorted(
        {0, metadata.num_rows}
        | {next((s for s in snapped if abs(s - bound) <= near), bound) for bound in even}
    )


def _even(total: int, parts: int) -> list[int]:
    """Return the bounds of about equal parts of 0..total, none of them empty."""
    return sorted({total * part // parts for part in range(parts + 1)}) if total else [0, -1]


def open_parquet(stream: Any) -> Any:
    """Open a Parquet file of which row groups of any size are read in bounded memory.

    Args:
        stream: the file, open.

    Returns:
        a `ParquetFile` that reads column chunks in pieces of 4 MiB; by default it reads them whole.

    Raises:
        ArrowException: the file is not Parquet.
    """
    return parquet.ParquetFile(stream, buffer_size=4 << 20, pre_buffer=False)


def read_footer(place: Place) -> tuple[int, Any]:
    """Return the rows and the schema of a Parquet file.

    Args:
        place: the file.

    Raises:
        BulkError: it cannot be read.
    """
    with reading(place), place.filesystem.open_input_file(place.path) as stream:
        file = parquet.ParquetFile(stream)
        return int(file.metadata.num_rows), file.schema_arrow


class Reader:
    """Reads the blocks of shards."""

    def __init__(
        self, column: str, keep: Sequence[str], second: str = "", rows: int = ROWS
    ) -> None:
        """Choose the columns.

        Args:
            column: with the texts; a .txt file has one column, which takes this name.
            keep: columns to carry along.
            second: the column with the second text of each row; "" if a row is one text.
            rows: rows in a block.
        """
        self.texts = (column, second) if second else (column,)
        self.keep, self.rows = tuple(keep), rows

    def __call__(self, shard: Shard) -> Generator[Block, None, None]:
        """Yield the blocks of a shard.

        Args:
            shard: the shard.

        Yields:
            blocks; together they have every row once. A shard without rows is one empty block.

        Raises:
            BulkError: the file cannot be read, or has a column twice.
            InputError: it lacks a column, or the column is not text.
        """
        place = shard.place
        kind = file_format(place.path)
        read = {
            "parquet": self._parquet,
            "arrow": self._arrow,
            "jsonl": self._json_lines,
            "csv": self._csv,
            "tsv": self._csv,
            "text": self._text,
        }[kind]
        with reading(place):
            yield from read(shard, place)

    # --- Columns ------------------------------------------------------------------------------------
    def _parquet(self, shard: Shard, place: Place) -> Iterator[Block]:
        with place.filesystem.open_input_file(place.path) as stream:
            file = open_parquet(stream)
            self._check(file.schema_arrow, place)
            metadata = file.metadata
            last = metadata.num_rows if shard.last < 0 else shard.last
            groups: list[int] = []
            begin = skip = 0
            for group in range(metadata.num_row_groups):
                end = begin + metadata.row_group(group).num_rows
                if begin < last and shard.first < end:
                    skip = skip if groups else shard.first - begin
                    groups.append(group)
                begin = end
            if not groups:
                yield self._without_rows(file.schema_arrow)
                return
            left = total = last - shard.first
            columns = list(dict.fromkeys((*self.texts, *self.keep)))
            for batch in file.iter_batches(self.rows, row_groups=groups, columns=columns):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                rows = batch.slice(skip, left)
                skip, left = 0, left - rows.num_rows
                yield self._block(rows, 1 - left / total)
                if not left:
                    return

    def _arrow(self, shard: Shard, place: Place) -> Iterator[Block]:
        with place.filesystem.open_input_file(place.path) as stream:
            if _is_file(stream):
                file = ipc.open_file(stream)
                last = file.num_record_batches if shard.last < 0 else shard.last
                batches: Iterable[Any] = map(file.get_batch, range(shard.first, last))
                total = last - shard.first
            else:
                file = ipc.open_stream(stream)
                batches, total = file, 0
            self._check(file.schema, place)
            empty = True
            for number, batch in enumerate(batches):
                for begin in range(0, batch.num_rows, self.rows):
                    empty = False
                    yield self._block(
                        batch.slice(begin, self.rows), number / total if total else 0.0
                    )
            if empty:
                yield self._without_rows(file.schema)

    def _without_rows(self, schema: Any) -> Block:
        """Return an empty block, so that an empty output has the columns of the others."""
        kept = pa.schema([schema.field(name) for name in self.keep])
        return Block([], {}, pa.RecordBatch.from_pylist([], kept) if self.keep else None, 1.0)

    def _check(self, schema: Any, place: Place) -> None:
        check_columns(schema.names, (*self.texts, *self.keep), place)
        for column in self.texts:
            kind = schema.field(column).type
            value = kind.value_type if pa.types.is_dictionary(kind) else kind
            text = pa.types.is_string(value) or pa.types.is_large_string(value)
            if not (text or pa.types.is_null(value) or value == pa.string_view()):
                raise InputError(
                    f"a column of texts must be strings: column {column!r} of {place.name} is {kind}"
                )

    def _block(self, batch: Any, share: float) -> Block:
        texts, reasons = _texts_of(batch.column(self.texts[0]))
        found: list[Text | None] = list(texts)
        if len(self.texts) == 2:
            seconds, more = _texts_of(batch.column(self.texts[1]))
            first, second = self.texts
            reasons = {i: f"{second}: {reason}" for i, reason in more.items()} | {
                i: f"{first}: {reason}" for i, reason in reasons.items()
            }
            found = [
                None if a is None or b is None else (a, b)
                for a, b in zip(texts, seconds, strict=True)
            ]
        return Block(found, reasons, batch.select(self.keep) if self.keep else None, share)

    # --- Lines --------------------------------------------------------------------------------------
    def _json_lines(self, shard: Shard, place: Place) -> Iterator[Block]:
        rows = _Rows(self.keep, self.rows)
        for line, share in _lines(shard, place):
            if line is not None and not line.strip():
                continue
            rows.add(*self._json_row(line))
            if rows.full(len(line or b"")):
                yield rows.take(share)
        if rows or not rows.taken:
            yield rows.take(1.0)

    def _json_row(self, line: bytes | None) -> tuple[Text | None, str, Mapping[str, Any]]:
        if line is None:
            return None, f"longer than {LINE_BYTES >> 20} MiB", {}
        try:
            row = _from_json(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return None, f"not JSON: {error}", {}
        except RecursionError:
            return None, "not JSON: nested too deeply", {}
        if not isinstance(row, dict):
            return None, "not a JSON object", {}
        for column in self.texts:
            if column not in row:
                return None, no_column(column), row
            text = row[column]
            if not isinstance(text, str):
                reason = "null" if text is None else f"not text: {type(text).__name__}"
                return None, self._about(column, reason), row
        return self._text_of(row), "", row

    def _text_of(self, row: Mapping[str, str]) -> Text:
        first = row[self.texts[0]]
        return first if len(self.texts) == 1 else (first, row[self.texts[1]])

    def _about(self, column: str, reason: str) -> str:
        """Name the column of a reason where there are two."""
        return reason if len(self.texts) == 1 else f"{column}: {reason}"

    def _text(self, shard: Shard, place: Place) -> Iterator[Block]:
        check_columns(self.texts[:1], (*self.texts, *self.keep), place)
        rows = _Rows(self.keep, self.rows)
        for line, share in _lines(shard, place):
            text, reason = None, f"longer than {LINE_BYTES >> 20} MiB"
            if line is not None:
                try:
                    text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
                except UnicodeDecodeError as error:
                    reason = f"not UTF-8: byte {error.start} of the line"
            rows.add(text, reason, {self.texts[0]: text})
            if rows.full(len(line or b"")):
                yield rows.take(share)
        if rows or not rows.taken:
            yield rows.take(1.0)

    def _csv(self, shard: Shard, place: Place) -> Iterator[Block]:
        csv.field_size_limit(LINE_BYTES)
        delimiter = "\t" if file_format(place.path) == "tsv" else ","
        with place.filesystem.open_input_stream(place.path) as stream:
            lines = io.TextIOWrapper(
                io.BufferedReader(stream, 1 << 20), "utf-8-sig", "surrogateescape", newline=""
            )
            ended = False

            def with_end() -> Iterator[str]:
                nonlocal ended
                yield from lines
                ended = True
                yield _END  # a row of its own, unless a quote is open

            reader = csv.reader(with_end(), delimiter=delimiter)
            rows = _Rows(self.keep, self.rows)
            header: list[str] | None = None
            line = 0
            try:
                for values in reader:
                    if ended:
                        if values != [_END]:
                            raise BulkError(
                                f"a quote must be closed: one that opens in line {line + 1} of "
                                f"{place.name} or after it is not; close it, or write it twice"
                            )
                        break
                    line = reader.line_num
                    if header is None:
                        header = values
                        check_columns(header, (*self.texts, *self.keep), place)
                        continue
                    if not values:
                        continue
                    row = dict(zip(header, values, strict=False))
                    if len(values) != len(header):
                        rows.add(None, f"has {len(values)} fields, the header {len(header)}", row)
                    elif broken := [name for name in self.texts if _escaped(row[name])]:
                        rows.add(None, self._about(broken[0], "not UTF-8"), row)
                    else:
                        rows.add(self._text_of(row), "", row)
                    if rows.full(sum(map(len, values))):
                        yield rows.take(0.0)
                if rows or not rows.taken:
                    yield rows.take(1.0)
            except csv.Error as error:
                raise BulkError(
                    f"cannot read {place.name} as CSV: line {reader.line_num}: {error}"
                ) from error


_END = "end"
"""The line after the last one of a CSV file."""


@dataclass
class _Rows:
    """Rows of a text format until they fill a block."""

    keep: Sequence[str]
    most: int
    texts: list[Text | None] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    kept: list[Mapping[str, Any]] = field(default_factory=list)
    size: int = 0
    taken: bool = False
    found: set[str] = field(default_factory=set)
    whole: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: Text | None, reason: str, row: Mapping[str, Any]) -> None:
        if text is None:
            self.reasons[len(self.texts)] = reason
        self.texts.append(text)
        if self.keep:
            self.whole = self.whole or bool(row)
            if len(self.found) < len(self.keep):
                self.found.update(name for name in self.keep if name in row)
            self.kept.append({name: _as_text(row.get(name)) for name in self.keep})

    def full(self, size: int) -> bool:
        self.size += size
        return len(self.texts) >= self.most or self.size >= BLOCK_BYTES

    def take(self, share: float) -> Block:
        kept = None
        if self.keep:
            schema = pa.schema([(name, pa.string()) for name in self.keep])
            kept = pa.RecordBatch.from_pylist(self.kept, schema=schema)
        absent = frozenset(self.keep) - self.found if self.whole else frozenset()
        block = Block(self.texts, self.reasons, kept, share, absent)
        self.texts, self.reasons, self.kept, self.size = [], {}, [], 0
        self.found, self.whole = set(), False
        self.taken = True
        return block


def no_column(name: str) -> str:
    """Return the reason of a row of JSON lines without a column."""
    return f"no column {name!r}"


def _from_json(line: bytes) -> Any:
    """Return the value of a line; NaN and Infinity, which Python's json module writes, become None."""
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        if b"NaN" not in line and b"Infinity" not in line:
            raise
        try:
            return msgspec.json.decode(msgspec.json.encode(json.loads(line)))
        except (ValueError, OverflowError):
            pass  # something else is wrong, too
        raise


def _as_text(value: Any) -> str | None:
    """Return a value of a kept column as a string: a text as it is, anything else as JSON."""
    if value is None:
        return None
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return None if _escaped(value) else value


def _texts_of(column: Any) -> tuple[list[str | None], dict[int, str]]:
    """Return the texts of an Arrow column, and why rows have none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        texts = column.to_pylist()
        return texts, {i: "null" for i, text in enumerate(texts) if text is None}
    except UnicodeDecodeError:
        texts, reasons = [], {}
        for i, value in enumerate(column):
            try:
                texts.append(value.as_py())
                if texts[-1] is None:
                    reasons[i] = "null"
            except UnicodeDecodeError as error:
                texts.append(None)
                reasons[i] = f"not UTF-8: byte {error.start} of the text"
        return texts, reasons


def _escaped(text: str) -> bool:
    """Whether a text has bytes that were not UTF-8."""
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def _lines(shard: Shard, place: Place) -> Iterator[tuple[bytes | None, float]]:
    """Yield the lines that begin in a shard, None for one that is too long, and the share read."""
    whole = shard.parts == 1
    opened = (
        place.filesystem.open_input_stream(place.path)  # decompresses by the name's ending
        if whole
        else place.filesystem.open_input_file(place.path)
    )
    packed = ENDINGS.search(place.path)["packed"]  # type: ignore[index]
    last = math.inf if whole else shard.last
    length = 0 if packed else (shard.size if whole else shard.last - shard.first)
    with opened:
        if shard.first:
            opened.seek(shard.first - 1)
        with io.BufferedReader(opened, 1 << 20) as stream:
            position = shard.first
            if shard.first:  # the line that begins before belongs to the part before
                position += _skip_line(stream) - 1
            while position < last:
                line: bytes | None = stream.readline(LINE_BYTES)
                if not line:
                    return
                if not position:
                    position += len(codecs.BOM_UTF8) * line.startswith(codecs.BOM_UTF8)
                    line = line[position:]
                    if not line:
                        continue
                position += len(line)
                if len(line) >= LINE_BYTES and not line.endswith(b"\n"):
                    position += _skip_line(stream)
                    line = None
                yield line, min((position - shard.first) / length, 1.0) if length else 0.0


def _skip_line(stream: io.BufferedReader) -> int:
    """Read to the end of a line and return its length."""
    length = 0
    while piece := stream.readline(1 << 20):
        length += len(piece)
        if piece.endswith(b"\n"):
            break
    return length


def _is_file(stream: Any) -> bool:
    """Whether Arrow data has an index of its batches at the end."""
    magic = bool(stream.read(6) == b"ARROW1")
    stream.seek(0)
    return magic


def check_columns(have: Sequence[str], needed: Iterable[str], place: Place) -> None:
    """Refuse a file that lacks a column, or has two of the same name.

    Args:
        have: the file's columns.
        needed: the columns that will be read.
        place: the file.

    Raises:
        InputError: one is missing.
        BulkError: one is there twice.
    """
    for name in needed:
        if list(have).count(name) > 1:
            raise BulkError(
                f"the columns of a file need different names: {place.name} has {name!r} "
                f"{list(have).count(name)} times; rename the others"
            )
        if name not in have:
            raise InputError(
                f"there is no column {name!r} in {place.name}: it has {', '.join(have) or 'none'}"
            )
