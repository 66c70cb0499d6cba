"""Linear layers: their weights in float32 or int8, and how weights and inputs are quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quaver.errors import WeightsError

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class LinearPart:
    """Rows of a layer that are a separate tensor in the model file.

    Attributes:
        name: its name in the bare encoder, without ".weight".
        rows: its outputs.
        prefix: prefix of the name in the file, such as "bert.".
    """

    name: str
    rows: int
    prefix: str = ""

    @property
    def stored(self) -> str:
        """The name in the file."""
        return self.prefix + self.name


@dataclass(frozen=True)
class LinearWeights:
    """y = x @ weight.T + bias, in float32.

    Attributes:
        weight: float32 (O, K).
        bias: float32 (O,).
        parts: the tensors it was stacked from, in the order of its rows; empty for a layer that
            does not come from a file.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    parts: tuple[LinearPart, ...] = ()


@dataclass(frozen=True)
class InputRange:
    """One scale and zero point for a layer's whole input: x ~ scale * (q - zero), q in 0..255.

    Attributes:
        scale: positive.
        zero: 0..255.
    """

    scale: float
    zero: int


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear layer in int8.

    Attributes:
        weight: int8 (O, K), in [-127, 127] if Quaver wrote it.
        scale: float32 (O,), positive; weight * scale[:, None] is the float weight.
        bias: float32 (O,).
        input: the fixed range of its input; None finds a range for each token at run time.
        parts: the tensors it was stacked from, see `LinearWeights`.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    input: InputRange | None = None
    parts: tuple[LinearPart, ...] = ()


Linear = LinearWeights | QuantizedLinear


def dequantized(linear: Linear) -> LinearWeights:
    """Return the layer in float32, unchanged if it already is.

    Formula:
        w_ok = scale_o * q_ok
    """
    if isinstance(linear, LinearWeights):
        return linear
    weight = linear.weight.astype(np.float32)
    weight *= linear.scale[:, None]
    return LinearWeights(weight, linear.bias, linear.parts)


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
    # In blocks that fit the cache: three passes over 6 MB of floats would read memory three times.
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
        fixed: scale and zero point of a static layer, instead of one for each row; values outside its
            range are clipped.

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
    """Quantize and dequantize activations, float32 (T, K).

    Formula:
        (q - zero) * scale
    """
    q, scale, zero = quantize_rows(x, fixed)
    restored: NDArray[np.float32] = q.astype(np.float32) - zero[:, None].astype(np.float32)
    restored *= scale[:, None]
    return restored


def stacked(parts: Sequence[Linear]) -> Linear:
    """Stack layers with the same input into one; the outputs of the first come first.

    Args:
        parts: at least one layer, all with K inputs.

    Returns:
        The layer; int8 if all parts are int8, else float32.

    Raises:
        WeightsError: parts in int8 have different fixed input ranges.
    """
    names = tuple(name for part in parts for name in part.parts)
    bias = np.concatenate([part.bias for part in parts])
    quantized = [part for part in parts if isinstance(part, QuantizedLinear)]
    if len(quantized) < len(parts):
        weight = np.concatenate([dequantized(part).weight for part in parts])
        return LinearWeights(weight, bias, names)
    ranges = {part.input for part in quantized}
    if len(ranges) > 1:
        raise WeightsError(
            f"{', '.join(part.name for part in names)} read the same rows and must have the same "
            f"input_scale and input_zero_point: got {len(ranges)} different ones; quantize the "
            "model again"
        )
    return QuantizedLinear(
        np.concatenate([part.weight for part in quantized]),
        np.concatenate([part.scale for part in quantized]),
        bias,
        ranges.pop(),
        names,
    )
