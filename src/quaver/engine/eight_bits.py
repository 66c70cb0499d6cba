"""Float weights to int8 or int4 without text: which features get a range of their own, and what weights become."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.engine.forward import FloatArray, norm, run_layers
from quaver.models import (
    EncoderSpec,
    EncoderWeights,
    LayersOnDemand,
    LayerSpec,
    LayerWeights,
    Linear,
    LinearWeights,
    NormWeights,
    QuantizedLinear,
    TokenBatch,
    dequantized,
    equal_groups,
    quantize_weight,
    ranges_of_inputs,
    rounded_rows,
)

WIDE = 64
"""Features of the hidden dimension that get a range of their own: what the kernels multiply in one step."""
# In a smaller hidden dimension, 64 would be too large a part of it.
_SMALLEST_HIDDEN = 4 * WIDE
# Groups of the inputs of `down`: each costs time, and many small ones cost more than they save.
_MOST_GROUPS, _SMALLEST_GROUP = 8, 192
# Sequences of random tokens, and tokens of each, that show which features are wide.
_SEQUENCES, _LENGTH = 2, 32
# A factor that moves is at most two to this power: what a layer gains from it has an end.
_MOST_STEPS = 10
# Fields of `LayerWeights`, in the order they run, and those that read the hidden dimension.
_LINEARS = ("qkv", "out", "up", "down")
_OF_INPUT = ("input_gate", "input_out")
_READ_HIDDEN = ("qkv", "up", "input_gate")

Place = tuple[int, str]
"""A linear layer of the encoder: index of its layer, field of `LayerWeights`."""


@dataclass(frozen=True)
class EightBits:
    """How the linear layers of a model become int8, or their weights int4 and their inputs int8.

    Attributes:
        wide: int32 (64,), rising: the features of the hidden dimension with a range of their own, see
            `EncoderWeights`; None for one range.
        ends: for each layer, where the groups of the inputs of `down` end; empty for one.
        power: for each layer and field the mean square of each input.
        group: inputs in a group of weights in four bits; None for eight bits.
        factors: for a place powers of two that divide its inputs and multiply its weights, (K,); and for
            (i, "scores") those that divide keys and multiply queries, (Hkv, D). Empty for none.
        gate_last: whether the first half of `up` is the one without an activation.
    """

    wide: NDArray[np.int32] | None
    ends: tuple[tuple[int, ...], ...]
    power: dict[Place, NDArray[np.float64]]
    group: int | None = None
    factors: dict[Place, NDArray[np.float32]] = field(default_factory=dict)
    gate_last: bool = False

    def equalized(self, index: int, parts: LayerWeights) -> LayerWeights:
        """Move factors between a layer's weights and norms; it computes the same as before, exactly."""
        if (index, "qkv") not in self.factors:
            return parts
        by_hidden, by_context, by_output, by_inner = (
            self.factors[index, name] for name in ("qkv", "out", "up", "down")
        )
        scores = self.factors[index, "scores"]
        heads, d = scores.shape
        qkv, out, up, down = (dequantized(getattr(parts, name)) for name in _LINEARS)
        queries = len(qkv.bias) - 2 * heads * d
        group = queries // (heads * d)
        rows = np.concatenate(
            [
                np.repeat(scores, group, axis=0).reshape(-1)
                if parts.query_norm is None
                else _ones(queries),
                1 / scores.reshape(-1) if parts.key_norm is None else _ones(heads * d),
                1 / by_context.reshape(heads, group, d)[:, 0].reshape(-1),
            ]
        )
        halves = _ones(len(up.bias))
        first = 0 if self.gate_last else len(by_inner)
        halves[first : first + len(by_inner)] = 1 / by_inner
        changes: dict[str, Any] = {
            "qkv": _scaled(qkv, rows, by_hidden),
            "out": _scaled(out, None, by_context),
            "up": _scaled(up, halves, by_output),
            "down": _scaled(down, None, by_inner),
            "attention_norm": _norm_times(parts.attention_norm, np.reciprocal(by_hidden)),
            "output_norm": _norm_times(parts.output_norm, np.reciprocal(by_output)),
        }
        if parts.query_norm is not None:
            changes["query_norm"] = _norm_times(parts.query_norm, scores[0])
            changes["key_norm"] = _norm_times(parts.key_norm, np.reciprocal(scores[0]))
        return replace(parts, **changes)

    def quantize(self, linear: LinearWeights, place: Place) -> QuantizedLinear:
        """Quantize the weights of the layer at a place, rounded to nearest."""
        index, name = place
        if self.group is not None:
            groups = equal_groups(linear.weight.shape[1], self.group)
            return quantize_weight(linear, groups=groups, bits=4, power=self.power.get(place))
        groups = self.ends[index] if name == "down" else ()
        # `out` gains nothing from a center of its own, and is multiplied faster without.
        symmetric = name == "out"
        return quantize_weight(
            linear, symmetric=symmetric, groups=groups, power=self.power.get(place)
        )

    def apart(self, place: Place) -> bool:
        """Return whether the wide features have a range of their own in the inputs of the layer at a place."""
        return self.wide is not None and place[1] in _READ_HIDDEN

    def round_inputs(self, x: NDArray[np.float32], place: Place) -> NDArray[np.float32]:
        """Quantize and dequantize the inputs of the layer at a place, float32 (T, K)."""
        index, name = place
        parts: list[NDArray[np.int32]] = []
        columns = np.arange(x.shape[1], dtype=np.int32)
        if name == "down" and self.ends[index]:
            parts = np.split(columns, self.ends[index][:-1])
        elif self.wide is not None and self.apart(place):
            parts = [self.wide, np.setdiff1d(columns, self.wide)]
        if not parts:
            return rounded_rows(x)
        rounded = np.empty_like(x)
        for part in parts:
            rounded[:, part] = rounded_rows(x[:, part])
        return rounded


