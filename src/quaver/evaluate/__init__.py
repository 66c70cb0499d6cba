"""Measure what int8 costs: tasks with judgments, a baseline, paired statistics, a report."""

from __future__ import annotations

from quaver.evaluate.cache import Model, VectorCache, quaver_key
from quaver.evaluate.compare import compare, compare_models
from quaver.evaluate.model_card import is_quantized_folder, write_between, write_card
from quaver.evaluate.mteb_tasks import find_mteb, has_judgments, read_mteb, run_mteb
from quaver.evaluate.plot import draw
from quaver.evaluate.report import EvaluationReport, TaskResult
from quaver.evaluate.report_files import write_report
from quaver.evaluate.system import (
    IndexSystem,
    Measured,
    PairSystem,
    System,
    TokenSystem,
    VectorSystem,
    system_of,
)
from quaver.evaluate.table import (
    Table,
    by_system,
    caption,
    fidelity_table,
    loss_table,
    markdown_report,
    percent,
)
from quaver.evaluate.task import Task
from quaver.evaluate.task_folder import TaskOptions, find_folders, read_task

__all__ = [
    "EvaluationReport",
    "IndexSystem",
    "Measured",
    "Model",
    "PairSystem",
    "System",
    "Table",
    "Task",
    "TaskOptions",
    "TaskResult",
    "TokenSystem",
    "VectorCache",
    "VectorSystem",
    "by_system",
    "caption",
    "compare",
    "compare_models",
    "draw",
    "fidelity_table",
    "find_folders",
    "find_mteb",
    "has_judgments",
    "is_quantized_folder",
    "loss_table",
    "markdown_report",
    "percent",
    "quaver_key",
    "read_mteb",
    "read_task",
    "run_mteb",
    "system_of",
    "write_between",
    "write_card",
    "write_report",
]
