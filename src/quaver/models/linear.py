"""A linear layer's weights, in float32 or in int8, and the names its parts have in a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quaver.errors import WeightsError


@dataclass(frozen=True)
class LinearPart:
    """Rows of a layer that are a tensor of their own in the model file.

    Attributes:
        name: its name in the bare encoder, without ".weight".
        rows: its outputs.
        prefix: what the file puts before the name ("bert.").
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
        parts: the tensors it was stacked of, in the order of its rows; empty for a layer that is in
            no file.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    parts: tuple[LinearPart, ...] = ()


@dataclass(frozen=True)
class InputRange:
    """One scale and one zero point for everything a layer reads: x ~ scale * (q - zero), q in 0..255.

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
        weight: int8 (O, K), in [-127, 127] where Quaver made it.
        scale: float32 (O,), positive; weight * scale[:, None] is the float weight.
        bias: float32 (O,).
        input: the fixed range of what it reads; None is a range for each token, found while running.
        parts: the tensors it was stacked of, see `LinearWeights`.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    input: InputRange | None = None
    parts: tuple[LinearPart, ...] = ()


Linear = LinearWeights | QuantizedLinear


def dequantized(linear: Linear) -> LinearWeights:
    """Return the layer in float32; one that is already so as it is.

    Formula:
        w_ok = scale_o * q_ok
    """
    if isinstance(linear, LinearWeights):
        return linear
    weight = linear.weight.astype(np.float32)
    weight *= linear.scale[:, None]
    return LinearWeights(weight, linear.bias, linear.parts)


def stacked(parts: Sequence[Linear]) -> Linear:
    """Stack layers that read the same input into one, the outputs of the first on top.

    Args:
        parts: at least one layer, all with K inputs.

    Returns:
        The layer; int8 when all parts are, else float32.

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
