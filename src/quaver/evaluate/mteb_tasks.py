"""mteb's tasks by name: those with judgments become `Task`s, mteb runs the others itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quaver.errors import TaskError, needs_extra
from quaver.evaluate.report import OtherResult
from quaver.evaluate.task import Kind, Task, checked_task

# mteb's main scores that Quaver computes; mteb scores tasks with another metric.
_KINDS: dict[str, Kind] = {"ndcg_at_10": "retrieval", "map_at_1000": "reranking"}


def find_mteb(names: Sequence[str]) -> list[Any]:
    """Find mteb's tasks by the names of tasks and benchmarks.

    Args:
        names: such as "SciFact" or "MTEB(eng, v2)".

    Returns:
        the tasks, each once. Nothing is downloaded.

    Raises:
        TaskError: mteb has no task or benchmark of a name.
        ImportError: the extra "mteb" is not installed.
    """
    with needs_extra("mteb"):
        import mteb
    found: dict[str, Any] = {}
    for name in names:
        try:
            tasks = mteb.get_benchmark(name).tasks
        except KeyError:
            try:
                tasks = [mteb.get_task(name)]
            except KeyError as error:
                raise TaskError(
                    f"a task must be a folder, or a task or benchmark of mteb: got {name!r}; mteb says: "
                    f"{error.args[0]}"
                ) from error
        found |= {task.metadata.name: task for task in tasks}
    return list(found.values())


def has_judgments(task: Any) -> bool:
    """Return whether a task is text retrieval or reranking with NDCG@10 or MAP."""
    with needs_extra("mteb"):
        from mteb.abstasks.retrieval import AbsTaskRetrieval
    return (
        isinstance(task, AbsTaskRetrieval)
        and task.metadata.main_score in _KINDS
        and task.metadata.modalities == ["text"]
        and not getattr(task, "ignore_identical_ids", False)
        and not task.metadata.type.startswith("Instruction")
    )


def read_mteb(task: Any) -> list[Task]:
    """Load a task's data as one `Task` for each subset and split.

    Args:
        task: a task for which `has_judgments` is true.

    Returns:
        the tasks.

    Raises:
        TaskError: the data cannot be loaded, or the queries are not plain texts.
    """
    _load(task)
    tasks = []
    name, kind = task.metadata.name, _KINDS[task.metadata.main_score]
    several = sum(map(len, task.dataset.values())) > 1
    for subset, splits in task.dataset.items():
        for split, data in splits.items():
            if split not in task.metadata.eval_splits:
                continue
            ranked = data.get("top_ranked")
            judged = {q: dict(row) for q, row in data["relevant_docs"].items()}
            if kind == "reranking" and ranked:
                # A candidate without a judgment is not relevant.
                judged = {
                    q: {d: judged[q].get(d, 0) for d in pool}
                    for q, pool in ranked.items()
                    if q in judged
                }
            columns = data["queries"].column_names
            if "instruction" in columns or not isinstance(data["queries"][0]["text"], str):
                raise TaskError(f"{name}: queries must be plain texts: got {columns}")
            tasks.append(
                checked_task(
                    Task(
                        name=f"{name} ({subset}, {split})" if several else name,
                        kind=kind,
                        corpus={row["id"]: _text(row) for row in data["corpus"]},
                        queries={row["id"]: row["text"] for row in data["queries"]},
                        judgments=judged,
                        source=f"mteb {name} {task.metadata.revision}",
                    )
                )
            )
    return tasks


def run_mteb(
    tasks: Sequence[Any],
    baseline: Any,
    systems: Mapping[str, Any],
    *,
    on_step: Callable[[str, str], None] | None = None,
) -> list[OtherResult]:
    """Let mteb run tasks without a score for each query, such as STS and classification.

    Args:
        tasks: tasks of mteb.
        baseline: a model that satisfies mteb's protocols.
        systems: column name to such a model.
        on_step: called with task and system before each is measured.

    Returns:
        one result for each task.

    Raises:
        TaskError: the data cannot be loaded.
    """
    with needs_extra("mteb"):
        import mteb
    step = on_step or (lambda task, system: None)
    results = []
    for task in tasks:
        name = task.metadata.name
        scores = {}
        for system, model in {"": baseline, **systems}.items():
            step(name, system or "float32")
            _load(task)
            done = mteb.evaluate(
                model, task, cache=None, co2_tracker=False, show_progress_bar=False
            )
            scores[system] = float(done.task_results[0].get_score())
        base = scores.pop("")
        results.append(OtherResult(name, task.metadata.main_score, base, scores))
    return results


def _load(task: Any) -> None:
    """Load a task's data once, and turn any failure into a TaskError."""
    try:
        task.load_data()
    # datasets, huggingface_hub and their HTTP libraries share no narrower class.
    except Exception as error:
        raise TaskError(
            f"the data of {task.metadata.name} cannot be loaded: {type(error).__name__}: {error}; go "
            "online once, or give a local folder in BEIR layout"
        ) from error


def _text(row: Mapping[str, Any]) -> str:
    return f"{row.get('title') or ''} {row['text']}".strip()
