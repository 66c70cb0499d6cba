"""An int8 linear layer in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quaver.models import QuantizedLinear, quantize_rows


def quantized_linear(x: NDArray[np.float32], weights: QuantizedLinear) -> NDArray[np.float32]:
    """Run a linear layer as the int8 engine does; the specification of its GEMM.

    Formula:
        y_to = sum_g scale_tg * scale_og * sum_k (q_tk - zero_tg) (w_ok - zero_og) + bias_o

        g over the groups of inputs, k over the inputs of a group, the sums exact in int32; weights in four
        bits have groups, their inputs have none

    Args:
        x: float32 (T, K).
        weights: the layer.

    Returns:
        float32 (T, O).
    """
    outputs = len(weights.bias)
    scales = weights.scale.reshape(outputs, -1)
    y = np.zeros((len(x), outputs), np.float32)
    for g, group in enumerate(weights.slices):
        if weights.bits == 8 or g == 0:
            q, scale, zero = quantize_rows(x[:, group] if weights.bits == 8 else x, weights.input)
        own = q if weights.bits == 8 else q[:, group]
        centered = own.astype(np.int32) - zero[:, None]
        wide = weights.weight[:, group].astype(np.int32)
        if weights.zero is not None:
            wide -= weights.zero.reshape(outputs, -1)[:, g, None].astype(np.int32)
        y += scale[:, None] * scales[:, g] * (centered @ wide.T).astype(np.float32)
    return y + weights.bias
