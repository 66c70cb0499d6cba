"""Tasks with judgements: queries, documents, and which documents people judged to be relevant.

`quaver evaluate` measures models on them, `quaver bench` shows what each engine loses on them.
"""

from quaver.tasks.folder import Wishes, find_folders, read_task
from quaver.tasks.task import KINDS, METRICS, Kind, Scores, Task, checked_task

__all__ = [
    "KINDS",
    "METRICS",
    "Kind",
    "Scores",
    "Task",
    "Wishes",
    "checked_task",
    "find_folders",
    "read_task",
]
