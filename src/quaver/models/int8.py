"""float32 to int8, in memory: weights once, activations as the native kernels do it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quaver.models.linear import InputRange, LinearWeights, QuantizedLinear

_TINY = np.finfo(np.float32).tiny


def quantize_weight(linear: LinearWeights) -> QuantizedLinear:
    """Quantize a weight, symmetric, one scale for each output.

    Formula:
        scale_o = max_k |w_ok| / 127 (1 for a row of zeros);  q_ok = round(w_ok / scale_o), half to
        even

    Args:
        linear: weight float32 (O, K), finite; bias float32 (O,).

    Returns:
        The layer in int8; -128 is never used, so the range is the same on both sides.
    """
    weight = linear.weight
    largest = np.maximum(weight.max(axis=1, initial=0), -weight.min(axis=1, initial=0))
    scale = np.where(largest > 0, np.maximum(largest / np.float32(127), _TINY), np.float32(1))
    quantized = np.empty(weight.shape, np.int8)
    # In blocks that stay in the cache: three passes over 6 MB of floats are three trips to memory.
    block = max(1, 65536 // max(1, weight.shape[1]))
    for first in range(0, len(weight), block):
        rows = slice(first, first + block)
        scaled = weight[rows] / scale[rows, None]
        np.rint(scaled, out=scaled)
        quantized[rows] = scaled
    return QuantizedLinear(quantized, scale, linear.bias, parts=linear.parts)


def quantize_rows(
    x: NDArray[np.float32], fixed: InputRange | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
    """Quantize activations, asymmetric; one scale and one zero point for each token, or fixed ones.

    Formula:
        low = min(0, min x), high = max(0, max x), scale = (high - low) / 255 (1 for a row of
        zeros), zero = round(-low / scale), q = clip(round(x / scale) + zero, 0, 255), half to even

    Args:
        x: float32 (T, K), finite.
        fixed: scale and zero of a static layer, instead of the row's own; values outside its range
            end at its edge.

    Returns:
        q uint8 (T, K), scale float32 (T,), zero int32 (T,) in [0, 255]; (q - zero) * scale is x
        within one scale.
    """
    if fixed is not None:
        scale = np.full(len(x), fixed.scale, np.float32)
        q = np.clip(np.rint(x / scale[:, None]) + np.float32(fixed.zero), 0, 255)
        return q.astype(np.uint8), scale, np.full(len(x), fixed.zero, np.int32)
    low, high = x.min(axis=1, initial=0), x.max(axis=1, initial=0)
    width = (high - low) / np.float32(255)
    scale = np.where(high > low, np.maximum(width, _TINY), np.float32(1))
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(x / scale[:, None]) + zero[:, None], 0, 255)
    return q.astype(np.uint8), scale, zero.astype(np.int32)


def rounded_rows(x: NDArray[np.float32], fixed: InputRange | None = None) -> NDArray[np.float32]:
    """Return what is left of activations after `quantize_rows`, float32 (T, K).

    Formula:
        (q - zero) * scale
    """
    q, scale, zero = quantize_rows(x, fixed)
    restored: NDArray[np.float32] = q.astype(np.float32) - zero[:, None].astype(np.float32)
    restored *= scale[:, None]
    return restored


def quantized_linear(x: NDArray[np.float32], weights: QuantizedLinear) -> NDArray[np.float32]:
    """Run a linear layer as the int8 engine does; the specification of its GEMM.

    Formula:
        y_to = scale_t * scale_o * (sum_k q_tk w_ok - zero_t * sum_k w_ok) + bias_o, the sums exact
        in int32

    Args:
        x: float32 (T, K).
        weights: the layer.

    Returns:
        float32 (T, O).
    """
    q, scale, zero = quantize_rows(x, weights.input)
    wide = weights.weight.astype(np.int32)
    sums = q.astype(np.int32) @ wide.T - zero[:, None] * wide.sum(axis=1)
    y: NDArray[np.float32] = scale[:, None] * weights.scale * sums.astype(np.float32)
    return y + weights.bias
