"""Where a store is: a folder, a Qdrant server, or memory."""

from __future__ import annotations

from pathlib import Path

from quaver.errors import InputError, StoreNotFoundError
from quaver.store import memory
from quaver.store.folder import FolderStore
from quaver.store.manifest import Manifest
from quaver.store.memory import MemoryStore
from quaver.store.protocol import VectorStore
from quaver.store.status import FolderStatus, StoreStatus

SERVER_PREFIX = "qdrant://"
SECURE_SERVER_PREFIX = "qdrant+https://"
"""Prefixes of `qdrant://host:port/collection`; see `QdrantStore`."""


def create_store(location: str | Path, manifest: Manifest) -> VectorStore:
    """Create an empty store.

    Args:
        location: a folder that does not exist or is empty, `qdrant://host:port/collection`, or
            ":memory:".
        manifest: the manifest of the new store.

    Returns:
        the open store.

    Raises:
        StoreError: the store cannot be created; the subclass says why.
        ImportError: a server needs the extra "qdrant".
    """
    if _is_server(location):
        from quaver.store.qdrant_server import QdrantStore

        return QdrantStore.create(str(location), manifest)
    if str(location) == memory.LOCATION:
        return MemoryStore(manifest)
    return FolderStore.create(Path(location), manifest)


def open_store(location: str | Path, *, read_only: bool = False, wait: float = 0.0) -> VectorStore:
    """Open a store.

    Args:
        location: as for `create_store`.
        read_only: open a folder for reading only, without its lock; see `FolderStore.open`.
        wait: seconds to wait for another process that writes to a folder.

    Returns:
        the open store.

    Raises:
        StoreError: the store cannot be opened; the subclass says why.
        ImportError: a server needs the extra "qdrant".
    """
    if _is_server(location):
        from quaver.store.qdrant_server import QdrantStore

        return QdrantStore.open(str(location))
    if str(location) == memory.LOCATION:
        raise StoreNotFoundError(
            f"a store in memory ends with its process: there is none to open at {location}"
        )
    return FolderStore.open(Path(location), read_only=read_only, wait=wait)


def store_exists(location: str | Path) -> bool:
    """Return whether a complete store exists.

    Args:
        location: as for `create_store`.

    Returns:
        whether `open_store` would find one.

    Raises:
        StoreError: a server cannot be reached.
        ImportError: a server needs the extra "qdrant".
    """
    if _is_server(location):
        from quaver.store.qdrant_server import QdrantStore

        return QdrantStore.exists(str(location))
    return str(location) != memory.LOCATION and FolderStore.exists(Path(location))


def read_status(location: str | Path) -> StoreStatus:
    """Return the status of a store without loading its model.

    Args:
        location: as for `create_store`.

    Returns:
        the same as `Index.status`.

    Raises:
        StoreError: there is no store, or it cannot be read.
        ImportError: a server needs the extra "qdrant".
    """
    store = open_store(location, read_only=True)
    try:
        return status_of(store, location)
    finally:
        store.close()


def status_of(store: VectorStore, location: str | Path) -> StoreStatus:
    """Return the status of an open store.

    Args:
        store: the store.
        location: where it is.
    """
    passages, notes, made = store.roots(), store.notes(), store.manifest
    folders = []
    for root in sorted({*passages, *notes} - {""}):
        note = notes.get(root)
        folders.append(
            FolderStatus(
                root=root,
                files=len(store.sources(root)),
                passages=passages.get(root, 0),
                updated=None if note is None else note.at,
                failed=() if note is None else note.failed,
                failures=0 if note is None else note.failures,
            )
        )
    return StoreStatus(
        location=str(location),
        model=made.model,
        dimension=made.dimension,
        passage_tokens=made.passage_tokens,
        language=made.language,
        vectors=made.vectors,
        created=made.created,
        passages=sum(passages.values()),
        folders=tuple(folders),
        bytes=store.size(),
        sparse=None if made.sparse is None else made.sparse.model,
        multi=None if made.multi is None else made.multi.model,
        incomplete=len(store.incomplete()),
        late_chunking=made.late_chunking,
    )


def named_location(text: str) -> tuple[str, str]:
    """Read a store with its name: LOCATION or NAME=LOCATION.

    Args:
        text: from a command line.

    Returns:
        the name, by default the last part of the location, and the location.

    Raises:
        InputError: one of them is empty.
    """
    name, equals, location = text.rpartition("=")
    if not location or (equals and not name):
        raise InputError(f"a store is given as LOCATION or NAME=LOCATION: got {text!r}")
    return name or name_of(location), location


def name_of(location: str) -> str:
    """Return what to call a store without a name: the last part of its location."""
    last = Path(location).resolve().name if is_folder(location) else ""
    return last or location.rstrip("/").rpartition("/")[2]


def is_folder(location: str | Path) -> bool:
    """Return whether a location names a folder."""
    return not _is_server(location) and str(location) != memory.LOCATION


def _is_server(location: str | Path) -> bool:
    return isinstance(location, str) and location.startswith((SERVER_PREFIX, SECURE_SERVER_PREFIX))
