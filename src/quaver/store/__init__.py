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

__all__ = [
    "And",
    "Compare",
    "FileVersion",
    "Filter",
    "Hit",
    "Manifest",
    "Mode",
    "Not",
    "Or",
    "StoredPassage",
    "StoredSource",
    "VectorStore",
]
