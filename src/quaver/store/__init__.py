"""Passages with their vectors on disk: what every store can do, and one file per store."""

from __future__ import annotations

from quaver.store.manifest import Manifest
from quaver.store.protocol import FileVersion, Hit, StoredSource, VectorStore

__all__ = ["FileVersion", "Hit", "Manifest", "StoredSource", "VectorStore"]
