"""The result of an evaluation, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.evaluate.fidelity import Fidelity, Nearness, fidelity
from quaver.evaluate.statistics import Difference, paired_difference
from quaver.evaluate.task import KINDS, METRICS, Kind, Task


@dataclass(frozen=True)
class TaskResult:
    """The result of one task: the baseline and every system.

    Attributes:
        task: the task.
        baseline: float64 (N,), the metric for each query.
        scores: the same for each system, by its name.
        nearness: how close each system stays to the baseline, by its name.
    """

    task: Task
    baseline: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]
    nearness: Mapping[str, Nearness]

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Each system's mean compared with the baseline's."""
        return {s: paired_difference([(self.baseline, own)]) for s, own in self.scores.items()}


@dataclass(frozen=True)
class OtherResult:
    """The result of a task without a score for each query, such as mteb's STS and classification.

    Attributes:
        task: its name.
        metric: the task's main score.
        baseline: the baseline's score.
        scores: each system's score, by its name.
    """

    task: str
    metric: str
    baseline: float
    scores: Mapping[str, float]

    def relative(self, system: str) -> float:
        """Return (system - baseline) / baseline."""
        return self.scores[system] / self.baseline - 1 if self.baseline else float("nan")


@dataclass(frozen=True)
class EvaluationReport:
    """The result of an evaluation: every task, the means of each kind, and how close vectors stay.

    Attributes:
        baseline: the baseline's name.
        systems: names of the systems compared with it.
        tasks: one result for each task with judgments, in the given order.
        others: results of tasks without judgments.
        run: date, machine, command and models.
    """

    baseline: str
    systems: Sequence[str]
    tasks: Sequence[TaskResult]
    others: Sequence[OtherResult] = ()
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of the tasks that were measured."""
        return [kind for kind in KINDS if any(r.task.kind == kind for r in self.tasks)]

    def of_kind(self, kind: Kind) -> list[TaskResult]:
        """Return the results of one kind."""
        return [result for result in self.tasks if result.task.kind == kind]

    @cached_property
    def means(self) -> dict[Kind, dict[str, Difference]]:
        """Each system's mean over the tasks of a kind, each task counted once."""
        return {kind: self._means(self.of_kind(kind)) for kind in self.kinds}

    @cached_property
    def overall(self) -> dict[str, Difference]:
        """Each system's mean over all tasks of both kinds, each task counted once; empty without tasks.

        NDCG@10 of retrieval and MAP of reranking enter one mean as they are: both go from 0 to 1.
        """
        if len(self.kinds) == 1:
            return self.means[self.kinds[0]]
        return self._means(self.tasks) if self.tasks else {}

    def _means(self, results: Sequence[TaskResult]) -> dict[str, Difference]:
        return {
            s: paired_difference([(r.baseline, r.scores[s]) for r in results]) for s in self.systems
        }

    def fidelity(self, system: str) -> Fidelity | None:
        """Return how close a system stays to the baseline over all tasks with judgments."""
        return fidelity([r.nearness[system] for r in self.tasks]) if self.tasks else None

    def only(self, system: str) -> EvaluationReport:
        """Return the report of one system."""
        return replace(self, systems=[system])

    def losses(self, system: str) -> dict[str, float]:
        """Return a system's losses as shares of the baseline's mean; negative values are gains.

        Returns:
            the loss of each kind of task with judgments, and of each other task.
        """
        found: dict[str, float] = {
            f"{kind} {METRICS[kind]}": -means[system].relative for kind, means in self.means.items()
        }
        return found | {other.task: -other.relative(system) for other in self.others}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the scores of single queries, ready for `json.dumps`."""
        return {
            "kind": "evaluation",
            "baseline": self.baseline,
            "systems": list(self.systems),
            "tasks": [self._task(result) for result in self.tasks],
            "means": {
                kind: {
                    "metric": METRICS[kind],
                    "tasks": len(self.of_kind(kind)),
                    "systems": {s: asdict(found) for s, found in means.items()},
                }
                for kind, means in self.means.items()
            },
            "overall": {
                "tasks": len(self.tasks),
                "queries": sum(len(result.baseline) for result in self.tasks),
                "systems": {s: asdict(found) for s, found in self.overall.items()},
            },
            "others": [asdict(other) for other in self.others],
            "fidelity": {
                s: asdict(found) for s in self.systems if (found := self.fidelity(s)) is not None
            },
            "run": dict(self.run),
        }

    def _task(self, result: TaskResult) -> dict[str, Any]:
        task = result.task
        return {
            "task": task.name,
            "kind": task.kind,
            "metric": task.metric,
            "source": task.source,
            "relevance": task.relevance,
            "documents": len(task.corpus),
            "queries": len(task.queries),
            "baseline": float(result.baseline.mean()),
            "systems": {
                s: {
                    **asdict(result.differences[s]),
                    "fidelity": asdict(fidelity([result.nearness[s]])),
                }
                for s in self.systems
            },
        }
