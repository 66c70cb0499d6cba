"""Output files: results and kept columns as Parquet, or results as a .npy array."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.bulk.place import Place, make_folder, writing
from quaver.errors import BulkError, needs_extra

with needs_extra("bulk"):
    import pyarrow as pa
    from pyarrow import parquet

Format = Literal["parquet", "npy"]
"""What an output file is."""

GROUP_BYTES = 16 << 20
"""Bytes of results and kept columns in a row group, which is in memory two or three times while it is
written."""


class _Hashed(io.RawIOBase):
    """A new file that counts and hashes what is written to it."""

    def __init__(self, place: Place) -> None:
        make_folder(place.at(place.path.rpartition("/")[0]))
        self._file: Any = (
            open(place.path, "wb", buffering=0)  # noqa: PTH123, SIM115
            if place.is_local
            else place.filesystem.open_output_stream(place.path, compression=None)
        )
        self._local, self._discards = place.is_local, False
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view) and not self._discards:
            written += self._file.write(view[written:])
        self._digest.update(view)
        self.size += len(view)
        return len(view)

    def close(self) -> None:
        """Finish the file; what is reported afterwards survives a power failure."""
        if not self.closed:
            if self._local and not self._discards:
                os.fsync(self._file.fileno())
            self._file.close()
        super().close()

    def discard(self) -> None:
        """Ignore everything that is written from now on, so that closing cannot fail again."""
        self._discards = True

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def _storing(schema: Any) -> Iterator[None]:
    """Turn what pyarrow raises for types that Parquet does not have into a `BulkError`."""
    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        types = ", ".join(f"{field.name} {field.type}" for field in schema)
        reason = " ".join(str(error).split())[:200]
        raise BulkError(
            f"a kept column must have a type that Parquet has: {reason} (columns: {types}); embed into "
            "another target without it"
        ) from error


class Output:
    """A file that has another name until it is complete.

    Attributes:
        rows: rows written so far.
        size: bytes of the complete file.
        sha256: digest of the complete file.
    """

    def __init__(
        self,
        place: Place,
        aside: Place,
        *,
        format: Format,
        fields: Sequence[Any],
        about: Mapping[str, str],
    ) -> None:
        """Choose the file; it is created with the first rows.

        Args:
            place: the file; an existing one is replaced.
            aside: its name until then, in the same filesystem.
            format: "parquet" or "npy".
            fields: of the columns with the results; an array has one of them.
            about: metadata of a Parquet file.
        """
        self._place, self._aside = place, aside
        self._format, self._fields = format, list(fields)
        self._about = dict(about)
        self._file: _Hashed | None = None
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._bytes = 0
        self._spool: Any = None
        self.rows = 0
        self.size, self.sha256 = 0, ""

    def write(self, columns: Sequence[Any], kept: Any) -> None:
        """Append rows to a Parquet file.

        Args:
            columns: arrays of N rows, of the fields.
            kept: a record batch of N rows with the other columns, or None.

        Raises:
            BulkError: a kept column has a type that Parquet does not have.
            BulkWriteError: writing failed.
        """
        with writing(self._place):
            self.rows += len(columns[0])
            arrays = [] if kept is None else list(kept.columns)
            fields = [] if kept is None else list(kept.schema)
            schema = pa.schema([*fields, *self._fields], metadata=self._about)
            batch = pa.RecordBatch.from_arrays([*arrays, *columns], schema=schema)
            if self._writer is None:
                self._open(schema)
            self._waiting.append(batch)
            self._bytes += batch.nbytes
            if self._bytes >= GROUP_BYTES:
                self._write_group()

    def write_array(self, rows: NDArray[Any]) -> None:
        """Append rows to a .npy file.

        Args:
            rows: (N,) or (N, width).

        Raises:
            BulkWriteError: writing failed.
        """
        with writing(self._place):
            self.rows += len(rows)
            if self._spool is None:
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115
            self._spool.write(np.ascontiguousarray(rows).data)

    def _open(self, schema: Any) -> None:
        self._file = _Hashed(self._aside)
        # Components of vectors are as good as random: compressing them costs time and saves nothing.
        results = {field.name for field in self._fields}
        kept = [name for name in schema.names if name not in results]
        with _storing(schema):
            self._writer = parquet.ParquetWriter(
                self._file,
                schema,
                compression=dict.fromkeys(kept, "zstd") or "none",
                use_dictionary=kept or False,
                write_statistics=kept or False,
            )

    def _write_group(self) -> None:
        table = pa.Table.from_batches(self._waiting)
        with _storing(table.schema):
            self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._waiting, self._bytes = [], 0

    def commit(self) -> None:
        """Complete the file and give it its name.

        Raises:
            BulkWriteError: writing failed.
        """
        with writing(self._place):
            if self._format == "npy":
                self._copy_array()
            else:
                if self._writer is None:  # a shard without rows
                    self._open(pa.schema(self._fields, metadata=self._about))
                if self._waiting:
                    self._write_group()
                with _storing(self._writer.schema):
                    self._writer.close()
            assert self._file is not None
            self._file.close()
            self.size, self.sha256 = self._file.size, self._file.sha256
            self._place.filesystem.move(self._aside.path, self._place.path)

    def _copy_array(self) -> None:
        """Write the header, which has the number of rows, before the rows."""
        self._file = _Hashed(self._aside)
        (field,) = self._fields
        listed = pa.types.is_fixed_size_list(field.type)
        dtype = np.dtype((field.type.value_type if listed else field.type).to_pandas_dtype())
        shape = (self.rows, field.type.list_size) if listed else (self.rows,)
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        if self._spool is not None:
            self._spool.seek(0)
            shutil.copyfileobj(self._spool, self._file, 1 << 20)

    def abandon(self) -> None:
        """Delete what was written, unless it is committed; ends the use of the output."""
        if self._spool is not None:
            self._spool.close()
        if self._file is None or self._file.closed:
            return
        self._file.discard()
        # The error that led here is on its way: what closing or deleting adds would hide it, and the next
        # run deletes what is left.
        with suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()
            self._file.close()
            self._place.filesystem.delete_file(self._aside.path)
