"""Confidence intervals of differences: the paired bootstrap over queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
_BLOCK = 1 << 22
"""Maximum number of indices drawn at once: 32 MB."""


@dataclass(frozen=True)
class Difference:
    """A system's mean compared with the baseline's, over the same queries.

    Attributes:
        baseline: the baseline's mean.
        mean: the system's mean.
        relative: (mean - baseline) / baseline; negative is a loss.
        low: lower end of the 95 % confidence interval of `relative`.
        high: upper end.
    """

    baseline: float
    mean: float
    relative: float
    low: float
    high: float


Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Per-query scores of the baseline and of a system, (N,) each, in the same order."""


def paired_difference(pairs: Sequence[Pair], *, seed: int = SEED) -> Difference:
    """Compare two systems on one task, or on the mean of several.

    Formula:
        r = (mean of b - mean of a) / mean of a, where a mean over several tasks is the mean of the
        tasks' means. Queries are resampled with replacement 10,000 times, the same for a and b,
        separately for each task; the interval is the middle 95 % of r.

    Args:
        pairs: scores of baseline and system, one pair for each task.
        seed: seed of the resampling.

    Returns:
        the difference and its interval; nan where the baseline's mean is 0.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentiles.
    """
    random = np.random.default_rng(seed)
    means = np.mean([[a.mean(), b.mean()] for a, b in pairs], axis=0)
    drawn = np.mean([_resampled_means(a, b, random) for a, b in pairs], axis=0)
    relative = _relative(drawn[0], drawn[1])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(relative, [tail, 1 - tail])
    return Difference(
        baseline=float(means[0]),
        mean=float(means[1]),
        relative=float(_relative(means[0], means[1])),
        low=float(low),
        high=float(high),
    )


def _relative(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = np.where(a == 0, np.nan, b / a - 1)
    return ratio


def _resampled_means(
    a: NDArray[np.float64], b: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """Return the means of both over resampled queries, float64 (2, RESAMPLES)."""
    both = np.stack([a, b])
    step = max(1, _BLOCK // len(a))
    parts = []
    for first in range(0, RESAMPLES, step):
        rows = random.integers(len(a), size=(min(step, RESAMPLES - first), len(a)))
        parts.append(both[:, rows].mean(axis=2))
    return np.concatenate(parts, axis=1)
