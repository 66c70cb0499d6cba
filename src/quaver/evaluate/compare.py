"""Systems compared with a baseline, on the same queries of the same tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.evaluate.cache import Model
from quaver.evaluate.fidelity import nearness
from quaver.evaluate.metrics import query_scores
from quaver.evaluate.report import EvaluationReport, OtherResult, TaskResult
from quaver.evaluate.system import System, system_of
from quaver.evaluate.task import Task
from quaver.evaluate.task_folder import find_folders, read_task
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder


def compare_models(
    models: Mapping[str, Model | System],
    tasks: str | Path | Task | Iterable[str | Path | Task],
    *,
    baseline: str,
    on_step: Callable[[str, str], None] | None = None,
) -> EvaluationReport:
    """Measure how well models retrieve or rerank, and how far each is from a baseline.

        report = compare_models(
            {
                "float32": Embedder.from_pretrained(name, precision="float32"),
                "int8": Embedder.from_pretrained(name),
            },
            "tasks",
            baseline="float32",
        )
        report.tasks[0].differences["int8"]  # with its 95 % interval

    Args:
        models: the models by the names that the report gives them, the baseline among them: an
            `Embedder`, a `CrossEncoder`, a `SparseEncoder`, a `MultiVectorEncoder`, or a system of
            `quaver.evaluate`.
        tasks: folders in BEIR layout, folders of such folders, or tasks that are read already.
        baseline: the name of the model that the others are compared with.
        on_step: called with task and model before each is measured.

    Returns:
        the report: NDCG@10 of retrieval and MAP of reranking for each query, paired differences,
        and how near each model's vectors are to the baseline's.

    Raises:
        InputError: baseline names no model, there is nothing to compare, or two tasks have the
            same name.
        TaskError: a task is broken, or a model cannot do it.
        ImportError: the extra "evaluate" is not installed.
    """
    if not isinstance(models, Mapping):
        raise InputError(
            f"models must map names to models: got {type(models).__name__}; give "
            '{"float32": ..., "int8": ...}'
        )
    if baseline not in models:
        names = ", ".join(map(repr, models)) or "none"
        raise InputError(f"baseline must name one of the models, {names}: got {baseline!r}")
    systems = {name: _system(name, model) for name, model in models.items()}
    return compare(
        systems.pop(baseline),
        list(systems.values()),
        [task for given in _listed(tasks) for task in _read(given)],
        on_step=on_step,
    )


def _system(name: str, model: Model | System) -> System:
    if isinstance(model, (Embedder, CrossEncoder, SparseEncoder, MultiVectorEncoder)):
        return system_of(name, model)
    if not callable(getattr(model, "measure", None)) or getattr(model, "name", None) != name:
        raise InputError(
            f"models[{name!r}] must be a model that is loaded, or a system with this name: got "
            f"{model!r:.80}; load it with from_pretrained(...)"
        )
    return model


def _listed(tasks: str | Path | Task | Iterable[str | Path | Task]) -> Iterable[str | Path | Task]:
    return [tasks] if isinstance(tasks, (str, Path, Task)) else tasks


def _read(task: str | Path | Task) -> list[Task]:
    if isinstance(task, Task):
        return [task]
    return [read_task(folder) for folder in find_folders(Path(task).expanduser())]


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
        baseline: the system that the others are compared with.
        systems: one column each; their names differ.
        tasks: tasks with judgments.
        others: results of tasks without judgments, for the same report.
        run: date, machine and command, for the record.
        on_step: called with task and system before each is measured.

    Returns:
        the report.

    Raises:
        InputError: there is nothing to compare, or two systems or tasks have the same name.
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
        got = f"{twice[0]!r} twice" if twice else "none"
        raise InputError(f"an evaluation needs {what} with different names: got {got}")
