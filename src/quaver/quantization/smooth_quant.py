"""SmoothQuant: factors that move outlier channels of a layer's input into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quaver.models import LinearWeights, dequantized, quantize_weight, rounded_rows
from quaver.quantization.input_ranges import Observer, observed_range

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROWS = 1024


def smoothing_factors(
    linear: LinearWeights, x: NDArray[np.float32], observer: Observer, strengths: Sequence[float]
) -> tuple[NDArray[np.float32], float]:
    """Find factors that divide the input features and multiply the weights.

    Formula:
        f_k = max_t |x_tk|^a / max_o |w_ok|^(1 - a), divided by its geometric mean; 1 where a
        feature is zero; for a = 0 all are 1. The strength is chosen whose
        static int8 layer has the least error on x.

    Args:
        linear: the layer, weight float32 (O, K).
        x: float32 (T, K), its input.
        observer: how the input range is found.
        strengths: values of a to try, in [0, 1].

    Returns:
        float32 (K,), positive, and the strength.

    Source:
        Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
        Language Models, 2022.
    """
    rows = x[:: max(1, len(x) // _ROWS)]
    truth = rows @ linear.weight.T
    read, weights = np.abs(x).max(axis=0), np.abs(linear.weight).max(axis=0)
    useful = (read > 0) & (weights > 0)
    best, chosen, least = np.ones(x.shape[1], np.float32), 0.0, np.inf
    for strength in strengths:
        factors = np.ones(x.shape[1], np.float32)
        if strength:
            raw = read[useful] ** strength / weights[useful] ** (1 - strength)
            factors[useful] = raw / np.exp(np.log(raw).mean())
        scaled = replace(linear, weight=linear.weight * factors)
        importance = np.square(scaled.weight).sum(axis=0)
        fixed = observed_range(rows / factors, observer, importance)
        y = rounded_rows(rows / factors, fixed) @ dequantized(quantize_weight(scaled)).weight.T
        error = float(np.square(y - truth).mean())
        if error < least:
            best, chosen, least = factors, strength, error
    return best, chosen
