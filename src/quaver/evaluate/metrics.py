"""The metric of each query, computed by trec_eval as in MTEB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError, needs_extra
from quaver.evaluate.task import Scores, Task


def query_scores(task: Task, scores: Scores) -> NDArray[np.float64]:
    """Return the task's metric for each query.

    Formula:
        NDCG@10: DCG / best DCG, DCG = sum of judgment_i / log2(i + 1) over the ten best
        MAP: the mean of the precision at each relevant document; 0 for a document that is not
            ranked

    Args:
        task: the task.
        scores: a system's scores.

    Returns:
        float64 (N,), 0 to 1, in the order of `task.queries`.

    Raises:
        InputError: the system has no scores for a query.
        ImportError: the extra "evaluate" is not installed.

    Source: trec_eval 9, measures ndcg_cut and map.
    """
    with needs_extra("evaluate"):
        from pytrec_eval import RelevanceEvaluator
    lost = [query for query in task.queries if query not in scores]
    if lost:
        raise InputError(f"{task.name}: a system must score every query: {lost[0]!r} has no score")
    measure = "ndcg_cut_10" if task.kind == "retrieval" else "map"
    evaluator = RelevanceEvaluator(
        {query: dict(row) for query, row in task.judgments.items()},
        {"ndcg_cut.10" if task.kind == "retrieval" else "map"},
        relevance_level=task.relevance,
    )
    found = evaluator.evaluate({query: scores[query] for query in task.queries})
    return np.array([found[query][measure] for query in task.queries])


def best_documents(scores: Scores, query: str, k: int) -> list[str]:
    """Return the k best documents of a query, with ties in the order of trec_eval.

    Args:
        scores: a system's scores.
        query: its id.
        k: maximum number of documents.

    Returns:
        document ids, best first.
    """
    row = scores[query]
    return sorted(sorted(row, reverse=True), key=row.__getitem__, reverse=True)[:k]
