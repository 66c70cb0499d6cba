"""A store is brought in step with a folder: what is new is embedded, what is gone is dropped."""

from __future__ import annotations

from quaver.update.embedding import batches, embed_passages, passage_budget
from quaver.update.report import Progress, UpdateReport
from quaver.update.root import root_of
from quaver.update.run import update

__all__ = [
    "Progress",
    "UpdateReport",
    "batches",
    "embed_passages",
    "passage_budget",
    "root_of",
    "update",
]
