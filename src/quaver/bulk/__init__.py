"""Embed corpora that outgrow memory, on this machine, on Ray or on Spark, and load them; a killed run continues."""

from __future__ import annotations

from quaver.bulk.kinds import RESULTS
from quaver.bulk.load import LoadReport, load
from quaver.bulk.plan import BulkPlan, plan
from quaver.bulk.run import BulkProgress, BulkReport, embed
from quaver.bulk.store import import_vectors, is_target
from quaver.bulk.target import Record

__all__ = [
    "RESULTS",
    "BulkPlan",
    "BulkProgress",
    "BulkReport",
    "LoadReport",
    "Record",
    "embed",
    "import_vectors",
    "is_target",
    "load",
    "plan",
]
