"""An int8 linear layer in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quaver.models import QuantizedLinear, quantize_rows


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
