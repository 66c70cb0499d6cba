"""The order of features inside a model: chosen channels first, so that they can be a group of inputs.

A few channels of the hidden dimension are much wider than the others, the same ones in every layer. The engine
multiplies groups of inputs that are next to each other. So the hidden dimension gets another order, once, in all layers
and norms. Nothing is gathered while the model runs, except for the embeddings of a token and the pooled vector, which
keep the natural order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError
from quaver.models.encoder_weights import (
    EncoderWeights,
    LayersOnDemand,
    LayerWeights,
    NormWeights,
)
from quaver.models.geometry import EncoderSpec, LayerSpec
from quaver.models.linear import Linear, QuantizedLinear

Order = NDArray[np.int32]


def reordered(
    spec: EncoderSpec,
    weights: EncoderWeights,
    *,
    hidden: Order | None = None,
    inner: Sequence[Order | None] = (),
) -> EncoderWeights:
    """Give the features inside a model another order; its vectors stay the same.

    Args:
        spec: the encoder.
        weights: its weights in the natural order; layers in int8 have one group of inputs.
        hidden: int32 (H,), feature c becomes what was feature hidden[c]; None for no change.
        inner: for each layer the same for the inputs of `down`, int32 (I,) or None; empty for no
            change.

    Returns:
        the weights; `order` says how tables and vectors correspond to them.

    Raises:
        InputError: an order is not a permutation, or the weights have another order already.
    """
    if weights.order is not None:
        raise InputError("weights may be reordered once: they have an order already")
    if hidden is not None:
        _check(hidden, spec.hidden_size, "hidden")
    inner = inner or (None,) * len(spec.layers)
    if len(inner) != len(spec.layers):
        raise InputError(
            f"inner must have an order for each of {len(spec.layers)} layers: got {len(inner)}"
        )

    def take(i: int) -> LayerWeights:
        return _layer(spec.layers[i], weights.layers[i], hidden, inner[i])

    # Layers that are read on demand are reordered on demand.
    layers: Sequence[LayerWeights] = LayersOnDemand(len(inner), take)
    if not isinstance(weights.layers, LayersOnDemand):
        layers = tuple(layers)
    if hidden is None:
        return replace(weights, layers=layers)
    projection, embedding_norm = weights.projection, weights.embedding_norm
    if projection is None:
        embedding_norm = _norm(embedding_norm, hidden)
    else:  # the features before it have an order of their own
        projection = replace(
            projection, weight=projection.weight[hidden], bias=projection.bias[hidden]
        )
    return replace(
        weights,
        embedding_norm=embedding_norm,
        projection=projection,
        layers=layers,
        final_norm=_norm(weights.final_norm, hidden),
        relative=None if weights.relative is None else weights.relative[:, hidden],
        relative_norm=_norm(weights.relative_norm, hidden),
        order=hidden,
    )


def gathered(spec: EncoderSpec, weights: EncoderWeights) -> EncoderWeights:
    """Bring the wide features together and make them a group of the inputs of `qkv` and `up`.

    Args:
        spec: the encoder.
        weights: its weights; without `wide`, or in four bits, they are returned as they are: groups of four
            bits are side by side in the natural order.

    Returns:
        the weights, whose layers are reordered when they are taken.
    """
    if weights.wide is None or _in_four_bits(weights.layers):
        return weights
    wide = np.sort(weights.wide)
    others = np.setdiff1d(np.arange(spec.hidden_size, dtype=np.int32), wide)
    hidden = np.concatenate([wide, others])
    lazy = LayersOnDemand(len(weights.layers), weights.layers.__getitem__)
    moved = reordered(spec, replace(weights, layers=lazy, wide=None), hidden=hidden)
    groups = (len(wide), spec.hidden_size)

    def take(i: int) -> LayerWeights:
        parts = moved.layers[i]
        gate = None if parts.input_gate is None else _in_groups(parts.input_gate, groups)
        return replace(
            parts,
            qkv=_in_groups(parts.qkv, groups),
            up=_in_groups(parts.up, groups),
            input_gate=gate,
        )

    return replace(moved, layers=LayersOnDemand(len(lazy), take))


def _in_four_bits(layers: Sequence[LayerWeights]) -> bool:
    """Return whether the first quantized layer is in four bits, as all others are then."""
    for parts in layers:
        for linear in (parts.qkv, parts.out, parts.up, parts.down):
            if isinstance(linear, QuantizedLinear):
                return linear.bits == 4
    return False


def _in_groups(linear: Linear, groups: tuple[int, ...]) -> Linear:
    """Give the inputs of a layer in int8 groups, its weights the scales that they have."""
    if not isinstance(linear, QuantizedLinear) or linear.groups:
        return linear
    zero = None if linear.zero is None else np.repeat(linear.zero[:, None], len(groups), axis=1)
    scale = np.repeat(linear.scale[:, None], len(groups), axis=1)
    return replace(linear, scale=scale, zero=zero, groups=groups)


def _check(order: Order, size: int, name: str) -> None:
    if order.dtype != np.int32 or not np.array_equal(np.sort(order), np.arange(size)):
        raise InputError(
            f"{name} must have each of 0..{size - 1} once, int32: got {order.dtype} {order.shape}"
        )


def _layer(
    layer: LayerSpec, parts: LayerWeights, hidden: Order | None, inner: Order | None
) -> LayerWeights:
    up, down = parts.up, parts.down
    if inner is not None:
        _check(inner, layer.intermediate_size, "inner")
        halves = layer.up_width // layer.intermediate_size
        rows = np.concatenate([inner + i * layer.intermediate_size for i in range(halves)])
        up, down = _outputs(up, rows), _inputs(down, inner)
    if hidden is None:
        return replace(parts, up=up, down=down)
    return replace(
        parts,
        qkv=_inputs(parts.qkv, hidden),
        out=_outputs(parts.out, hidden),
        up=_inputs(up, hidden),
        down=_outputs(down, hidden),
        attention_norm=_norm(parts.attention_norm, hidden),
        output_norm=replace(
            parts.output_norm,
            gamma=parts.output_norm.gamma[hidden],
            beta=parts.output_norm.beta[hidden],
        ),
        attention_post_norm=_norm(parts.attention_post_norm, hidden),
        output_post_norm=_norm(parts.output_post_norm, hidden),
        input=None if parts.input is None else _inputs(parts.input, hidden),
        input_gate=None if parts.input_gate is None else _inputs(parts.input_gate, hidden),
        input_out=None if parts.input_out is None else _outputs(parts.input_out, hidden),
        input_post_norm=_norm(parts.input_post_norm, hidden),
    )


def _norm(norm: NormWeights | None, order: Order) -> NormWeights | None:
    if norm is None:
        return None
    return replace(norm, gamma=norm.gamma[order], beta=norm.beta[order])


def _inputs(linear: Linear, order: Order) -> Linear:
    if not isinstance(linear, QuantizedLinear):
        return replace(linear, weight=np.ascontiguousarray(linear.weight[:, order]))
    if linear.groups:
        raise InputError(
            "weights in groups of inputs have their order already: reorder, then quantize"
        )
    return replace(linear, weight=np.ascontiguousarray(linear.weight[:, order]))


def _outputs(linear: Linear, order: Order) -> Linear:
    bias = linear.bias[order]
    if not isinstance(linear, QuantizedLinear):
        return replace(linear, weight=linear.weight[order], bias=bias)
    zero = None if linear.zero is None else linear.zero[order]
    scale = linear.scale[order]
    return replace(linear, weight=linear.weight[order], bias=bias, scale=scale, zero=zero)
