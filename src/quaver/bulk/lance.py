"""Load rows into a LanceDB table, one commit for each output."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quaver.bulk.load import FILE, OUTPUT, Layout, refused
from quaver.errors import BulkError, BulkWriteError, InputError, QuaverError, needs_extra

with needs_extra("lancedb"):
    import lancedb
    import pyarrow as pa


class LanceSink:
    """A table of a LanceDB database."""

    def __init__(self, destination: str, layout: Layout, *, index: bool) -> None:
        """Connect, and make the table if it does not exist.

        Args:
            destination: `lance://folder/table`, or `lance+s3://bucket/folder/table`.
            layout: of the rows.
            index: no effect: LanceDB searches a table without an index, and makes one with
                `create_index` once there are enough rows.

        Raises:
            InputError: the destination has another form.
            BulkError: the table has other vectors.
            BulkWriteError: the folder cannot be written.
        """
        scheme, _, path = destination.partition("://")
        folder, _, name = path.rstrip("/").rpartition("/")
        name = name.removesuffix(".lance")
        if not folder or not name:
            raise InputError(f"a table is lance://folder/table: got {destination!r}")
        remote = scheme.partition("+")[2]
        self._where, self._layout = destination, layout
        with self._talking():
            database = lancedb.connect(f"{remote}://{folder}" if remote else folder)
            if name not in _table_names(database):
                database.create_table(name, schema=layout.schema)
            self._table = database.open_table(name)
        said = (self._table.schema.metadata or {}).get(b"quaver")
        if not said:
            raise BulkError(
                f"a table is filled by one kind of program: {destination} was not made by `quaver load`; "
                "give another name"
            )
        layout.check(destination, str(json.loads(said)["fingerprint"]))

    def loaded(self) -> dict[tuple[str, str], int]:
        """Return the rows of each output that is there."""
        counts: Counter[tuple[str, str]] = Counter()
        with self._talking():
            for batch in self._table.search().select([FILE, OUTPUT]).to_batches():
                found = (
                    pa.Table.from_batches([batch])
                    .group_by([FILE, OUTPUT])
                    .aggregate([([], "count_all")])
                )
                for row in found.to_pylist():
                    counts[row[FILE], row[OUTPUT]] += row["count_all"]
        return dict(counts)

    def drop(self, file: str, outputs: list[str]) -> None:
        """Delete the rows of a file that are of one of these outputs."""
        listed = ", ".join(f"'{output}'" for output in outputs)
        with self._talking():
            self._table.delete(f"{FILE} = '{file}' AND {OUTPUT} IN ({listed})")

    def add(self, batches: Iterator[Any]) -> None:
        """Add the rows of one output in one commit: all of them are there, or none."""
        failed: list[QuaverError] = []

        def noted() -> Iterator[Any]:
            try:
                yield from batches
            except QuaverError as error:  # which Lance wraps with a traceback in its message
                failed.append(error)
                raise

        try:
            with self._talking():
                self._table.add(pa.RecordBatchReader.from_batches(self._layout.schema, noted()))
        except BulkWriteError:
            if failed:
                raise failed[0] from None
            raise

    def finish(self) -> None:
        """Merge the small files of many commits."""
        with self._talking():
            self._table.optimize()

    def close(self) -> None:
        """Do nothing: there is no connection."""

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn Lance's errors into those of our tree."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
            raise refused(self._where, error) from error


def _table_names(database: Any) -> list[str]:
    return list(database.table_names(limit=1_000_000))