def eight_bits(
    spec: EncoderSpec,
    weights: EncoderWeights,
    *,
    group: int | None = None,
    equalize: bool = True,
) -> EightBits:
    """Find out how to quantize a model by running random token ids through it: no text is needed.

    Formula:
        width of a hidden feature: the largest magnitude over the tokens divided by the median of its
        layer, the largest over all `qkv` and `up`

    Everything is computed in float64 and rounded: the last bits, which depend on the machine and
    its number of threads, do not decide.

    Args:
        spec: the encoder.
        weights: its weights in the natural order.
        group: inputs in a group of weights in four bits; None for weights in eight bits.
        equalize: whether factors move between weights and norms, where the model lets them.

    Returns:
        the same for the same model.
    """
    width = np.zeros(spec.hidden_size)
    equalize = equalize and all(_equalizes(layer) for layer in spec.layers)
    factors: dict[Place, NDArray[np.float32]] = {}
    taken: list[LayerWeights] = []
    power: dict[Place, NDArray[np.float64]] = {}
    # A layer is read once for both uses here.
    layers = LayersOnDemand(len(spec.layers), lru_cache(maxsize=1)(weights.layers.__getitem__))
    places = [(i, name) for i, layer in enumerate(spec.layers) for name in _linear_names(layer)]

    def apply(x: FloatArray, linear: Linear) -> FloatArray:
        exact = dequantized(linear)
        index, name = places[len(power)]
        layer = spec.layers[index]
        if equalize and name in _LINEARS:
            if name == "qkv":
                taken[:] = [layers[index]]
            for place, found in _factors(layer, taken[0], name, x, exact, spec.norm_eps):
                factors[index, place] = found
        read = x / factors[index, name] if (index, name) in factors else x
        if name in _READ_HIDDEN:
            largest = np.abs(read).max(axis=0)
            np.maximum(width, largest / max(float(np.median(largest)), 1e-30), out=width)
        # Nine digits: a sum of squares has twelve that do not depend on the order of its terms.
        power[index, name] = _rounded(np.square(read).mean(axis=0), 9)
        y: FloatArray = x @ exact.weight.T.astype(np.float64) + exact.bias
        return y

    tables = replace(weights, relative=_in_float64(weights.relative), layers=layers)
    with np.errstate(all="ignore"):  # broken weights are found when a text is encoded
        run_layers(spec, tables, _random_tokens(spec), apply=apply, dtype=np.float64)
        order = np.argsort(-_rounded(width, 3), kind="stable").astype(np.int32)
    wide = np.sort(order[:WIDE]) if spec.hidden_size >= _SMALLEST_HIDDEN else None
    ends = tuple(_ends(spec, layer) for layer in spec.layers)
    if group is not None:
        ends = tuple(ranges_of_inputs(layer.intermediate_size, group) for layer in spec.layers)
    gate_last = spec.layers[0].gate == "last"
    return EightBits(wide, ends, power, group, factors, gate_last)


def _linear_names(layer: LayerSpec) -> tuple[str, ...]:
    return _LINEARS + (_OF_INPUT if layer.input_size else ())


def _ones(size: int) -> NDArray[np.float32]:
    return np.ones(size, np.float32)


def _scaled(
    linear: LinearWeights, rows: NDArray[np.float32] | None, columns: NDArray[np.float32]
) -> LinearWeights:
    weight, bias = linear.weight * columns, linear.bias
    if rows is not None:
        weight *= rows[:, None]
        bias = bias * rows
    return replace(linear, weight=weight, bias=bias)


def _norm_times(norm: NormWeights | None, factors: NDArray[np.float32]) -> NormWeights | None:
    return None if norm is None else replace(norm, gamma=norm.gamma * factors)


