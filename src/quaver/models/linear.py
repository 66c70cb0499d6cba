"""Linear layers: their weights in float32 or int8, and how weights and inputs are quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import WeightsError

_TINY = np.finfo(np.float32).tiny
# Scales that are tried for a row, times the smallest that holds all its weights, and inputs that decide.
_FACTORS = np.linspace(1, 1.15, 31, dtype=np.float32)
_STRONGEST = 64
# Floats of a block of rows that stay in the cache between passes.
_BLOCK = 65536
# The same in four bits, where the largest weights may be clipped.
_FACTORS_OF_INT4 = np.linspace(0.7, 1, 13, dtype=np.float32)
# Ranges of the inputs of a layer in four bits, where its inputs differ much in width: at most so many, none smaller.
_MOST_RANGES, _SMALLEST_RANGE = 8, 192


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
    """A linear layer in eight or four bits.

    Attributes:
        weight: int8 (O, K); a symmetric one is in [-127, 127] if Quaver wrote it, one in four bits in
            [-8, 7].
        scale: float32 (O,), positive; (O, G) with groups of inputs.
        bias: float32 (O,).
        input: the fixed range of its input; None finds a range for each token at run time, and for
            each group.
        parts: the tensors it was stacked from, see `LinearWeights`.
        zero: int8 like `scale`, the integer that stands for 0; None for a symmetric weight, where
            that is 0.
        groups: where the groups of its inputs end, rising: multiples of 64, the last one K; empty
            for one group. In four bits those of `equal_groups`, and the input has one range for all.
        bits: 8, or 4 for a symmetric weight.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    input: InputRange | None = None
    parts: tuple[LinearPart, ...] = ()
    zero: NDArray[np.int8] | None = None
    groups: tuple[int, ...] = ()
    bits: Literal[8, 4] = 8

    @property
    def slices(self) -> tuple[slice, ...]:
        """The inputs of each group."""
        return _slices(self.groups, self.weight.shape[1])


Linear = LinearWeights | QuantizedLinear


def dequantized(linear: Linear) -> LinearWeights:
    """Return the layer in float32, unchanged if it already is.

    Formula:
        w_ok = scale_og * (q_ok - zero_og), g the group of input k
    """
    if isinstance(linear, LinearWeights):
        return linear
    weight = linear.weight.astype(np.float32)
    for g, group in enumerate(linear.slices):
        if linear.zero is not None:
            weight[:, group] -= linear.zero.reshape(len(weight), -1)[:, g, None]
        weight[:, group] *= linear.scale.reshape(len(weight), -1)[:, g, None]
    return LinearWeights(weight, linear.bias, linear.parts)


def equal_groups(inputs: int, size: int) -> tuple[int, ...]:
    """Return where groups of `size` inputs end; the last one may be shorter."""
    return (*range(size, inputs, size), inputs)


