"""Load rows into a LanceDB table, one commit for each output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quaver.bulk.load import FILE, OUTPUT, Layout, refused
from quaver.errors import BulkError, InputError, needs_extra

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

    def loaded(self) -> dict[str, int]:
        """Return the rows of each output that is there."""
        counts: dict[str, int] = {}
        with self._talking():
            for batch in self._table.search().select([OUTPUT]).to_batches():
                for pair in batch.column(OUTPUT).value_counts():
                    output = pair["values"].as_py()
                    counts[output] = counts.get(output, 0) + pair["counts"].as_py()
        return counts

    def drop_old(self, file: str, outputs: list[str]) -> None:
        """Delete the rows of a file that are of none of these outputs."""
        current = ", ".join(f"'{output}'" for output in outputs)
        with self._talking():
            self._table.delete(f"{FILE} = '{file}' AND {OUTPUT} NOT IN ({current})")

    def add(self, batches: Iterator[Any]) -> None:
        """Add the rows of one output in one commit: all of them are there, or none."""
        with self._talking():
            self._table.add(pa.RecordBatchReader.from_batches(self._layout.schema, batches))

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
