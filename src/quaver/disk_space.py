"""Disk space: refuse to write what does not fit, before the work is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from quaver.errors import QuaverError


def require_disk_space(path: Path, needed: int, error: type[QuaverError]) -> None:
    """Check that a disk has room.

    Args:
        path: the file or folder to write; it and its parents need not exist yet.
        needed: bytes that will be written.
        error: the class to raise.

    Raises:
        QuaverError: of the class `error`: fewer bytes are free, or the disk does not say.
    """
    place = path.absolute()
    try:
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
    except OSError as found:
        raise error(
            f"cannot read how much of the disk of {place} is free: {found.strerror}"
        ) from found
    if usage.total == 0:  # some network file systems do not know; a write will tell
        return
    if usage.free < needed:
        raise error(
            f"the disk of {place} is full: {usage.free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB "
            "are needed; make room and run it again"
        )
