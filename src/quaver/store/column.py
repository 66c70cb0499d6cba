"""An append-only file of records, the basic form of a store's files.

A writer appends records and then commits their number elsewhere (`State`). So the records that a
reader has mapped never change, and records that a killed writer left uncommitted are ignored.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from quaver.errors import StoreError, StoreWriteError
from quaver.system import sync, write_at


class Column:
    """Records of one size in a file.

    Attributes:
        path: the file.
        width: bytes of a record.
    """

    def __init__(self, path: Path, width: int, *, writable: bool, create: bool = False) -> None:
        """Open the file.

        Args:
            path: the file.
            width: bytes of a record, at least 1.
            writable: whether records will be written.
            create: whether to create the file, empty.

        Raises:
            FileNotFoundError: there is no such file.
            StoreWriteError: the file cannot be created or opened for writing.
            StoreError: the file cannot be read.
        """
        self.path, self.width = path, width
        flags = os.O_RDWR if writable else os.O_RDONLY
        if create:
            flags |= os.O_CREAT | os.O_TRUNC
        try:
            self._file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
        except FileNotFoundError:
            raise
        except OSError as error:
            kind = StoreWriteError if writable else StoreError
            raise kind(f"cannot open {path}: {error.strerror}") from error
        self._map: mmap.mmap | None = None
        self._mapped = 0
        self._dirty = create

    def records(self) -> int:
        """Return the number of whole records in the file, committed or not."""
        try:
            return os.fstat(self._file).st_size // self.width
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from error

    def write(self, first: int, data: bytes | memoryview) -> None:
        """Write whole records.

        Args:
            first: number of the first.
            data: their bytes.

        Raises:
            StoreWriteError: the disk is full or fails; the records before `first` are unchanged.
        """
        if not len(data):
            return
        self._dirty = True
        left, offset = memoryview(data).cast("B"), first * self.width
        try:
            while left:
                written = write_at(self._file, left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            raise StoreWriteError(
                f"cannot write {self.path}: {error.strerror}; what is stored stays"
            ) from error

    def sync(self) -> None:
        """Wait until everything written is on disk.

        Raises:
            StoreWriteError: the disk is full or fails.
        """
        if not self._dirty:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            raise StoreWriteError(f"cannot write {self.path}: {error.strerror}") from error
        self._dirty = False

    def cut(self, records: int) -> None:
        """Truncate the file to its first `records` records.

        Raises:
            StoreWriteError: the file cannot be changed.
        """
        try:
            if os.fstat(self._file).st_size > records * self.width:
                os.ftruncate(self._file, records * self.width)
        except OSError as error:
            raise StoreWriteError(f"cannot write {self.path}: {error.strerror}") from error

    def view(self, records: int) -> memoryview:
        """Return the first records, mapped from the file; the view never changes.

        Args:
            records: how many.

        Raises:
            StoreError: the file has fewer records, or cannot be mapped.
        """
        size = records * self.width
        if size > self._mapped:
            try:
                held = os.fstat(self._file).st_size
                if held < size:
                    raise StoreError(
                        f"{self.path} must hold {size} bytes: it has {held}; "
                        "`quaver check --repair` restores what can be"
                    )
                self._map = mmap.mmap(self._file, held, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise StoreError(f"cannot read {self.path}: {error}") from error
            self._mapped = held
        return memoryview(b"" if self._map is None else self._map)[:size]

    def close(self) -> None:
        """Close the file; views stay valid. Further calls do nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._map, self._mapped = None, 0


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk.

    Raises:
        StoreWriteError: it cannot be written.
    """
    try:
        sync(path)
    except OSError as error:
        raise StoreWriteError(f"cannot write {path}: {error.strerror}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees either the old content or all of the new.

    Args:
        path: the file.
        content: its content.

    Raises:
        StoreWriteError: writing failed; the old file stays.
    """
    unfinished = path.with_name(path.name + ".new")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise StoreWriteError(f"cannot write {path}: {error.strerror}") from error
    sync_folder(path.parent)
