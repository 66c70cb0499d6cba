"""Room on the disk, checked before it is used.

Qdrant Edge writes through sparse memory maps: on a full disk the write does not fail, the process
dies of SIGBUS.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from quaver.errors import StoreError, StoreWriteError

RESERVE = 16 << 20
"""Bytes that must stay free."""


def require_room(
    path: Path, size: int, *, then: str = "make room and run it again, what is stored stays"
) -> None:
    """Checks that the disk has room for ``size`` bytes and the reserve.

    Args:
        path: The store's folder.
        size: Bytes that are about to be used.
        then: What the message tells the user to do.

    Raises:
        StoreWriteError: The disk has less.
        StoreError: The folder cannot be reached.
    """
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise StoreError(f"cannot reach the store at {path}: {error.strerror}") from error
    if free < size + RESERVE:
        raise StoreWriteError(
            f"the disk of {path} is full: {free / 1e6:.0f} MB are free, "
            f"{(size + RESERVE) / 1e6:.0f} MB are needed; {then}"
        )


def holes(folder: Path, pattern: str) -> int:
    """Returns the bytes of sparse files that take no room yet.

    Args:
        folder: Where to look; it need not exist.
        pattern: Which files, as for ``Path.glob``.

    Raises:
        StoreError: A file cannot be reached.
    """
    try:
        files = [path.stat() for path in folder.glob(pattern)]
    except OSError as error:
        raise StoreError(f"cannot reach the store at {folder}: {error.strerror}") from error
    return sum(max(0, file.st_size - 512 * file.st_blocks) for file in files)
