"""GPTQ: rounding weights so that a layer's output on calibration text changes least."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quaver.models import LinearWeights, QuantizedLinear

# Added to the diagonal of x^T x, as a fraction of its mean: directions that the texts never use must not
# decide how weights are rounded.
_DAMPING = 0.01
_BLOCK = 128


def round_by_output(
    linear: LinearWeights, x: NDArray[np.float32], plain: QuantizedLinear
) -> QuantizedLinear:
    """Quantize a weight feature by feature, spreading each error over the features that follow.

    Formula:
        scales and zeros of the layer rounded to nearest; for k in the order of falling sum_t x_tk^2:
        q_ok = round(w_ok / scale_o) + zero_o, and for every later j
        w_oj -= (w_ok - scale_o (q_ok - zero_o)) / U_kk * U_kj, U upper with
        U^T U = (x^T x + damping)^-1

    Args:
        linear: weight float32 (O, K).
        x: float32 (T, K), the layer's input, after quantization.
        plain: the layer in int8 or int4, rounded to nearest.

    Returns:
        the layer in as many bits, with the scales, zeros and groups of `plain`.

    Source:
        Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
        Transformers, 2022.
    """
    hessian = (x.T @ x).astype(np.float64)
    power = np.diag(hessian).copy()
    hessian[np.diag_indices_from(hessian)] += max(_DAMPING * float(power.mean()), 1e-12)
    order = np.argsort(-power, kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    upper32 = upper.astype(np.float32)
    weight = linear.weight[:, order]
    scales, zeros = _by_group(plain)
    low, high = -128 if plain.zero is not None else -127, 127
    if plain.bits == 4:
        low, high = -8, 7
    group = np.empty(linear.weight.shape[1], np.intp)
    for g, columns_of_group in enumerate(plain.slices):
        group[columns_of_group] = g
    quantized = np.empty(weight.shape, np.int8)
    columns = weight.shape[1]
    for first in range(0, columns, _BLOCK):
        last = min(first + _BLOCK, columns)
        errors = np.empty((len(weight), last - first), np.float32)
        for k in range(first, last):
            scale, zero = scales[group[order[k]]], zeros[group[order[k]]]
            q = np.clip(np.rint(weight[:, k] / scale) + zero, low, high)
            quantized[:, k] = q
            error = (weight[:, k] - (q - zero) * scale) / upper32[k, k]
            errors[:, k - first] = error
            weight[:, k + 1 : last] -= error[:, None] * upper32[k, k + 1 : last]
        weight[:, last:] -= errors @ upper32[first:last, last:]
    natural = np.empty_like(quantized)
    natural[:, order] = quantized
    return replace(plain, weight=natural)


def _by_group(
    plain: QuantizedLinear,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scales and zeros, float32 (G, O)."""
    outputs = len(plain.bias)
    scales = np.ascontiguousarray(plain.scale.reshape(outputs, -1).T)
    if plain.zero is None:
        return scales, np.zeros_like(scales)
    return scales, plain.zero.reshape(outputs, -1).T.astype(np.float32)
