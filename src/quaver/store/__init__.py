"""Stores of passages and vectors: the protocol, and one module for each kind of store."""

from __future__ import annotations

from quaver.store.check import StoreCheck, StoreRepair, check_store, repair_store
from quaver.store.conditions import read_conditions, read_filter, unknown_fields
from quaver.store.filters import And, Compare, Filter, Not, Operator, Or, moment
from quaver.store.folder import FolderStore
from quaver.store.location import (
    create_store,
    is_folder,
    name_of,
    named_location,
    open_store,
    read_status,
    status_of,
    store_exists,
)
from quaver.store.manifest import Manifest, TokenKind, TokenModel
from quaver.store.memory import MemoryStore
from quaver.store.parquet import ROW_GROUP, ParquetPassages, pieces, write_parquet
from quaver.store.payload import to_payload
from quaver.store.protocol import (
    CANDIDATES,
    FileVersion,
    Hit,
    Mode,
    PassageTokens,
    StoredPassage,
    StoredSource,
    VectorStore,
)
from quaver.store.query import RANKINGS, best, fused, maxsim
from quaver.store.status import MAX_FAILURES, FolderStatus, StoreStatus, UpdateNote, UpdateSource
from quaver.store.terms import LANGUAGES, UNSPACED, TermAnalyzer, check_language

__all__ = [
    "CANDIDATES",
    "LANGUAGES",
    "MAX_FAILURES",
    "RANKINGS",
    "ROW_GROUP",
    "UNSPACED",
    "And",
    "Compare",
    "FileVersion",
    "Filter",
    "FolderStatus",
    "FolderStore",
    "Hit",
    "Manifest",
    "MemoryStore",
    "Mode",
    "Not",
    "Operator",
    "Or",
    "ParquetPassages",
    "PassageTokens",
    "StoreCheck",
    "StoreRepair",
    "StoreStatus",
    "StoredPassage",
    "StoredSource",
    "TermAnalyzer",
    "TokenKind",
    "TokenModel",
    "UpdateNote",
    "UpdateSource",
    "VectorStore",
    "best",
    "check_language",
    "check_store",
    "create_store",
    "fused",
    "is_folder",
    "maxsim",
    "moment",
    "name_of",
    "named_location",
    "open_store",
    "pieces",
    "read_conditions",
    "read_filter",
    "read_status",
    "repair_store",
    "status_of",
    "store_exists",
    "to_payload",
    "unknown_fields",
    "write_parquet",
]
