"""A store is brought in step with a folder: what is new is embedded, what is gone is dropped."""

from __future__ import annotations

from quaver.update.embedding import batches, embed, passage_budget, tokenize_passages
from quaver.update.report import Progress, UpdateReport
from quaver.update.root import root_of
from quaver.update.run import update

__all__ = [
    "Progress",
    "UpdateReport",
    "batches",
    "embed",
    "passage_budget",
    "root_of",
    "tokenize_passages",
    "update",
]
