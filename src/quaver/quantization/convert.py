"""Encoder weights to int8, layer by layer, calibrated if there is text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.engine import EightBits, Place, eight_bits, in_eight_bits, run_layers
from quaver.errors import CalibrationError
from quaver.models import (
    EncoderSpec,
    EncoderWeights,
    InputRange,
    LayerWeights,
    Linear,
    LinearPart,
    LinearWeights,
    QuantizedLinear,
    TokenBatch,
    dequantized,
    quantize_weight,
    rounded_rows,
)
from quaver.quantization.gptq import round_by_output
from quaver.quantization.input_ranges import Observer, observed_range
from quaver.quantization.smooth_quant import STRENGTHS, smoothing_factors

Scheme = Literal["dynamic", "static", "int4"]
Rounding = Literal["nearest", "gptq"]
SCHEMES: tuple[Scheme, ...] = ("dynamic", "static", "int4")
INT4_GROUPS = (32, 64, 128)
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "gptq")

MAX_ERROR_RATIO = 4.0
"""A layer keeps one range per token if a single range would multiply its squared error by more."""
# Rows of calibration text that decide this.
_ROWS = 4096

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """How to convert linear layers to int8 or int4.

    Attributes:
        scheme: "dynamic", "static" or "int4".
        rounding: how weights are rounded; "gptq" needs calibration text.
        observer: how a static layer's range is found.
        strict: whether the static scheme uses one range for every layer, whatever it costs.
        group: inputs in a group of weights in four bits.
    """

    scheme: Scheme
    rounding: Rounding
    observer: Observer
    strict: bool = False
    group: int = 32

    @property
    def group_of_int4(self) -> int | None:
        """Inputs in a group of weights in four bits; None for eight bits."""
        return self.group if self.scheme == "int4" else None


@dataclass(frozen=True)
class ConvertedLayer:
    """The outcome for one linear layer.

    Attributes:
        error: mean squared error of its output on calibration text, as a fraction of the output's
            mean square; None without text.
        smoothing: strength with which outlier channels of its input went into its weights, 0 for none.
    """

    error: float | None
    smoothing: float = 0.0


def linear_places(weights: EncoderWeights) -> Iterator[tuple[Place, Linear]]:
    """Yield the linear layers of the encoder, without the head, in the order they run."""
    for index, layer in enumerate(weights.layers):
        for name, linear in linears(layer):
            yield (index, name), linear


def linears(layer: LayerWeights) -> Iterator[tuple[str, Linear]]:
    """Yield the linear layers of one layer, by the field of `LayerWeights`.

    `input` is a slice of a tensor of all layers, which stays in floats in a file.
    """
    for field in fields(layer):
        linear = getattr(layer, field.name)
        if isinstance(linear, (LinearWeights, QuantizedLinear)) and field.name != "input":
            yield field.name, linear


def with_linears(weights: EncoderWeights, changed: dict[Place, Linear]) -> EncoderWeights:
    """Return the weights with some linear layers replaced."""
    layers: list[LayerWeights] = []
    for index, layer in enumerate(weights.layers):
        changes: dict[str, Any] = {
            name: linear for (at, name), linear in changed.items() if at == index
        }
        layers.append(replace(layer, **changes))
    return replace(weights, layers=tuple(layers))


@dataclass(frozen=True)
class Converted:
    """A model in int8.

    Attributes:
        exact: the float32 weights, with smoothing factors moved as in `quantized`. The model computes
            the same as before, and each layer can replace its int8 form.
        quantized: every linear layer of the encoder in int8 or int4; without text each is quantized when
            it is taken.
        layers: the outcome for each; empty without text.
    """

    exact: EncoderWeights
    quantized: EncoderWeights
    layers: dict[Place, ConvertedLayer]


def convert(spec: EncoderSpec, weights: EncoderWeights, *, group: int | None = None) -> Converted:
    """Quantize every linear layer of the encoder without text: dynamic, weights rounded to nearest.

    Args:
        spec: the encoder.
        weights: float32 weights.
        group: inputs in a group of weights in four bits; None for weights in eight bits.

    Returns:
        the model in int8 or int4.
    """
    return Converted(weights, in_eight_bits(spec, weights, group=group), {})


def convert_calibrated(
    spec: EncoderSpec,
    weights: EncoderWeights,
    recipe: Recipe,
    batch: TokenBatch,
    progress: Callable[[str], object],
) -> Converted:
    """Quantize every linear layer of the encoder on calibration text, in the order they run.

    The text goes through the encoder once. A layer is quantized when it is reached, on the
    output of the quantized layers before it: later layers see the errors of earlier ones and can
    compensate for them. The batch is ragged, so no padding enters a statistic.

    Args:
        spec: the encoder.
        weights: float32 weights.
        recipe: how to convert them.
        batch: calibration text, at least one token.
        progress: called with a layer's name when it is done.

    Returns:
        the model in int8.

    Raises:
        CalibrationError: a layer was not reached, or its input is all zeros.
    """
    how = eight_bits(spec, weights, group=recipe.group_of_int4)
    weights = replace(
        weights, layers=tuple(how.equalized(i, p) for i, p in enumerate(weights.layers))
    )
    places = {id(linear): place for place, linear in linear_places(weights)}
    made: dict[Place, Linear] = {}
    ranges: dict[Place, InputRange | None] = {}
    moved: dict[Place, Linear] = {}
    reports: dict[Place, ConvertedLayer] = {}

    def apply(x: FloatArray, linear: Linear) -> FloatArray:
        place, exact = places[id(linear)], dequantized(linear)
        if not x.any():
            raise CalibrationError(
                f"{layer_name(exact.parts, place)} gets nothing but zeros on the calibration text; is the "
                "text meant for this model?"
            )
        strength = 0.0
        if recipe.scheme == "static" and _can_smooth(spec, place):
            factors, strength = smoothing_factors(exact, x, recipe.observer, STRENGTHS)
        if strength:
            x, exact = x / factors, replace(exact, weight=exact.weight * factors)
            values = (place[0], "qkv")
            made[values] = _divided(made[values], factors)
            moved[values] = _divided(moved[values], factors)
        refined = batch.offsets[:-1] if place[1] == "qkv" else batch.offsets[:0]
        ranges[place] = _fixed_range(exact, x, recipe, how, place)
        quantized, y = _quantized(exact, x, recipe, refined, how, place, ranges[place])
        truth = x @ exact.weight.T + exact.bias
        error = float(np.square(y - truth).mean() / max(float(np.square(truth).mean()), 1e-30))
        made[place], moved[place] = quantized, exact
        reports[place] = ConvertedLayer(error, strength)
        progress(layer_name(linear.parts, place))
        return y

    run_layers(spec, weights, batch, apply=apply)
    for place, linear in linear_places(weights):
        if place not in made:
            raise CalibrationError(
                f"the calibration text never reached {layer_name(linear.parts, place)}; every layer needs text"
            )
    if any(fixed is None and how.apart(place) for place, fixed in ranges.items()):
        weights = replace(weights, wide=how.wide)
    return Converted(with_linears(weights, moved), with_linears(weights, made), reports)


def layer_name(parts: Sequence[LinearPart], place: Place) -> str:
    """Return the name of a layer's tensors; "encoder.layer.0.attention.self.query+key+value"."""
    names = [part.name for part in parts] or [f"layer.{place[0]}.{place[1]}"]
    first, *others = names
    return "+".join([first, *(name.rpartition(".")[2] for name in others)])


