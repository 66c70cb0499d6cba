"""Geometry and weights as the native engine reads them: the one place that knows its names.

`native_model` makes the mapping that `_native.Encoder` is built from; native/bindings.cpp reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import WeightsError
from quaver.models import (
    MAX_LENGTH,
    DenseStep,
    EncoderSpec,
    EncoderWeights,
    HeadStep,
    LayerSpec,
    LayerWeights,
    Linear,
    LinearWeights,
    NormWeights,
    QuantizedLinear,
    Rotary,
    StoredTable,
    dequantized,
    equal_groups,
    quantize_weight,
    ranges_of_inputs,
    relative_rows,
    release_pages,
    rotary_tables,
)

Precision = Literal["int8", "bfloat16", "bfloat16-weights", "float32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "bfloat16", "bfloat16-weights", "float32")

_Floats = NDArray[np.float32]
_Tables = tuple[Rotary, int]
# The kernels' softmax is in base two.
_LOG2_E = math.log2(math.e)
# kInt4Block of native/kernels/table.h.
_LARGEST_INT4_GROUP = 128


@dataclass(frozen=True)
class _BFloat16Linear:
    """y = scale * (x @ weight.T) + bias; the native engine rounds the weight to bfloat16.

    Why a scale: the factor of scores, multiplied into a weight that is bfloat16 already, would be rounded.

    Attributes:
        kind: "bfloat16" rounds x as well, "bfloat16-weights" does not.
        weight: float32 (O, K).
        scale: float32 (O,).
        bias: float32 (O,).
    """

    kind: Literal["bfloat16", "bfloat16-weights"]
    weight: _Floats
    scale: _Floats
    bias: _Floats


_NativeLinear = Linear | _BFloat16Linear


def native_model(
    spec: EncoderSpec, weights: EncoderWeights, precision: Precision | None
) -> dict[str, Any]:
    """Describe a model for the native engine.

    Args:
        spec: the encoder.
        weights: its weights, the inputs of each group of a layer next to each other.
        precision: what the linear layers compute in; None leaves each as it is.

    Returns:
        a mapping to be read once: its layers are an iterator that quantizes one layer after the
        other, so that no second copy of all weights is in memory.
    """
    tables = list(
        dict.fromkeys(
            (layer.rotary, layer.head_size) for layer in spec.layers if layer.rotary is not None
        )
    )
    relative = bias = None
    if spec.relative is not None:
        rows = relative_rows(spec.relative, spec.max_length)
        relative = {"rows": rows, "span": spec.relative.span}
    if weights.distance_bias is not None:
        bias = weights.distance_bias * np.float32(_LOG2_E)
    of_tokens = computes_in(weights, precision) if spec.words else None
    return {
        "hidden": spec.hidden_size,
        "embedding": spec.embedding_size or 0,
        "vocabulary": spec.vocab_size,
        "positions": spec.max_positions,
        "position_offset": spec.position_offset,
        "token_types": spec.type_vocab_size,
        "word_scale": spec.embedding_scale,
        "pooling": spec.poolings,
        "normalize": spec.normalize,
        "order": weights.order,
        "word": _word_table(weights.word),
        "position": weights.position,
        "token_type": weights.token_type,
        "embedding_norm": _norm(weights.embedding_norm, spec.norm_eps),
        # In every precision: a hundredth of the work, and its output is what layers add to.
        "embedding_projection": None if weights.projection is None else _linear(weights.projection),
        "rotary": [_rotary(rotary, spec.max_length, size) for rotary, size in tables],
        "distance_bias": bias,
        "relative": relative,
        "layers": _layers(spec, weights, tables, precision),
        "final_norm": _norm(weights.final_norm, spec.norm_eps),
        "head": [
            *_output_steps(spec, weights),
            *(
                _head_step(step, weight, of_tokens)
                for step, weight in zip(spec.head, weights.head, strict=True)
            ),
        ],
        "words": _words(spec, weights, of_tokens),
    }


def computes_in(weights: EncoderWeights, precision: Precision | None) -> Precision:
    """Return the precision, or for None "int8" when a linear layer is int8, else "float32"."""
    if precision is not None:
        return precision
    linears = (linear for layer in weights.layers for linear in _linears(layer))
    return "int8" if any(isinstance(linear, QuantizedLinear) for linear in linears) else "float32"


def _layers(
    spec: EncoderSpec,
    weights: EncoderWeights,
    tables: list[_Tables],
    precision: Precision | None,
) -> Iterator[dict[str, Any]]:
    for layer, layer_weights in zip(spec.layers, weights.layers, strict=True):
        yield _layer(spec, layer, weights, layer_weights, tables, precision)
        for linear in (*_linears(layer_weights), layer_weights.input_gate, layer_weights.input_out):
            if linear is not None:
                release_pages(linear.weight)


def _layer(
    spec: EncoderSpec,
    layer: LayerSpec,
    weights: EncoderWeights,
    parts: LayerWeights,
    tables: list[_Tables],
    precision: Precision | None,
) -> dict[str, Any]:
    qkv, out, up, down = (_in_precision(linear, precision) for linear in _linears(parts))
    int8 = isinstance(qkv, QuantizedLinear)
    # What scores are multiplied with goes into the query: its weights, or the norm after them.
    scale = np.float32(_LOG2_E * layer.score_scale)
    query_norm = parts.query_norm
    if query_norm is None:
        qkv = _scaled(qkv, layer.query_width, scale)
    else:
        query_norm = replace(
            query_norm, gamma=query_norm.gamma * scale, beta=query_norm.beta * scale
        )
    queries, keys = _position_heads(spec, layer, weights, parts, scale, int8)
    reach = MAX_LENGTH if layer.window is None else layer.window

    def norms(norm: NormWeights | None, post: NormWeights | None) -> dict[str, Any]:
        place = "sum" if layer.norm_places == "after" else "input"
        return {
            "input": None,
            "sum": None,
            "output": _norm(post, spec.norm_eps),
            place: _norm(norm, spec.norm_eps),
        }

    return {
        "heads": layer.heads,
        "kv_heads": layer.kv_heads,
        "head_size": layer.head_size,
        "intermediate": layer.intermediate_size,
        "behind": reach,
        "ahead": 0 if layer.causal else reach,
        "rotary": -1 if layer.rotary is None else tables.index((layer.rotary, layer.head_size)),
        "attention": "int8" if int8 else "bfloat16" if precision == "bfloat16" else "float32",
        "gate": layer.gate,
        "activation": layer.activation,
        "qkv": _linear(qkv, wide=weights.wide),
        "out": _linear(out),
        "up": _linear(up, wide=weights.wide),
        "down": _linear(down, in_ranges=True),
        "attention_norms": norms(parts.attention_norm, parts.attention_post_norm),
        "feed_forward_norms": norms(parts.output_norm, parts.output_post_norm),
        "query_norm": _norm(query_norm, spec.norm_eps),
        "key_norm": _norm(parts.key_norm, spec.norm_eps),
        "value_norm": _norm(parts.value_norm, spec.norm_eps),
        "input": _layer_input(spec, layer, weights, parts, "int8" if int8 else precision),
        "scale": parts.scale,
        "position_queries": queries,
        "position_keys": keys,
    }


def _layer_input(
    spec: EncoderSpec,
    layer: LayerSpec,
    weights: EncoderWeights,
    parts: LayerWeights,
    precision: Precision | None,
) -> dict[str, Any] | None:
    """Describe what a layer makes of the embeddings; files have `input` in floats."""
    if parts.input is None:
        return None
    assert parts.input_gate is not None
    assert parts.input_out is not None
    return {
        "size": layer.input_size,
        "project": _linear(_in_precision(parts.input, precision)),
        "norm": _norm(parts.input_norm, spec.norm_eps),
        "gate": _linear(_in_precision(parts.input_gate, precision), wide=weights.wide),
        "out": _linear(_in_precision(parts.input_out, precision)),
        "output": _norm(parts.input_post_norm, spec.norm_eps),
    }


def _word_table(word: _Floats | StoredTable) -> _Floats | dict[str, Any]:
    if not isinstance(word, StoredTable):
        return word
    rows = word.rows if word.kind == "int8" else word.rows.view(np.uint16)
    return {"kind": word.kind, "rows": rows, "scale": word.scale}


def _linears(parts: LayerWeights) -> tuple[Linear, Linear, Linear, Linear]:
    return parts.qkv, parts.out, parts.up, parts.down


def _in_precision(linear: Linear, precision: Precision | None) -> _NativeLinear:
    if precision == "float32":
        return dequantized(linear)
    if precision == "bfloat16" or precision == "bfloat16-weights":
        exact = dequantized(linear)
        ones = np.ones(len(exact.bias), np.float32)
        return _BFloat16Linear(precision, exact.weight, ones, exact.bias)
    if precision == "int8" and isinstance(linear, LinearWeights):
        return quantize_weight(linear)
    return linear


def _scaled(linear: _NativeLinear, rows: int, scale: np.float32) -> _NativeLinear:
    """Multiply the first outputs of a layer."""
    factor = np.ones(len(linear.bias), np.float32)
    factor[:rows] = scale
    if isinstance(linear, _BFloat16Linear):
        return replace(linear, scale=linear.scale * factor, bias=linear.bias * factor)
    if isinstance(linear, QuantizedLinear):
        scales: _Floats = linear.scale * factor.reshape(-1, *(1,) * (linear.scale.ndim - 1))
        return replace(linear, scale=scales, bias=linear.bias * factor)
    return replace(linear, weight=linear.weight * factor[:, None], bias=linear.bias * factor)


def _linear(
    linear: _NativeLinear, *, wide: NDArray[np.int32] | None = None, in_ranges: bool = False
) -> dict[str, Any]:
    """Describe a linear layer.

    Args:
        linear: the layer.
        wide: int32 (W,), inputs with a range of their own, where a layer in four bits has them. In eight
            bits they are a group already.
        in_ranges: whether the inputs of a layer in four bits have several ranges.
    """
    if isinstance(linear, LinearWeights):
        return {"kind": "float32", "weight": linear.weight, "bias": linear.bias}
    if isinstance(linear, _BFloat16Linear):
        return {
            "kind": linear.kind,
            "weight": linear.weight,
            "scale": linear.scale,
            "bias": linear.bias,
        }
    by_group = (len(linear.bias), len(linear.slices))
    shared = {
        "weight": linear.weight,
        "scale": np.ascontiguousarray(linear.scale.reshape(by_group)),
        "bias": linear.bias,
        "input_scale": None if linear.input is None else linear.input.scale,
        "input_zero": None if linear.input is None else linear.input.zero,
    }
    if linear.bits == 4:
        size = linear.groups[0] if len(linear.groups) > 1 else _LARGEST_INT4_GROUP
        if linear.slices[1:] and linear.groups != equal_groups(linear.weight.shape[1], size):
            raise WeightsError(
                "weights in four bits must have groups of 32, 64 or 128 inputs, all of one size: got groups "
                f"that end at {linear.groups}; quantize the model again"
            )
        ends = ranges_of_inputs(linear.weight.shape[1], size) if in_ranges else ()
        return {"kind": "int4", "group": size, "ends": ends, "apart": None, **shared} | _apart(
            linear, wide
        )
    centers = None if linear.zero is None else -linear.zero.astype(np.float32).reshape(by_group)
    return {"kind": "int8", "centers": centers, "groups": linear.groups, **shared}


def _apart(linear: QuantizedLinear, wide: NDArray[np.int32] | None) -> dict[str, Any]:
    """Take the wide inputs out of a layer in four bits: their weights get eight."""
    if wide is None:
        return {}
    columns = np.ascontiguousarray(dequantized(linear).weight[:, wide])
    weight = linear.weight.copy()
    weight[:, wide] = 0
    eight = quantize_weight(LinearWeights(columns, linear.bias))
    apart = {"columns": wide, "weight": eight.weight, "scale": eight.scale}
    return {"weight": weight, "apart": apart}


def _norm(norm: NormWeights | None, eps: float) -> dict[str, Any] | None:
    if norm is None:
        return None
    return {"kind": norm.kind, "gamma": norm.gamma, "beta": norm.beta, "eps": eps}


def _rotary(rotary: Rotary, length: int, head_size: int) -> dict[str, _Floats]:
    cosine, sine = rotary_tables(rotary, length, head_size)
    return {"cosine": cosine, "sine": sine}


def _output_steps(spec: EncoderSpec, weights: EncoderWeights) -> list[dict[str, Any]]:
    """Describe the projection of the last states: it is linear, so it may follow the pooling."""
    projection = weights.output_projection
    if projection is None:
        return []
    count = len(spec.poolings)
    weight = np.kron(np.eye(count, dtype=np.float32), projection.weight)
    each = LinearWeights(weight, np.tile(projection.bias, count))
    return [{"linear": _linear(each), "activation": "none"}]


def _head_step(
    step: HeadStep, weight: LinearWeights | NormWeights, precision: Precision | None
) -> dict[str, Any]:
    """Describe a step; one that runs on every token computes as the layers do, others in float32."""
    if isinstance(step, DenseStep):
        assert isinstance(weight, LinearWeights)
        return {"linear": _linear(_in_precision(weight, precision)), "activation": step.activation}
    assert isinstance(weight, NormWeights)
    return {"linear": None, "norm": _norm(weight, step.eps)}


def _words(
    spec: EncoderSpec, weights: EncoderWeights, precision: Precision | None
) -> dict[str, Any] | None:
    if spec.words is None:
        return None
    assert weights.words is not None
    return {
        "linear": _linear(_in_precision(weights.words, precision)),
        "sum": spec.words.sum,
        "logarithms": spec.words.logarithms,
    }


def _position_heads(
    spec: EncoderSpec,
    layer: LayerSpec,
    weights: EncoderWeights,
    parts: LayerWeights,
    scale: np.float32,
    int8: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return queries and keys of relative positions, (2S, D) for each head, or nothing."""
    if spec.relative is None:
        return [], []
    queries, keys = relative_projections(spec, weights, parts)
    bias = np.zeros(len(queries), np.float32)
    precision: Precision = "int8" if int8 else "float32"

    def heads(table: _Floats) -> list[dict[str, Any]]:
        return [
            _linear(_in_precision(LinearWeights(np.ascontiguousarray(head), bias), precision))
            for head in np.split(table, layer.heads, axis=1)
        ]

    return heads(queries * scale), heads(keys)


def relative_projections(
    spec: EncoderSpec, weights: EncoderWeights, layer: LayerWeights
) -> tuple[_Floats, _Floats]:
    """Project the relative positions as a layer projects its tokens.

    Formula:
        query(norm(relative)), key(norm(relative))

    Args:
        spec: the encoder.
        weights: with a table of relative positions, float32 (2S, H).
        layer: the layer whose query and key projections read the table.

    Returns:
        queries and keys, two float32 (2S, H).
    """
    assert weights.relative is not None
    table = weights.relative
    if weights.relative_norm is not None:
        centered = table - table.mean(axis=1, keepdims=True)
        variance = np.square(centered).mean(axis=1, keepdims=True)
        scaled = centered / np.sqrt(variance + np.float32(spec.norm_eps))
        table = scaled * weights.relative_norm.gamma + weights.relative_norm.beta
    exact, both = dequantized(layer.qkv), np.s_[: 2 * spec.hidden_size]
    queries, keys = np.split(table @ exact.weight[both].T + exact.bias[both], 2, axis=1)
    return queries, keys
