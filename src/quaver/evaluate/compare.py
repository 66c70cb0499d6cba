"""Systems beside a baseline, on the same queries of the same tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quaver.errors import InputError
from quaver.evaluate.fidelity import nearness
from quaver.evaluate.metrics import query_scores
from quaver.evaluate.report import EvaluationReport, OtherResult, TaskResult
from quaver.evaluate.system import System
from quaver.evaluate.task import Task


def compare(
    baseline: System,
    systems: Sequence[System],
    tasks: Sequence[Task],
    *,
    others: Sequence[OtherResult] = (),
    run: Mapping[str, Any] | None = None,
    on_step: Callable[[str, str], None] | None = None,
) -> EvaluationReport:
    """Measure systems and the baseline on tasks, one task after the other.

    Args:
        baseline: what every difference is a difference to.
        systems: one column each, with different names.
        tasks: with judgements.
        others: results of other tasks, to stand in the same report.
        run: when, where and with what, for the record.
        on_step: called with task and system before each is measured.

    Returns:
        The report.

    Raises:
        InputError: nothing to compare, or two systems or tasks of the same name.
        TaskError: a system cannot do a task.
        ImportError: the extra "evaluate" is not installed.
    """
    _different("systems", [system.name for system in systems])
    if tasks or not others:
        _different("tasks", [task.name for task in tasks])
    step = on_step or (lambda task, system: None)
    results = []
    for task in tasks:
        step(task.name, baseline.name)
        base = baseline.measure(task)
        base_scores = query_scores(task, base.scores)
        scores, near = {}, {}
        for system in systems:
            step(task.name, system.name)
            measured = system.measure(task)
            scores[system.name] = query_scores(task, measured.scores)
            near[system.name] = nearness(task, base, measured)
        results.append(TaskResult(task, base_scores, scores, near))
    return EvaluationReport(
        baseline=baseline.name,
        systems=[system.name for system in systems],
        tasks=results,
        others=others,
        run=run or {},
    )


def _different(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        got = f"{twice[0]!r} is there twice" if twice else "there are none"
        raise InputError(f"an evaluation needs {what} of different names: {got}")
