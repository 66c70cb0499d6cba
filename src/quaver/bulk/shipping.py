"""A model's folder on its way to machines that do not have it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quaver.disk_space import require_disk_space
from quaver.errors import ModelFolderError
from quaver.models import needed_files
from quaver.system import LockedFile, written_whole

PIECE = 16 << 20
"""Bytes of a file that are in memory at a time."""


@dataclass(frozen=True)
class Shipment:
    """The files of a folder in pieces.

    Attributes:
        name: of the folder; a model may be known by it.
        files: path in the folder and pieces, as `pack` was told to put them.
        size: bytes of all.
        digest: SHA-256 of paths, sizes and bytes.
    """

    name: str
    files: tuple[tuple[str, tuple[Any, ...]], ...]
    size: int
    digest: str


def pack(folder: Path, put: Callable[[bytes], Any]) -> Shipment:
    """Take the files of a model that its loading reads.

    Args:
        folder: of the model.
        put: stores a piece where other machines find it, and returns what it is found by.

    Returns:
        the files.

    Raises:
        ModelFolderError: a file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    files = []
    try:
        for path in needed_files(folder):
            name = path.relative_to(folder).as_posix()
            length, pieces = 0, []
            for piece in _pieces(path):
                digest.update(piece)
                pieces.append(put(piece))
                length += len(piece)
            digest.update(f"\0{name}\0{length}\0".encode())
            files.append((name, tuple(pieces)))
            size += length
    except OSError as error:
        raise ModelFolderError(f"cannot read {error.filename}: {error.strerror}") from error
    return Shipment(folder.name, tuple(files), size, digest.hexdigest())


def unpack(shipment: Shipment, get: Callable[[Any], bytes]) -> Path:
    """Write the files into the cache of this machine, once for all processes.

    Args:
        shipment: the files.
        get: returns a piece.

    Returns:
        the folder, `XDG_CACHE_HOME/quaver/models/DIGEST/NAME`.

    Raises:
        ModelFolderError: it cannot be written, or other bytes have arrived.
    """
    from platformdirs import user_cache_path

    place = user_cache_path("quaver") / "models" / shipment.digest[:32]
    goal = place / shipment.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = LockedFile(place / "lock", wait=math.inf)
        try:
            if not goal.is_dir():
                require_disk_space(place, shipment.size, ModelFolderError)
                with written_whole(goal) as partial:
                    _write(shipment, partial, get)
        finally:
            lock.release()
    except OSError as error:
        raise ModelFolderError(
            f"cannot write the model into {place}: {error.strerror or error}; XDG_CACHE_HOME names another cache, "
            "and a model that is there under the driver's path is not shipped"
        ) from error
    return goal


def _write(shipment: Shipment, folder: Path, get: Callable[[Any], bytes]) -> None:
    digest = hashlib.sha256()
    for name, pieces in shipment.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in pieces:
                content = get(piece)
                digest.update(content)
                file.write(content)
            length = file.tell()
            file.flush()
            os.fsync(file.fileno())
        digest.update(f"\0{name}\0{length}\0".encode())
    if digest.hexdigest() != shipment.digest:
        raise ModelFolderError(
            f"the files of {shipment.name} that arrived are not those that were sent; run it again"
        )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