def _balanced(read: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return powers of two that divide `read` and multiply `weight`, so that both are about as wide everywhere.

    Formula:
        f_k = sqrt(read_k / weight_k), divided by its geometric mean and rounded to a power of two
    """
    useful = (read > 0) & (weight > 0) & np.isfinite(read) & np.isfinite(weight)
    steps = np.zeros(read.shape)
    logs = 0.5 * np.log2(read[useful] / weight[useful])
    steps[useful] = np.rint(logs - logs.mean()) if logs.size else 0
    return np.exp2(np.clip(steps, -_MOST_STEPS, _MOST_STEPS)).astype(np.float32)


def _by_columns(linear: LinearWeights) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.square(linear.weight, dtype=np.float64).mean(axis=0)
    return np.sqrt(power)


def _factors(
    layer: LayerSpec,
    parts: LayerWeights,
    name: str,
    x: FloatArray,
    linear: LinearWeights,
    eps: float,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield factors of the inputs of a layer's linear layer, and after `qkv` those of the scores."""
    read, weight = np.abs(x).mean(axis=0), _by_columns(linear)
    if name == "out" and layer.value_norm:  # a norm of values has no factors that could change
        yield name, _ones(layer.query_width)
        return
    if name == "out":  # query heads of a group read the same values
        shape = (layer.kv_heads, layer.heads // layer.kv_heads, layer.head_size)
        read, weight = (v.reshape(shape).mean(axis=1) for v in (read, weight))
        by_value = _balanced(read, weight)
        yield name, np.repeat(by_value[:, None], shape[1], axis=1).reshape(-1)
        return
    yield name, _balanced(read, weight)
    if name != "qkv":
        return
    y = x @ linear.weight.T.astype(np.float64) + linear.bias
    d, q = layer.head_size, layer.query_width
    queries = y[:, :q].reshape(len(y), layer.kv_heads, -1, d)
    keys = y[:, q : q + layer.kv_width].reshape(len(y), layer.kv_heads, 1, d)
    queries, keys = norm(queries, parts.query_norm, eps), norm(keys, parts.key_norm, eps)
    wide = [np.square(v).mean(axis=(0, 2)) for v in (keys, queries)]
    if parts.key_norm is not None:  # one factor for all heads, as the norm has
        wide = [np.broadcast_to(v.mean(axis=0), v.shape) for v in wide]
    # Rotation mixes feature c with c + D / 2.
    wide = [np.tile(v[:, : d // 2] + v[:, d // 2 :], 2) for v in wide] if d % 2 == 0 else wide
    yield "scores", _balanced(np.sqrt(wide[0]), np.sqrt(wide[1]))


def _in_float64(values: NDArray[np.float32] | None) -> Any:
    return None if values is None else values.astype(np.float64)


def _rounded(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Round positive values to a number of significant digits; what is not finite becomes 0."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0)
    step = 10.0 ** (np.floor(np.log10(np.clip(values, 1e-30, 1e30))) - digits + 1)
    rounded: NDArray[np.float64] = np.rint(values / step) * step
    return rounded


def _equalizes(layer: LayerSpec) -> bool:
    """Return whether factors may move: each norm is read by one linear layer alone, as in decoders."""
    return layer.norm == "rms" and layer.norm_places != "after" and layer.gate != "none"


def _random_tokens(spec: EncoderSpec) -> TokenBatch:
    length = min(_LENGTH, spec.max_length)
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, _SEQUENCES * length)
    offsets = np.arange(0, len(ids) + 1, length, dtype=np.int32)
    return TokenBatch(ids.astype(np.int32), offsets, None, 0)


def _ends(spec: EncoderSpec, layer: LayerSpec) -> tuple[int, ...]:
    """Return where the groups of the inputs of `down` end; nothing for a single one.

    Their size divides the inputs of every other layer, too: transformers restores all int8 weights of
    a folder with the group size of one of them.
    """
    size = layer.intermediate_size
    sizes = (n for other in spec.layers for n in (other.query_width, other.input_size))
    common = math.gcd(size, spec.hidden_size, *sizes)
    for group in range(WIDE, common + 1, WIDE):
        if common % group == 0 and group >= _SMALLEST_GROUP and size <= group * _MOST_GROUPS:
            return tuple(range(group, size + 1, group)) if group < size else ()
    return ()


def group_count(spec: EncoderSpec, layer: LayerSpec, name: str) -> int:
    """Return how many groups the inputs of a linear layer have in eight bits, without running the model.

    Args:
        spec: the encoder.
        layer: one of its layers.
        name: the linear layer, a field of `LayerWeights`.
    """
    if name == "down":
        return max(1, len(_ends(spec, layer)))
    return 2 if name in _READ_HIDDEN and spec.hidden_size >= _SMALLEST_HIDDEN else 1


def in_eight_bits(
    spec: EncoderSpec, weights: EncoderWeights, *, group: int | None = None
) -> EncoderWeights:
    """Quantize every linear layer of the encoder without text, weights rounded to nearest.

    Args:
        spec: the encoder.
        weights: its weights in the natural order; layers that are quantized already stay as they are.
        group: inputs in a group of weights in four bits; None for weights in eight bits.

    Returns:
        the weights in the natural order. Layers are read and quantized when they are taken.
    """
    how = eight_bits(spec, weights, group=group)

    def take(i: int) -> LayerWeights:
        parts = how.equalized(i, weights.layers[i])
        floats = {name: getattr(parts, name) for name in _linear_names(spec.layers[i])}
        made: dict[str, Any] = {
            name: how.quantize(linear, (i, name))
            for name, linear in floats.items()
            if isinstance(linear, LinearWeights)
        }
        return replace(parts, **made)

    return replace(weights, layers=LayersOnDemand(len(spec.layers), take), wide=how.wide)
