"""float32 to int8, in memory: weights once, activations as the native kernels do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quaver.architecture import LinearWeights

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear layer in int8.

    Attributes:
        weight: int8 (O, K), in [-127, 127].
        scale: float32 (O,), positive; weight * scale[:, None] is the float weight.
        bias: float32 (O,).
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


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
    return QuantizedLinear(quantized, scale, linear.bias)


def quantize_rows(
    x: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
    """Quantize activations, asymmetric, one scale and one zero point for each token.

    Formula:
        low = min(0, min x), high = max(0, max x), scale = (high - low) / 255 (1 for a row of
        zeros), zero = round(-low / scale), q = clip(round(x / scale) + zero, 0, 255), half to even

    Args:
        x: float32 (T, K), finite.

    Returns:
        q uint8 (T, K), scale float32 (T,), zero int32 (T,) in [0, 255]; (q - zero) * scale is x
        within one scale.
    """
    low, high = x.min(axis=1, initial=0), x.max(axis=1, initial=0)
    width = (high - low) / np.float32(255)
    scale = np.where(high > low, np.maximum(width, _TINY), np.float32(1))
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(x / scale[:, None]) + zero[:, None], 0, 255)
    return q.astype(np.uint8), scale, zero.astype(np.int32)


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
    q, scale, zero = quantize_rows(x)
    wide = weights.weight.astype(np.int32)
    sums = q.astype(np.int32) @ wide.T - zero[:, None] * wide.sum(axis=1)
    y: NDArray[np.float32] = scale[:, None] * weights.scale * sums.astype(np.float32)
    return y + weights.bias
