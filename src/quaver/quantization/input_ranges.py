"""Input ranges of static layers, found by an observer on calibration text."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quaver.models import InputRange, rounded_rows

Observer = Literal["minmax", "percentile", "mse"]
OBSERVERS: tuple[Observer, ...] = ("minmax", "percentile", "mse")

# The share of values that "percentile" leaves outside, half of it on each side.
PERCENTILE_OUTSIDE = 2e-4
# Rows that "mse" uses, and the fractions of the whole range that it tries.
_MSE_ROWS = 2048
_MSE_PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def observed_range(
    x: NDArray[np.float32], observer: Observer, importance: NDArray[np.float32]
) -> InputRange:
    """Find one scale and zero point for a layer's input.

    Formula:
        minmax      [min x, max x]
        percentile  [the 0.01th, the 99.99th percentile]
        mse         the part [low, high] of the whole range with the least
                    sum_tk importance_k (x_tk - x'_tk)^2, x' being x after quantization

    Args:
        x: float32 (T, K), the layer's input, T at least 1.
        observer: its name.
        importance: float32 (K,), how much an error in a feature counts: the sum of the squares of its
            weights.

    Returns:
        the range, widened to hold 0, with zero = round(-low / scale).
    """
    low, high = float(x.min()), float(x.max())
    if observer == "percentile":
        half = 50 * PERCENTILE_OUTSIDE
        low, high = (float(v) for v in np.percentile(x, (half, 100 - half)))
    if observer != "mse":
        return _range(low, high)
    rows = x[:: max(1, len(x) // _MSE_ROWS)]
    best, least = _range(low, high), np.inf
    for top in _MSE_PARTS:
        for bottom in _MSE_PARTS:
            tried = _range(low * bottom, high * top)
            error = _weighted_error(rows, tried, importance)
            if error < least:
                best, least = tried, error
    return best


def _range(low: float, high: float) -> InputRange:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return InputRange(scale, round(-low / scale))


def _weighted_error(
    x: NDArray[np.float32], tried: InputRange, importance: NDArray[np.float32]
) -> float:
    return float(np.square(rounded_rows(x, tried) - x).sum(axis=0) @ importance)
