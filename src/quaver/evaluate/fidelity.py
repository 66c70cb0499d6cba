"""How close a system stays to the baseline, measured without judgments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quaver.evaluate.metrics import best_documents
from quaver.evaluate.system import Measured
from quaver.evaluate.task import Scores, Task

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Cosines:
    """Cosines between two systems' vectors of the same texts.

    Attributes:
        mean: their mean.
        percentile_1: one text in a hundred is below.
        minimum: the worst text.
    """

    mean: float
    percentile_1: float
    minimum: float


@dataclass(frozen=True)
class Fidelity:
    """How close a system stays to the baseline.

    Attributes:
        texts: how many vectors were compared; 0 for systems without vectors.
        raw: cosines of the vectors.
        centred: cosines after the mean of the baseline's document vectors is subtracted from both.
            If all vectors of a model lie in a narrow cone, its raw cosines are high in any case.
        overlap_10: share of the baseline's ten best documents among the system's ten best, the mean
            over queries of retrieval tasks; None without such a task.
        same_first: share of queries with the same best document.
        score_difference: the mean absolute difference of a candidate's score, over all pairs of
            query and candidate in reranking tasks; None with vectors, or without such a task.
    """

    texts: int
    raw: Cosines | None
    centred: Cosines | None
    overlap_10: float | None
    same_first: float
    score_difference: float | None = None


@dataclass(frozen=True)
class Nearness:
    """The comparison on one task, for each text and each query.

    Attributes:
        raw: float64 (texts,).
        centred: float64 (texts,).
        overlap_10: float64 (queries,), empty for reranking.
        same_first: float64 (queries,), 0 or 1.
        score_differences: float64 (pairs,), empty with vectors, and for retrieval, where each
            system keeps the scores of its own best documents.
    """

    raw: NDArray[np.float64]
    centred: NDArray[np.float64]
    overlap_10: NDArray[np.float64]
    same_first: NDArray[np.float64]
    score_differences: NDArray[np.float64]


def nearness(task: Task, baseline: Measured, system: Measured) -> Nearness:
    """Compare a system with the baseline on a task.

    Args:
        task: the task.
        baseline: the baseline's scores and vectors.
        system: the system's scores and vectors.

    Returns:
        one number for each text and each query.
    """
    empty = np.zeros(0)
    raw = centred = differences = empty
    if baseline.vectors is not None and system.vectors is not None:
        documents, queries = baseline.vectors
        ours, theirs = np.concatenate([documents, queries]), np.concatenate(system.vectors)
        raw = row_cosines(ours, theirs)
        centred = row_cosines(ours, theirs, centre=documents.mean(axis=0))
    elif task.kind == "reranking":
        differences = np.array(
            [
                abs(score - system.scores[query][document])
                for query, row in baseline.scores.items()
                for document, score in row.items()
            ]
        )
    return Nearness(
        raw=raw,
        centred=centred,
        overlap_10=overlaps(baseline.scores, system.scores, 10)
        if task.kind == "retrieval"
        else empty,
        same_first=overlaps(baseline.scores, system.scores, 1),
        score_differences=differences,
    )


def fidelity(parts: Sequence[Nearness]) -> Fidelity:
    """Summarize a system over tasks; every text and every query counts once."""
    raw = np.concatenate([part.raw for part in parts])
    centred = np.concatenate([part.centred for part in parts])
    overlap = np.concatenate([part.overlap_10 for part in parts])
    differences = np.concatenate([part.score_differences for part in parts])
    return Fidelity(
        texts=len(raw),
        raw=summarize(raw) if len(raw) else None,
        centred=summarize(centred) if len(raw) else None,
        overlap_10=float(overlap.mean()) if len(overlap) else None,
        same_first=float(np.concatenate([part.same_first for part in parts]).mean()),
        score_difference=float(differences.mean()) if len(differences) else None,
    )


def row_cosines(a: Rows, b: Rows, *, centre: Rows | None = None) -> NDArray[np.float64]:
    """Return the cosine of each row of a with the same row of b.

    Args:
        a: float32 (N, D).
        b: float32 (N, D).
        centre: float32 (D,), subtracted from every row of both.

    Returns:
        float64 (N,), -1 to 1; 1 where both rows are zero, 0 where only one is.
    """
    left, right = a.astype(np.float64), b.astype(np.float64)
    if centre is not None:
        left, right = left - centre, right - centre
    lengths = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    product = lengths[0] * lengths[1]
    dots = np.einsum("nd,nd->n", left, right)
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    cosines: NDArray[np.float64] = np.where(
        product > 0, dots / np.where(product > 0, product, 1), both_zero
    )
    return cosines


def summarize(cosines: NDArray[np.float64]) -> Cosines:
    """Return mean, 1st percentile and minimum of cosines (N,)."""
    return Cosines(float(cosines.mean()), float(np.percentile(cosines, 1)), float(cosines.min()))


def overlaps(baseline: Scores, system: Scores, k: int) -> NDArray[np.float64]:
    """Return the share of the baseline's k best documents among the system's, for each query.

    Args:
        baseline: scores.
        system: scores of the same queries.
        k: number of documents to compare, or all if there are fewer.

    Returns:
        float64 (N,), 0 to 1, in the order of `baseline`; 1 where both found nothing, 0 where only
        one did.
    """
    shares = []
    for query in baseline:
        best, found = best_documents(baseline, query, k), best_documents(system, query, k)
        # A word search may find nothing; two systems that find nothing agree.
        shares.append(len(set(best) & set(found)) / len(best) if best else float(not found))
    return np.array(shares)
