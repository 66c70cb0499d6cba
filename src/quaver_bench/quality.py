"""The quality of an engine's vectors: ranking of judged texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError
from quaver.evaluate import Task, find_folders, read_task
from quaver_bench.engines import Engine

K = 10
JUDGED = "judged texts"
"""Name of the case in the reasons for engines that could not rank them."""


QUERY, DOCUMENT = ("query",), ("document", "passage")
"""The names of their prompts; the first that the model has counts."""


def prompted(texts: Sequence[str], prompts: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return texts as `Embedder.encode_query` and `encode_document` read them.

    Args:
        texts: the texts.
        prompts: the model's prompts by name.
        names: QUERY or DOCUMENT.

    Returns:
        the texts after their prompt, unless they begin with it.
    """
    prompt = next((prompts[name] for name in names if name in prompts), "")
    return [text if text.startswith(prompt) else prompt + text for text in texts]


@dataclass(frozen=True)
class Judgments:
    """Judged queries over a corpus.

    Attributes:
        name: name of the task.
        documents: texts of the documents.
        queries: texts of the judged queries.
        relevance: for each query, index of a document to its grade, above 0.
    """

    name: str
    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevance: tuple[dict[int, float], ...]


def read_judgments(path: Path) -> list[Judgments]:
    """Read retrieval tasks as `quaver evaluate` reads them; reranking tasks are left out.

    Args:
        path: a task's folder in BEIR layout, or a folder of such folders.

    Returns:
        the tasks, sorted by name.

    Raises:
        TaskError: there is no task, or one is broken.
        InputError: all tasks are reranking tasks, which have no NDCG@10.
    """
    tasks = [read_task(folder) for folder in find_folders(path)]
    judged = [_judgments(task) for task in tasks if task.kind == "retrieval"]
    if not judged:
        raise InputError(f"judgments must be of a retrieval task: {path} has only reranking tasks")
    return judged


def _judgments(task: Task) -> Judgments:
    places = {name: index for index, name in enumerate(task.corpus)}
    relevance = (
        {places[document]: float(grade) for document, grade in row.items() if grade > 0}
        for row in (task.judgments[query] for query in task.queries)
    )
    texts = tuple(task.corpus.values()), tuple(task.queries.values())
    return Judgments(task.name, *texts, tuple(relevance))


def judged_names(tasks: Sequence[Judgments]) -> str:
    """Return the names of tasks, separated by commas."""
    return ", ".join(task.name for task in tasks)


def ndcg(engine: Engine, judged: Sequence[Judgments], prompts: Mapping[str, str]) -> float:
    """Return the NDCG@10 of an engine's vectors: the mean over queries, then over tasks.

    Formula:
        DCG = sum over ranks r of grade(r) / log2(r + 1); NDCG = DCG / DCG of the best order

    Args:
        engine: encodes documents and queries.
        judged: the tasks.
        prompts: the model's prompts by name, put before queries and documents as in `quaver evaluate`.

    Returns:
        0 to 1.
    """
    return float(np.mean([_task_ndcg(engine, task, prompts) for task in judged]))


def _task_ndcg(engine: Engine, task: Judgments, prompts: Mapping[str, str]) -> float:
    documents = engine.encode(prompted(task.documents, prompts, DOCUMENT))
    queries = engine.encode(prompted(task.queries, prompts, QUERY))
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :K]
    scores = []
    for found, grades in zip(order, task.relevance, strict=True):
        gained = np.array([grades.get(int(index), 0.0) for index in found])
        best = np.array(sorted(grades.values(), reverse=True)[:K])
        scores.append(_dcg(gained) / _dcg(best))
    return float(np.mean(scores))


def _dcg(grades: NDArray[np.float64]) -> float:
    return float((grades / np.log2(np.arange(2, len(grades) + 2))).sum())
