"""Files by their numbers: opened without waiting, written at a place, kept through a loss of power.

Portable: opening waits for the other end of a pipe, and the system keeps names in a folder when it likes.
"""

from __future__ import annotations

import os
from pathlib import Path

from quaver.system.switch import POSIX


def open_to_read(path: str | os.PathLike[str]) -> int:
    """Open a file of any kind without waiting for another process.

    Raises:
        OSError: it cannot be opened.
    """
    if POSIX:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def write_at(file: int, data: memoryview, offset: int) -> int:
    """Write to a place of a file.

    Args:
        file: number of the open file; on the portable way one thread writes at a time.
        data: bytes.
        offset: where, in bytes.

    Returns:
        bytes written, at least one.

    Raises:
        OSError: the disk is full or fails.
    """
    if POSIX:
        return os.pwrite(file, data, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.write(file, data)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on disk.

    Args:
        path: the file or folder.

    Raises:
        OSError: it cannot be opened or written.
    """
    if not POSIX:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
