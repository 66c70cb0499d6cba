"""A store kept up to date and searched: update, watch, rerank, export and import."""

from __future__ import annotations

from quaver.index.corpus import CorpusIndex
from quaver.index.excerpts import QueryWords, best_start, flattened
from quaver.index.index import Index, UpdateProgress, UpdateReport, load_stored_model
from quaver.index.library import Catalog, Facet, Library, Reading, StoredDocument
from quaver.index.reranking import SupportsRank, load_ranker
from quaver.index.token_encoders import (
    TokenEncoders,
    add_models,
    stored_query,
    stored_weights,
    token_model,
)
from quaver.index.transfer import export_passages, import_passages
from quaver.index.watching import watch

__all__ = [
    "Catalog",
    "CorpusIndex",
    "Facet",
    "Index",
    "Library",
    "QueryWords",
    "Reading",
    "StoredDocument",
    "SupportsRank",
    "TokenEncoders",
    "UpdateProgress",
    "UpdateReport",
    "add_models",
    "best_start",
    "export_passages",
    "flattened",
    "import_passages",
    "load_ranker",
    "load_stored_model",
    "stored_query",
    "stored_weights",
    "token_model",
    "watch",
]
