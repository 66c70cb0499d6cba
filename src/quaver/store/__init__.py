"""Passages with their vectors: what every store can do, and one file per store."""

from __future__ import annotations

from quaver.store.filters import And, Compare, Filter, Not, Or
from quaver.store.manifest import Manifest
from quaver.store.protocol import (
    FileVersion,
    Hit,
    Mode,
    StoredPassage,
    StoredSource,
    VectorStore,
)
from quaver.store.status import FolderStatus, StoreStatus

__all__ = [
    "And",
    "Compare",
    "FileVersion",
    "Filter",
    "FolderStatus",
    "Hit",
    "Manifest",
    "Mode",
    "Not",
    "Or",
    "StoreStatus",
    "StoredPassage",
    "StoredSource",
    "VectorStore",
]
