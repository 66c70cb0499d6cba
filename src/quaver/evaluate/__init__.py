"""What int8 costs: tasks with judgements, a baseline, paired statistics, a report."""

from quaver.evaluate.compare import compare
from quaver.evaluate.report import EvaluationReport
from quaver.evaluate.system import PairSystem, VectorSystem
from quaver.tasks import Task, Wishes, find_folders, read_task

__all__ = [
    "EvaluationReport",
    "PairSystem",
    "Task",
    "VectorSystem",
    "Wishes",
    "compare",
    "find_folders",
    "read_task",
]
