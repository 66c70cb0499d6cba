"""The encoder in plain NumPy, float32: the specification that every kernel is measured against.

Written to be read, not to be fast. T tokens in the batch, N sequences, H hidden size, I inner size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quaver.models import (
    DenseStep,
    EncoderSpec,
    EncoderWeights,
    HeadActivation,
    LayerWeights,
    Linear,
    LinearWeights,
    NormWeights,
    TokenBatch,
    dequantized,
    relative_rows,
    rotary_tables,
)
from quaver.reference.attention import FloatArray, Positions, attention, rotate

ApplyLinear = Callable[[FloatArray, Linear], FloatArray]


def encode(
    spec: EncoderSpec,
    weights: EncoderWeights,
    batch: TokenBatch,
    *,
    apply: ApplyLinear | None = None,
) -> FloatArray:
    """Run the whole encoder: tokens to one vector for each sequence.

    Formula:
        head(pool(h_L)), divided by its length when spec.normalize, with h_L the last of
        `hidden_states`.

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N sequences; ids in [0, V), lengths in [1, P].
        apply: runs a linear layer of the encoder instead of `linear`: to look at what it reads, or
            to round it.

    Returns:
        float32 (N, spec.outputs).
    """
    pooled = pool(spec, hidden_states(spec, weights, batch, apply=apply)[-1], batch.offsets)
    vectors = run_head(spec, weights.head, pooled)
    return normalized(vectors) if spec.normalize else vectors


def hidden_states(
    spec: EncoderSpec,
    weights: EncoderWeights,
    batch: TokenBatch,
    *,
    apply: ApplyLinear | None = None,
) -> list[FloatArray]:
    """Run the layers and keep what each one gives.

    Formula:
        h_0 = norm(word[id] + position[p] + token_type[type]);  h_l = layer_l(h_(l-1)); where norms
        come first, h_L = final_norm(layer_L(h_(L-1)))

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N sequences of T tokens together.
        apply: see `encode`.

    Returns:
        layers + 1 arrays float32 (T, H): the embeddings, then the output of each layer.
    """
    states = [embed(spec, weights, batch)]
    for i, layer in enumerate(weights.layers):
        attend = _attention_of(spec, i, weights, batch.offsets)
        states.append(run_layer(spec, layer, states[-1], attend, apply=apply))
    if weights.final_norm is not None:
        states[-1] = layer_norm(states[-1], weights.final_norm, spec.norm_eps)
    return states


def embed(spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch) -> FloatArray:
    """Sum the embeddings of every token that there are and normalise; float32 (T, H)."""
    total = weights.word[batch.ids]
    if weights.position is not None:
        total = total + weights.position[_places(batch.offsets) + spec.position_offset]
    if weights.token_type is not None:
        types = np.zeros_like(batch.ids) if batch.type_ids is None else batch.type_ids
        total = total + weights.token_type[types]
    return layer_norm(total, weights.embedding_norm, spec.norm_eps)


def _places(offsets: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the place of every token in its own sequence, (T,)."""
    return np.concatenate([np.arange(n) for n in np.diff(offsets)] or [np.arange(0)])


def run_layer(
    spec: EncoderSpec,
    layer: LayerWeights,
    x: FloatArray,
    attend: Callable[[FloatArray], FloatArray],
    *,
    apply: ApplyLinear | None = None,
) -> FloatArray:
    """Run one layer.

    Formula:
        norm behind:  a = norm(x + out(attend(qkv(x))));  y = norm'(a + down(inner(a)))
        norm first:   a = x + out(attend(qkv(norm(x))));  y = a + down(inner(norm'(a)))
        inner(v) = act(up(v)), with a gate act(first half of up(v)) * second half

    Args:
        spec: the encoder.
        layer: the layer's weights.
        x: float32 (T, H).
        attend: the layer's attention, float32 (T, 3H) to (T, H).
        apply: see `encode`.

    Returns:
        float32 (T, H).
    """
    apply = apply or linear

    def attention_norm(v: FloatArray) -> FloatArray:
        norm = layer.attention_norm
        return v if norm is None else layer_norm(v, norm, spec.norm_eps)

    def output_norm(v: FloatArray) -> FloatArray:
        return layer_norm(v, layer.output_norm, spec.norm_eps)

    def inner(v: FloatArray) -> FloatArray:
        wide = apply(v, layer.up)
        if spec.gate == "none":
            return activate(wide, spec.activation)
        gate, value = np.split(wide, 2, axis=1)[:: 1 if spec.gate == "first" else -1]
        return activate(gate, spec.activation) * value

    if spec.norm_first:
        a = x + apply(attend(apply(attention_norm(x), layer.qkv)), layer.out)
        return a + apply(inner(output_norm(a)), layer.down)
    a = attention_norm(x + apply(attend(apply(x, layer.qkv)), layer.out))
    return output_norm(a + apply(inner(a), layer.down))


def linear(x: FloatArray, weights: Linear) -> FloatArray:
    """Return x @ weight.T + bias: float32 (T, K) to (T, O); int8 weights are dequantized."""
    exact = dequantized(weights)
    y: FloatArray = x @ exact.weight.T
    return y + exact.bias


