"""Read a store of format version 2, kept in Qdrant Edge's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from quaver.errors import StoreError, StoreLockedError
from quaver.store.payload import to_passage, to_version
from quaver.store.protocol import StoredPassage

_PAGE = 2048
_DENSE = "dense"


def read_edge(path: Path) -> Iterator[StoredPassage]:
    """Yield every passage of a store of format version 2, with its vector.

    Args:
        path: The store's folder; it must be writable, because Qdrant Edge requires it.

    Raises:
        StoreLockedError: Another process has it open.
        StoreError: Its files are broken or cannot be written.
    """
    shard = _called(path, lambda: edge.EdgeShard.load(str(path / "shard")))
    try:
        offset: Any = None
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=_PAGE, with_payload=True, with_vector=[_DENSE]
            )
            records, offset = _called(path, lambda: shard.scroll(request))  # noqa: B023 - called here
            for record in records:
                payload = record.payload or {}
                vector = record.vector.get(_DENSE) if isinstance(record.vector, dict) else None
                yield StoredPassage(
                    to_passage(payload, path),
                    to_version(payload),
                    None if vector is None else np.asarray(vector, np.float32),
                )
            if offset is None:
                return
    finally:
        shard.close()


def _called(path: Path, call: Any) -> Any:
    """Call Qdrant Edge, which raises only plain ``Exception`` or panics of its Rust code."""
    try:
        return call()
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        if "WouldBlock" in str(error):
            raise StoreLockedError(
                f"the store at {path} is open in another process: {error}"
            ) from error
        raise StoreError(
            f"cannot read the store at {path}: {error}; index again into another place"
        ) from error
