"""Embed corpora that outgrow memory, on this machine, on Ray or on Spark; a killed run continues."""

from __future__ import annotations

from quaver.bulk.plan import BulkPlan, plan
from quaver.bulk.run import BulkProgress, BulkReport, embed
from quaver.bulk.target import Record

__all__ = ["BulkPlan", "BulkProgress", "BulkReport", "Record", "embed", "plan"]