def ranges_of_inputs(inputs: int, group: int) -> tuple[int, ...]:
    """Return where the ranges of the inputs of a feed-forward part's last layer end, in four bits.

    Args:
        inputs: K.
        group: inputs in a group of weights.

    Returns:
        multiples of 64 and of `group`, the last one K; nothing for a single range.
    """
    step = max(group, 64)
    size = -(-max(inputs / _MOST_RANGES, _SMALLEST_RANGE) // step) * step
    ends = equal_groups(inputs, int(size))
    return ends if len(ends) > 1 else ()


def packed_int4(weight: NDArray[np.int8]) -> NDArray[np.int32]:
    """Pack weights of four bits, eight to a word, the first one lowest; 0 stands for -8.

    Args:
        weight: int8 (O, K) in [-8, 7], K a multiple of 8.

    Returns:
        int32 (O, K / 8).
    """
    halves = (weight + np.int8(8)).view(np.uint8)
    packed: NDArray[np.int32] = (halves[:, ::2] | halves[:, 1::2] << 4).view("<i4")
    return packed.astype(np.int32, copy=False)


def unpacked_int4(packed: NDArray[np.int32]) -> NDArray[np.int8]:
    """Undo `packed_int4`: int32 (O, K / 8) to int8 (O, K)."""
    pairs = np.ascontiguousarray(packed.astype("<i4", copy=False)).view(np.uint8)
    weight = np.empty((len(pairs), 2 * pairs.shape[1]), np.int8)
    np.subtract(pairs & 15, 8, out=weight[:, ::2], dtype=np.int8, casting="unsafe")
    np.subtract(pairs >> 4, 8, out=weight[:, 1::2], dtype=np.int8, casting="unsafe")
    return weight


def quantize_weight(
    linear: LinearWeights,
    *,
    symmetric: bool = True,
    groups: tuple[int, ...] = (),
    bits: Literal[8, 4] = 8,
    power: NDArray[np.floating[Any]] | None = None,
) -> QuantizedLinear:
    """Quantize a weight, with one scale for each output and group of inputs.

    Formula:
        symmetric   scale_o = max_k |w_ok| / 127 (1 for zeros);  q_ok = round(w_ok / scale_o);  in four
                    bits with 7 instead of 127
        asymmetric  low = min(0, min_k w_ok), high = max(0, max_k w_ok), scale_o = (high - low) / 255,
                    zero_o = -128 - round(low / scale_o), q_ok = round(w_ok / scale_o) + zero_o

        half to even, k over the inputs of a group

        With the power of each input, the scale is the one of 31 up to 1.15 times as large that loses
        least: sum_k power_k (w_ok - scale_o (q_ok - zero_o))^2. A few inputs are far stronger than
        others, and their weights come to lie near a step. In four bits it is the one of 13 from 0.7 to 1
        times the smallest that holds all weights; larger ones become the largest integer.

    Args:
        linear: weight float32 (O, K), finite; bias float32 (O,).
        symmetric: whether 0 stands for 0; otherwise `zero` does, and the range has no unused side.
        groups: where the groups of inputs end, see `QuantizedLinear`.
        bits: 8, or 4 for a symmetric weight.
        power: (K,), the mean square of each input; None for the formula's scales.

    Returns:
        the layer; a symmetric one in eight bits never uses the smallest integer, so the range is the
        same on both sides.
    """
    assert symmetric or bits == 8
    if bits == 4:
        return _quantize_int4(linear, groups, power)
    weight = linear.weight
    most = np.float32(127)
    scales, zeros = [], []
    quantized = np.empty(weight.shape, np.int8)
    for group in _slices(groups, weight.shape[1]):
        low, high = weight[:, group].min(axis=1, initial=0), weight[:, group].max(axis=1, initial=0)
        width = np.maximum(high, -low) / most if symmetric else (high - low) / np.float32(255)
        scale = np.where(high > low, np.maximum(width, _TINY), np.float32(1))
        if power is not None:
            scale = _least_loss(weight[:, group], scale, power[group])
        zero = np.zeros_like(scale) if symmetric else -128 - np.rint(low / scale)
        # In blocks that stay in the cache: three passes over 6 MB of floats are three trips to memory.
        block = max(1, _BLOCK // max(1, weight.shape[1]))
        for first in range(0, len(weight), block):
            rows = slice(first, first + block)
            scaled = weight[rows, group] / scale[rows, None]
            np.rint(scaled, out=scaled)
            if not symmetric:
                scaled = np.clip(scaled + zero[rows, None], -128, 127)
            quantized[rows, group] = scaled
        scales.append(scale)
        zeros.append(zero.astype(np.int8))
    return QuantizedLinear(
        quantized,
        np.stack(scales, axis=1) if groups else scales[0],
        linear.bias,
        parts=linear.parts,
        zero=None if symmetric else np.stack(zeros, axis=1) if groups else zeros[0],
        groups=groups,
    )


def _least_loss(
    weight: NDArray[np.float32], scale: NDArray[np.float32], power: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    """Return the scales, the least of which is given, that lose least on inputs of this power."""
    strongest = np.argsort(-power, kind="stable")[:_STRONGEST]
    share = power / max(float(power.sum()), 1e-300)
    strong = share[strongest].astype(np.float32)
    # Of the many weak inputs only the mean matters: a twelfth of the squared step.
    weak = np.float32((1 - strong.sum()) / 12)
    columns = np.ascontiguousarray(weight[:, strongest])
    best, least = scale, np.full(len(scale), np.inf, np.float32)
    for factor in _FACTORS:
        tried = scale * factor
        steps = columns / tried[:, None]
        steps -= np.rint(steps)
        np.square(steps, out=steps)
        loss = np.square(factor) * (steps @ strong + weak)
        best = np.where(loss < least, tried, best)
        least = np.minimum(least, loss)
    return best


def _quantize_int4(
    linear: LinearWeights, groups: tuple[int, ...], power: NDArray[np.floating[Any]] | None
) -> QuantizedLinear:
    """Quantize a weight in four bits, all groups of a block of rows at once, see `quantize_weight`."""
    weight = linear.weight
    outputs, inputs = weight.shape
    size = groups[0] if groups else inputs
    count = -(-inputs // size)
    shares = None
    if power is not None:
        padded = np.zeros(count * size)
        padded[:inputs] = power
        by_group = padded.reshape(count, size)
        most = np.maximum(by_group.max(axis=1, keepdims=True), 1e-300)
        shares = (by_group / most).T.astype(np.float32)[:, None, :]
    quantized = np.empty(weight.shape, np.int8)
    scales = np.empty((outputs, count), np.float32)
    rows = max(1, _BLOCK // max(1, count * size))
    for first in range(0, outputs, rows):
        block = weight[first : first + rows]
        if count * size > inputs:
            block = np.pad(block, ((0, 0), (0, count * size - inputs)))
        # The inputs of a group along the first axis: everything else runs over contiguous values.
        values = np.ascontiguousarray(block.reshape(len(block), count, size).transpose(2, 0, 1))
        largest = np.maximum(values.max(axis=0), -values.min(axis=0))
        scale = np.where(largest > 0, np.maximum(largest / np.float32(7), _TINY), np.float32(1))
        if shares is not None:
            scale *= _least_loss_clipped(values / scale, shares)
        values /= scale
        np.rint(values, out=values)
        np.clip(values, -8, 7, out=values)
        whole = values.transpose(1, 2, 0).reshape(len(block), -1)
        quantized[first : first + rows] = whole[:, :inputs]
        scales[first : first + rows] = scale
    return QuantizedLinear(
        quantized,
        scales if groups else scales[:, 0],
        linear.bias,
        parts=linear.parts,
        groups=groups,
        bits=4,
    )


def _least_loss_clipped(
    values: NDArray[np.float32], shares: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what to multiply scales with, so that four bits lose least.

    Args:
        values: (size of a group, rows, groups), divided by the smallest scale that holds them all.
        shares: (size of a group, 1, groups), what an input counts.

    Returns:
        (rows, groups).
    """
    best = np.ones(values.shape[1:], np.float32)
    least = np.full(best.shape, np.inf, np.float32)
    error = np.empty_like(values)
    for factor in _FACTORS_OF_INT4[::-1]:
        np.multiply(values, 1 / factor, out=error)
        np.rint(error, out=error)
        np.minimum(error, 7, out=error)
        np.maximum(error, -8, out=error)
        error *= factor
        error -= values
        np.square(error, out=error)
        error *= shares
        loss = error.sum(axis=0)
        best[loss < least] = factor
        np.minimum(least, loss, out=least)
    return best


def _slices(groups: tuple[int, ...], inputs: int) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in pairwise((0, *(groups or (inputs,)))))


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
        the layer; int8 if all parts are int8, else float32.

    Raises:
        WeightsError: parts in int8 have different fixed input ranges, groups of inputs or bits.
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
    if len({(part.groups, part.bits) for part in quantized}) > 1:
        raise WeightsError(
            f"{', '.join(part.name for part in names)} read the same rows and must have the same groups "
            "of inputs and bits; quantize the model again"
        )
    zero = None
    if any(part.zero is not None for part in quantized):
        zeros = [np.zeros_like(p.scale, np.int8) if p.zero is None else p.zero for p in quantized]
        zero = np.concatenate(zeros)
    return QuantizedLinear(
        np.concatenate([part.weight for part in quantized]),
        np.concatenate([part.scale for part in quantized]),
        bias,
        ranges.pop(),
        names,
        zero,
        quantized[0].groups,
        quantized[0].bits,
    )
