"""Load the vectors of a target into a database; a killed load continues, with every row once.

A row of the database says which file it is from (quaver_file) and which output of it (quaver_output,
the part and the first digits of the SHA-256). So the database itself knows what is loaded, and what is
of an output that has been made again since. Earlier versions left out the part.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from quaver.bulk.kinds import KINDS
from quaver.bulk.place import Place, read_many, reading
from quaver.bulk.shard import open_parquet, read_footer
from quaver.bulk.target import Record, Settings, Target
from quaver.errors import BulkError, BulkWriteError, InputError, needs_extra

with needs_extra("bulk"):
    import pyarrow as pa

FILE, OUTPUT = "quaver_file", "quaver_output"
"""The columns that say where a row is from."""
ROWS = 1024
"""Rows in a batch."""
_DIGITS = 16


@dataclass(frozen=True)
class Layout:
    """What the rows of a target have in common.

    Attributes:
        settings: of the target.
        id: the column with the ids.
        schema: of the rows: id, kept columns, results, FILE and OUTPUT.
    """

    settings: Settings
    id: str
    schema: Any

    @property
    def results(self) -> tuple[str, ...]:
        """The columns with the results."""
        return tuple(n for n in KINDS[self.settings.kind].columns if n in self.schema.names)

    @property
    def kept(self) -> list[Any]:
        """The fields of the other columns, without the id's."""
        own = (self.id, *self.results, FILE, OUTPUT)
        return [field for field in self.schema if field.name not in own]

    def check(self, where: str, fingerprint: str) -> None:
        """Refuse a database with the vectors of another model.

        Args:
            where: the database, for messages.
            fingerprint: what it says about its vectors.

        Raises:
            BulkError: it says something else.
        """
        if fingerprint != self.settings.fingerprint:
            raise BulkError(
                f"one place has the vectors of one model: {where} has others than those of "
                f"{self.settings.model}; load into another one"
            )


class Sink(Protocol):
    """A database that rows are loaded into."""

    def loaded(self) -> dict[tuple[str, str], int]:
        """Return the rows of each output that is there, by the values of FILE and OUTPUT."""

    def drop(self, file: str, outputs: list[str]) -> None:
        """Delete the rows of a file that are of one of these outputs."""

    def add(self, batches: Iterator[Any]) -> None:
        """Add the rows of one output; after a crash in between, adding them again is right."""

    def finish(self) -> None:
        """Make the indexes that were not kept up while rows were added."""

    def close(self) -> None:
        """End the connection."""


