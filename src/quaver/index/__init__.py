"""A store kept up to date and searched: update, watch, rerank, export and import."""

from __future__ import annotations

from quaver.index.corpus import CorpusIndex
from quaver.index.index import Index, UpdateProgress, UpdateReport, load_stored_model
from quaver.index.reranking import SupportsRank, load_ranker
from quaver.index.transfer import export_passages, import_passages
from quaver.index.watching import watch

__all__ = [
    "CorpusIndex",
    "Index",
    "SupportsRank",
    "UpdateProgress",
    "UpdateReport",
    "export_passages",
    "import_passages",
    "load_ranker",
    "load_stored_model",
    "watch",
]