def _quantized(
    linear: LinearWeights,
    x: FloatArray,
    recipe: Recipe,
    refined: NDArray[np.int32],
    how: EightBits,
    place: Place,
    fixed: InputRange | None,
) -> tuple[QuantizedLinear, FloatArray]:
    """Quantize one layer with input x; return it and the int8 engine's output.

    The rows `refined` are quantized once, then again for their residual, which has a range for each row. A
    fixed range covers them too, because transformers quantizes them only once. A layer with a fixed range is
    for engines that know one range for a layer and symmetric weights.
    """
    by_token = partial(how.round_inputs, place=place)
    read = by_token(x) if fixed is None else rounded_rows(x, fixed)
    read[refined] += by_token(x[refined] - read[refined])
    quantized = how.quantize(linear, place) if fixed is None else quantize_weight(linear)
    if recipe.rounding == "gptq":
        quantized = round_by_output(linear, read, quantized)
    quantized = replace(quantized, input=fixed)
    return quantized, _output(read, quantized)


def _output(read: FloatArray, linear: QuantizedLinear) -> FloatArray:
    y: FloatArray = read @ dequantized(linear).weight.T
    return y + linear.bias


def _fixed_range(
    linear: LinearWeights, x: FloatArray, recipe: Recipe, how: EightBits, place: Place
) -> InputRange | None:
    """Find the range of a static layer; return None if ranges by token are much better."""
    if recipe.scheme != "static":
        return None
    fixed = observed_range(x, recipe.observer, np.square(linear.weight).sum(axis=0))
    if recipe.strict:
        return fixed
    rows = x[:: max(1, len(x) // _ROWS)]
    truth = rows @ linear.weight.T
    forms = (
        (rounded_rows(rows, fixed), quantize_weight(linear)),
        (how.round_inputs(rows, place), how.quantize(linear, place)),
    )
    by_layer, by_token = (
        float(np.square(read @ dequantized(form).weight.T - truth).mean()) for read, form in forms
    )
    return fixed if by_layer <= MAX_ERROR_RATIO * by_token else None


def _can_smooth(spec: EncoderSpec, place: Place) -> bool:
    """Return whether the outlier channels of a layer's input can go into the layer before it.

    They can after attention: its output is linear in the values, so the rows of the value
    projection can absorb a factor for each feature. Before the other layers there is an activation, or
    a norm whose output also feeds a residual connection.
    """
    layer = spec.layers[place[0]]
    return place[1] == "out" and layer.kv_heads == layer.heads and not layer.value_norm


def _divided(qkv: Linear, factors: FloatArray) -> Linear:
    """Divide the values, the last outputs of qkv, by one factor per output."""
    whole = np.ones(len(qkv.bias), np.float32)
    whole[-len(factors) :] = factors
    if isinstance(qkv, QuantizedLinear):
        return replace(qkv, scale=qkv.scale / whole, bias=qkv.bias / whole)
    return replace(qkv, weight=qkv.weight / whole[:, None], bias=qkv.bias / whole)