_SINKS = {
    "qdrant": ("qdrant", "QdrantSink"),
    "qdrant+https": ("qdrant", "QdrantSink"),
    "postgresql": ("postgres", "PostgresSink"),
    "postgres": ("postgres", "PostgresSink"),
    "lance": ("lance", "LanceSink"),
    "lance+s3": ("lance", "LanceSink"),
    "lance+gs": ("lance", "LanceSink"),
}


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        destination: the database.
        rows: rows that are there from this target.
        added: rows that this load added.
        left_out: rows without a result, which are not loaded.
        outputs: files of the target.
        before: how many of them earlier loads finished.
    """

    destination: str
    rows: int
    added: int
    left_out: int
    outputs: int
    before: int


def load(
    source: str | os.PathLike[str],
    destination: str,
    *,
    id: str | None = None,
    index: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> LoadReport:
    """Load what `embed` wrote into a database; run it again to continue, or after new files.

        quaver.bulk.load("vectors/", "qdrant://localhost:6333/passages", id="id")
        quaver.bulk.load("vectors/", "postgresql://me@localhost/db?table=passages", id="id")
        quaver.bulk.load("vectors/", "lance://data/passages")

    The collection or table is made if it does not exist, with the id, the kept columns and the vectors.
    Rows of a file that was embedded again are replaced.

    Args:
        source: the target of `embed`, with Parquet files.
        destination: `qdrant://host:port/collection` (or `qdrant+https://`),
            `postgresql://user@host/database?table=name` for pgvector, or `lance://folder/table` for
            LanceDB, also `lance+s3://bucket/folder/table`. Passwords and keys come from the environment:
            QDRANT_API_KEY, PGPASSWORD.
        id: a kept column whose values differ in all rows; None numbers the rows of each output.
        index: build the index for searching after the load.
        on_progress: called with the rows that are loaded and all rows.

    Returns:
        the report.

    Raises:
        InputError: the destination is not one, or there is no such column.
        BulkError: the source is no target with Parquet files, or the destination has other vectors.
        BulkWriteError: the destination refuses the rows or cannot be reached.
        ImportError: the extra of the destination is missing.
    """
    sink_type = _sink(destination)
    target, settings, records = finished_target(source)
    if records and not any(record.rows for record in records):
        raise BulkError(f"there are no rows to load in {target.place.name}")
    layout = Layout(settings, *_schema(target.place, settings, records, id))
    report = on_progress or (lambda done, total: None)
    total = sum(record.rows - record.failed for record in records)
    sink: Sink = sink_type(destination, layout, index=index)
    try:
        there = sink.loaded()
        keys = _keys(records, there)
        wrong: dict[str, list[str]] = defaultdict(list)
        files = {file for file, _ in keys}
        for (file, output), count in there.items():
            if file in files and count != keys.get((file, output), 0):
                wrong[file].append(output)
        for file, outputs in wrong.items():
            sink.drop(file, outputs)
        done = added = before = 0
        for record, (key, rows) in zip(records, keys.items(), strict=True):
            if there.get(key, 0) == rows:
                before += 1
            else:
                sink.add(_rows(target.place, record, layout))
                added += rows
            done += rows
            report(done, total)
        sink.finish()
        now = sink.loaded()
        found = sum(now.get(key, 0) for key in keys)
    finally:
        sink.close()
    if found != total:
        raise BulkError(
            f"ids must differ in all rows: {total:,} rows were loaded into {_public(destination)}, and "
            f"{found:,} are there; choose another id, or leave it out"
        )
    return LoadReport(
        destination=_public(destination),
        rows=total,
        added=added,
        left_out=sum(record.failed for record in records),
        outputs=len(records),
        before=before,
    )


def finished_target(
    source: str | os.PathLike[str],
) -> tuple[Target, Settings, list[Record]]:
    """Open a target whose files are to be read.

    Args:
        source: its folder or URI.

    Returns:
        the target, its settings, and the records of its outputs by name.

    Raises:
        BulkError: it is no target, has no output, or arrays instead of Parquet files.
    """
    target = Target(os.fspath(source))
    settings = target.settings()
    if settings is None:
        raise BulkError(
            f"vectors are loaded from the output of `quaver embed --output`: {target.place.name} has no "
            "_quaver/settings.json"
        )
    if settings.format != "parquet":
        raise BulkError(
            f"arrays have neither ids nor other columns: embed into Parquet to load it, not {settings.format}"
        )
    records = [record for _, record in sorted(target.finished().items())]
    if not records:
        raise BulkError(f"no output is finished yet in {target.place.name}")
    return target, settings, records


def file_of(record: Record) -> str:
    """Return the name that all outputs of a file begin with."""
    return re.sub(r"-\d{5,}\.[a-z]+$", "", record.output)


def _keys(
    records: list[Record], there: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """Return the values of FILE and OUTPUT of each record's rows, and how many rows it has.

    Rows of an earlier version, without the part, count if they are all there and of no other record.
    """
    several = Counter((file_of(record), record.sha256) for record in records)
    keys = {}
    for record in records:
        file, rows = file_of(record), record.rows - record.failed
        earlier = file, record.sha256[:_DIGITS]
        whole = several[file, record.sha256] == 1 and rows and there.get(earlier) == rows
        keys[earlier if whole else (file, _mark(record))] = rows
    return keys


def _mark(record: Record) -> str:
    """Return the value of OUTPUT: a file may have parts with the same bytes."""
    return f"{record.part:05d}-{record.sha256[:_DIGITS]}"


def read_output(place: Place, record: Record) -> Iterator[Any]:
    """Yield the record batches of an output.

    Args:
        place: the target's folder.
        record: of the output.

    Raises:
        BulkError: it cannot be read.
    """
    file = place / record.output
    with reading(file), file.filesystem.open_input_file(file.path) as stream:
        yield from open_parquet(stream).iter_batches(ROWS)


def check_id(name: str | None, schema: Any) -> None:
    """Refuse a column of ids that is not there, or has neither texts nor whole numbers.

    Args:
        name: of the column; None is valid.
        schema: of an output.

    Raises:
        InputError: the column does not fit.
    """
    if name is None:
        return
    if name not in schema.names:
        raise InputError(
            f"ids come from a column that was kept: there is no {name!r} among "
            f"{', '.join(schema.names)}; embed with --keep {name}"
        )
    kind = schema.field(name).type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    ):
        raise InputError(f"ids are texts or whole numbers: column {name!r} is {kind}")


def _sink(destination: str) -> Any:
    scheme, colon, _ = destination.partition("://")
    if not colon or scheme not in _SINKS:
        raise InputError(
            "vectors are loaded into qdrant://host:port/collection, "
            "postgresql://user@host/database?table=name or lance://folder/table: got "
            f"{_public(destination)!r}; `quaver import` fills a store"
        )
    if urlsplit(destination).password:
        raise InputError(
            "a destination must not contain a password, which other users of this machine could see: set "
            "PGPASSWORD, or QDRANT_API_KEY"
        )
    module, name = _SINKS[scheme]
    return getattr(import_module(f"quaver.bulk.{module}"), name)


def _public(destination: str) -> str:
    """Return a destination without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1@", destination)