def layer_norm(x: FloatArray, weights: NormWeights, eps: float) -> FloatArray:
    """Return (x - mean) / sqrt(var + eps) * gamma + beta over each row, float32 (T, H)."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    scaled: FloatArray = centred / np.sqrt(variance + np.float32(eps))
    return scaled * weights.gamma + weights.beta


def _attention_of(
    spec: EncoderSpec, layer: int, weights: EncoderWeights, offsets: NDArray[np.int32]
) -> Callable[[FloatArray], FloatArray]:
    rotary, window = spec.attention[layer].rotary, spec.attention[layer].window

    def attend(qkv: FloatArray) -> FloatArray:
        if rotary is not None:
            tables = rotary_tables(rotary, spec.max_length, spec.head_size)
            cosine, sine = (table[_places(offsets)] for table in tables)
            qkv = rotate(qkv, cosine, sine, spec.heads)
        positions = None
        if spec.relative is not None:
            queries, keys = position_projections(spec, weights, weights.layers[layer])
            positions = Positions(queries, keys, relative_rows(spec.relative, spec.max_length))
        return attention(
            qkv,
            offsets,
            spec.heads,
            window=window,
            bias=weights.distance_bias,
            positions=positions,
        )

    return attend


def position_projections(
    spec: EncoderSpec, weights: EncoderWeights, layer: LayerWeights
) -> tuple[FloatArray, FloatArray]:
    """Project the relative positions as a layer projects its tokens; two float32 (2S, H).

    Formula:
        query(norm(relative)), key(norm(relative))
    """
    assert weights.relative is not None
    table = weights.relative
    if weights.relative_norm is not None:
        table = layer_norm(table, weights.relative_norm, spec.norm_eps)
    exact, both = dequantized(layer.qkv), np.s_[: 2 * spec.hidden_size]
    queries, keys = np.split(table @ exact.weight[both].T + exact.bias[both], 2, axis=1)
    return queries, keys


def activate(x: FloatArray, activation: HeadActivation) -> FloatArray:
    """Apply the activation to every value.

    Formula:
        gelu      x / 2 * (1 + erf(x / sqrt(2)))
        gelu_tanh x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
        relu      max(x, 0)
        silu      x / (1 + exp(-x))
        tanh      tanh(x)
        none      x

    Args:
        x: float32, any shape.
        activation: which one.

    Returns:
        float32, the shape of x.
    """
    if activation == "gelu":
        return np.asarray(
            x * np.float32(0.5) * (1 + _erf(x / np.float32(math.sqrt(2)))), np.float32
        )
    if activation == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
        return np.asarray(x * np.float32(0.5) * (1 + np.tanh(inner)), np.float32)
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "tanh":
        return np.tanh(x)
    if activation == "none":
        return x
    return np.asarray(x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5))), np.float32)


def _erf(x: FloatArray) -> FloatArray:
    """Return erf(x) within 6e-7; `math.erf` for each value takes several times as long.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    magnitude = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * magnitude)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf: FloatArray = np.copysign(1 - series * np.exp(-magnitude * magnitude), x)
    return erf


def pool(spec: EncoderSpec, x: FloatArray, offsets: NDArray[np.int32]) -> FloatArray:
    """Make one vector of each sequence: for each pooling mode one, side by side.

    Formula:
        cls: the first token; lasttoken: the last; mean, max: over the tokens;
        mean_sqrt_len_tokens: their sum divided by the root of their number

    Args:
        spec: the encoder.
        x: float32 (T, H).
        offsets: int32 (N + 1,).

    Returns:
        float32 (N, H times the modes).
    """
    modes: dict[str, Callable[[FloatArray], FloatArray]] = {
        "cls": lambda tokens: tokens[0],
        "lasttoken": lambda tokens: tokens[-1],
        "mean": lambda tokens: tokens.mean(axis=0),
        "max": lambda tokens: tokens.max(axis=0),
        "mean_sqrt_len_tokens": lambda tokens: (
            tokens.sum(axis=0) / np.float32(math.sqrt(len(tokens)))
        ),
    }
    rows = [
        np.concatenate([modes[mode](x[a:b]) for mode in spec.poolings])
        for a, b in pairwise(offsets)
    ]
    return np.stack(rows) if rows else np.empty((0, spec.pooled_size), np.float32)


def run_head(
    spec: EncoderSpec, weights: Sequence[LinearWeights | NormWeights], pooled: FloatArray
) -> FloatArray:
    """Run the steps of the head on every pooled vector.

    Formula:
        activation(x @ weight.T + bias), or LayerNorm, for each step

    Args:
        spec: the encoder.
        weights: one for each step.
        pooled: float32 (N, spec.pooled_size).

    Returns:
        float32 (N, spec.outputs).
    """
    for step, weight in zip(spec.head, weights, strict=True):
        if isinstance(step, DenseStep):
            assert isinstance(weight, LinearWeights)
            pooled = activate(linear(pooled, weight), step.activation)
        else:
            assert isinstance(weight, NormWeights)
            pooled = layer_norm(pooled, weight, step.eps)
    return pooled


def normalized(x: FloatArray) -> FloatArray:
    """Divide each row by its length; a row of zeros stays as it is. float32 (N, D)."""
    lengths = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    lengths[lengths == 0] = 1
    unit: FloatArray = x / lengths
    return unit