def _schema(
    place: Place, settings: Settings, records: list[Record], id: str | None
) -> tuple[str, Any]:
    """Return the name of the id column, and the schema of the rows."""
    read = [record for record in records if record.rows] or records[:1]
    if not settings.keep:  # the other columns are the same in all
        read = read[:1]
    footers = read_many(lambda record: read_footer(place / record.output), read)
    schema = _merged([schema for _, schema in footers], read)
    check_id(id, schema)
    taken = {FILE, OUTPUT, *({"id"} if id is None else ())} & set(schema.names)
    if id is None and "id" in taken:
        raise InputError("the column 'id' was kept: give --id id, or embed without it")
    if taken:
        raise InputError(f"a kept column must not be called {taken.pop()}: embed without it")
    fields = [field for field in schema if field.name != id]
    first = pa.field("id", pa.string()) if id is None else schema.field(id)
    about = {"quaver": (schema.metadata or {}).get(b"quaver", b"")}
    return first.name, pa.schema(
        [first, *fields, pa.field(FILE, pa.string()), pa.field(OUTPUT, pa.string())], metadata=about
    )


def _merged(schemas: list[Any], records: list[Record]) -> Any:
    """Return a schema that the columns of all outputs fit: of strings and others, strings."""
    merged = schemas[0]
    for schema, record in zip(schemas[1:], records[1:], strict=True):
        if schema.equals(merged):
            continue
        if set(schema.names) != set(merged.names):
            raise BulkError(
                f"all outputs need the same columns: {record.output} has {', '.join(schema.names)}, "
                f"others {', '.join(merged.names)}; embed into another target"
            )
        for i, field in enumerate(merged):
            pair = [pa.schema([field]), pa.schema([schema.field(field.name)])]
            try:
                one = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
                types = [field.type, schema.field(field.name).type]
                if not any(map(pa.types.is_string, types)) or any(map(pa.types.is_nested, types)):
                    raise BulkError(
                        f"all outputs need types that agree: column {field.name!r} is {types[1]} in "
                        f"{record.output} and {types[0]} in others; embed those files into another target"
                    ) from error
                one = pa.field(field.name, pa.string())
            merged = merged.set(i, one)
    return merged


def _rows(place: Place, record: Record, layout: Layout) -> Iterator[Any]:
    """Yield the batches of an output, without rows that have no result."""
    stem = record.output.rpartition(".")[0]
    begin = 0
    for batch in read_output(place, record):
        numbers = np.arange(begin, begin + batch.num_rows)
        begin += batch.num_rows
        names = [field.name for field in layout.schema][:-2]
        made: dict[str, Any] = {
            name: batch.column(name) for name in names if name in batch.schema.names
        }
        if layout.id not in made:
            made[layout.id] = pa.array([f"{stem}:{number}" for number in numbers])
        elif made[layout.id].null_count:
            raise BulkError(
                f"every row needs an id: column {layout.id!r} has nulls in {record.output}"
            )
        made[FILE] = pa.array([file_of(record)] * batch.num_rows)
        made[OUTPUT] = pa.array([_mark(record)] * batch.num_rows)
        try:
            whole = pa.RecordBatch.from_arrays(
                [made[name].cast(layout.schema.field(name).type) for name in layout.schema.names],
                schema=layout.schema,
            )
        except (KeyError, pa.ArrowException) as error:
            raise BulkError(
                f"all outputs need the same columns: {record.output} has {', '.join(batch.schema.names)}: "
                f"{error}"
            ) from error
        yield whole.filter(whole.column(layout.results[0]).is_valid())


def plain(value: Any) -> Any:
    """Return a value of a kept column as JSON has it: dates in ISO 8601, numbers and lists as they are."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def refused(where: str, error: BaseException, advice: str = "") -> BulkWriteError:
    """Return the error of a database that does not take rows.

    Args:
        where: the database.
        error: of its client.
        advice: what to do, or "".
    """
    reason = " ".join(str(error).split())[:300]
    return BulkWriteError(
        f"cannot load into {_public(where)}: {reason}; what is loaded stays: once that is mended, "
        f"the same command continues{advice}"
    )
