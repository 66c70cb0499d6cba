"""The forward pass in NumPy, with a callback that computes every linear layer: to see what the layers read.

T tokens in the batch, N sequences, H hidden size, I intermediate size, Hq and Hkv heads of query and of key and value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.engine.native_model import relative_projections
from quaver.models import (
    Activation,
    EncoderSpec,
    EncoderWeights,
    LayerSpec,
    LayerWeights,
    Linear,
    NormWeights,
    TokenBatch,
    dequantized,
    relative_rows,
    rotary_tables,
)

FloatArray = NDArray[Any]  # float32 or float64
ApplyLinear = Callable[[FloatArray, Linear], FloatArray]


def run_layers(
    spec: EncoderSpec,
    weights: EncoderWeights,
    batch: TokenBatch,
    *,
    apply: ApplyLinear,
    dtype: type[np.floating[Any]] = np.float32,
) -> FloatArray:
    """Run the encoder's layers, without pooling and head, which stay in float32.

    Formula:
        h_0 = norm(scale * word[id] + position[p] + token_type[type]), projected to H features where they
        are fewer;  h_l = layer_l(h_(l-1))

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N sequences, T tokens in total.
        apply: computes a linear layer, (T, K) to (T, O); called for every layer in the order they
            run.
        dtype: what everything is computed in.

    Returns:
        (T, H), the output of the last layer, before a final norm.
    """
    states = embed(spec, weights, batch, dtype)
    embedded = states
    for layer, parts in zip(spec.layers, weights.layers, strict=True):
        attend = _attention_of(spec, layer, weights, parts, batch.offsets)
        states = run_layer(layer, parts, states, attend, eps=spec.norm_eps, apply=apply)
        states = _with_input(layer, parts, states, embedded, eps=spec.norm_eps, apply=apply)
    return states


def embed(
    spec: EncoderSpec,
    weights: EncoderWeights,
    batch: TokenBatch,
    dtype: type[np.floating[Any]] = np.float32,
) -> FloatArray:
    """Add the embeddings of each token, normalize the sum, and project it if the model does; (T, H)."""
    total = weights.word[batch.ids].astype(dtype)
    if spec.embedding_scale != 1:
        total = total * np.float32(spec.embedding_scale)
    if weights.position is not None:
        total = total + weights.position[_places(batch.offsets) + spec.position_offset]
    if weights.token_type is not None:
        types = np.zeros_like(batch.ids) if batch.type_ids is None else batch.type_ids
        total = total + weights.token_type[types]
    projection = weights.projection
    if weights.order is not None and projection is None:
        total = total[:, weights.order]
    normed = norm(total, weights.embedding_norm, spec.norm_eps)
    if projection is None:
        return normed
    projected: FloatArray = normed @ projection.weight.T.astype(dtype) + projection.bias
    return projected


def _places(offsets: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the position of each token in its sequence, int (T,)."""
    return np.concatenate([np.arange(n) for n in np.diff(offsets)] or [np.arange(0)])


def run_layer(
    layer: LayerSpec,
    parts: LayerWeights,
    x: FloatArray,
    attend: Callable[[FloatArray], FloatArray],
    *,
    eps: float,
    apply: ApplyLinear,
) -> FloatArray:
    """Run one layer.

    Formula:
        norms after:   a = norm(x + out(attend(qkv(x))));  y = norm'(a + down(inner(a)))
        norms before:  a = x + out(attend(qkv(norm(x))));  y = a + down(inner(norm'(a)))
        norms on both sides: as before, with each result of out and down through a norm of its own
        inner(v) = act(up(v)), with a gate act(first half of up(v)) * second half

    Args:
        layer: the layer's geometry.
        parts: its weights.
        x: (T, H).
        attend: its attention, (T, (Hq + 2 Hkv) D) to (T, Hq D).
        eps: of the norms.
        apply: see `run_layers`.

    Returns:
        (T, H).
    """

    def inner(v: FloatArray) -> FloatArray:
        wide = apply(v, parts.up)
        if layer.gate == "none":
            return activate(wide, layer.activation)
        gate, value = np.split(wide, 2, axis=1)[:: 1 if layer.gate == "first" else -1]
        gated: FloatArray = activate(gate, layer.activation) * value
        return gated

    def attended(v: FloatArray) -> FloatArray:
        y = apply(attend(apply(v, parts.qkv)), parts.out)
        return norm(y, parts.attention_post_norm, eps)

    def fed_forward(v: FloatArray) -> FloatArray:
        return norm(apply(inner(v), parts.down), parts.output_post_norm, eps)

    if layer.norm_places == "after":
        a = norm(x + attended(x), parts.attention_norm, eps)
        return norm(a + fed_forward(a), parts.output_norm, eps)
    a = x + attended(norm(x, parts.attention_norm, eps))
    return a + fed_forward(norm(a, parts.output_norm, eps))


def _with_input(
    layer: LayerSpec,
    parts: LayerWeights,
    x: FloatArray,
    embedded: FloatArray,
    *,
    eps: float,
    apply: ApplyLinear,
) -> FloatArray:
    """Add what a layer makes of the embeddings, and scale the sum; (T, H).

    `input` is not a layer that is calibrated: what it reads does not depend on other layers.
    """
    if parts.input is not None:
        assert parts.input_gate is not None
        assert parts.input_out is not None
        exact = dequantized(parts.input)
        own = norm(embedded @ exact.weight.T.astype(embedded.dtype), parts.input_norm, eps)
        gated = activate(apply(x, parts.input_gate), layer.activation) * own
        x = x + norm(apply(gated, parts.input_out), parts.input_post_norm, eps)
    return x if parts.scale == 1 else x * np.float32(parts.scale)


def norm(x: FloatArray, weights: NormWeights | None, eps: float) -> FloatArray:
    """Norm the last axis; without a norm return x.

    Formula:
        LayerNorm  (x - mean) / sqrt(variance + eps) * gamma + beta
        RMSNorm    x / sqrt(mean of x^2 + eps) * gamma
    """
    if weights is None:
        return x
    scaled: FloatArray
    if weights.kind == "rms":
        square = np.square(x).mean(axis=-1, keepdims=True)
        scaled = x / np.sqrt(square + np.float32(eps))
        return scaled * weights.gamma
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centered).mean(axis=-1, keepdims=True)
    scaled = centered / np.sqrt(variance + np.float32(eps))
    return scaled * weights.gamma + weights.beta


def _attention_of(
    spec: EncoderSpec,
    layer: LayerSpec,
    weights: EncoderWeights,
    parts: LayerWeights,
    offsets: NDArray[np.int32],
) -> Callable[[FloatArray], FloatArray]:

    def attend(qkv: FloatArray) -> FloatArray:
        all_heads = layer.heads + 2 * layer.kv_heads
        heads = qkv.reshape(len(qkv), all_heads, layer.head_size).swapaxes(0, 1)
        q, k, v = np.split(heads, [layer.heads, layer.heads + layer.kv_heads])
        q = norm(q, parts.query_norm, spec.norm_eps)
        k = norm(k, parts.key_norm, spec.norm_eps)
        v = norm(v, parts.value_norm, spec.norm_eps)
        if layer.rotary is not None:
            tables = rotary_tables(layer.rotary, spec.max_length, layer.head_size)
            cosine, sine = (table[_places(offsets)] for table in tables)
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        positions = None
        if spec.relative is not None:
            queries, keys = relative_projections(spec, weights, parts)
            positions = Positions(queries, keys, relative_rows(spec.relative, spec.max_length))
        context = attention(
            layer, q, k, v, offsets, bias=weights.distance_bias, positions=positions
        )
        merged: FloatArray = context.swapaxes(0, 1).reshape(len(qkv), layer.query_width)
        return merged

    return attend


def activate(x: FloatArray, activation: Activation) -> FloatArray:
    """Apply the activation to every value.

    Formula:
        gelu      x / 2 * (1 + erf(x / sqrt(2)))
        gelu_tanh x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
        relu      max(x, 0)
        silu      x / (1 + exp(-x))

    Args:
        x: any shape.
        activation: its name.

    Returns:
        the shape of x.
    """
    if activation == "gelu":
        gelu: FloatArray = x * np.float32(0.5) * (1 + _erf(x / np.float32(math.sqrt(2))))
        return gelu
    if activation == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
        tanh: FloatArray = x * np.float32(0.5) * (1 + np.tanh(inner))
        return tanh
    if activation == "relu":
        return np.maximum(x, 0)
    silu: FloatArray = x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return silu


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


@dataclass(frozen=True)
class Positions:
    """The relative position embeddings of one layer.

    Attributes:
        queries: (2S, H), the embeddings projected as queries.
        keys: (2S, H), the embeddings projected as keys.
        rows: int32 (2R - 1,), the row of both for each distance; see `relative_rows`.
    """

    queries: FloatArray
    keys: FloatArray
    rows: NDArray[np.int32]


def rotate(x: FloatArray, cosine: FloatArray, sine: FloatArray) -> FloatArray:
    """Apply rotary position embeddings to heads.

    Formula:
        (a, b) to (a cos - b sin, b cos + a sin), a the first half of a head and b the second

    Args:
        x: (heads, T, D).
        cosine: (T, D / 2).
        sine: (T, D / 2).

    Returns:
        (heads, T, D).
    """
    a, b = np.split(x, 2, axis=2)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=2)


def attention(
    layer: LayerSpec,
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    offsets: NDArray[np.int32],
    *,
    bias: FloatArray | None = None,
    positions: Positions | None = None,
) -> FloatArray:
    """Compute attention within each sequence.

    Formula:
        softmax(scale q k^T + bias) v, for each sequence and head; with positions
        softmax(scale (q_i k_j + q_i key_r + k_j query_r)) v, r = rows[j - i + R - 1]

    Args:
        layer: scale, window, and whether it is causal.
        q: (Hq, T, D).
        k: (Hkv, T, D).
        v: (Hkv, T, D).
        offsets: int32 (N + 1,).
        bias: (Hq, 2R - 1), by distance; see `EncoderWeights`. None for no bias.
        positions: relative position embeddings, or None.

    Returns:
        (Hq, T, D).
    """
    scale, group = np.float32(layer.score_scale), layer.heads // layer.kv_heads
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    context: FloatArray = np.empty_like(q)
    for begin, end in pairwise(offsets):
        one = np.s_[:, begin:end]
        scores = q[one] @ k[one].swapaxes(1, 2)
        places = np.arange(end - begin)
        distances = places[None, :] - places[:, None]
        if positions is not None:
            rows = positions.rows[distances + len(positions.rows) // 2]
            scores = scores + _position_scores(q[one], k[one], positions, rows)
        scores = scores * scale
        if bias is not None:
            scores = scores + bias[:, distances + (bias.shape[1] - 1) // 2]
        if layer.window is not None:
            scores = np.where(np.abs(distances) <= layer.window, scores, np.float32(-np.inf))
        if layer.causal:
            scores = np.where(distances <= 0, scores, np.float32(-np.inf))
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        context[one] = powers / powers.sum(axis=2, keepdims=True) @ v[one]
    return context


def _position_scores(
    q: FloatArray, k: FloatArray, positions: Positions, rows: NDArray[np.int32]
) -> FloatArray:
    """Return q_i key_r + k_j query_r, r = rows[i, j]: (heads, n, D) to (heads, n, n)."""
    by_head = (len(positions.keys), *q.shape[::2])
    queries, keys = (
        table.reshape(by_head).transpose(1, 2, 0) for table in (positions.queries, positions.keys)
    )
    content_to_position = np.take_along_axis(q @ keys, rows[None], axis=2)
    position_to_content = np.take_along_axis(k @ queries, rows.T[None], axis=2)
    scores: FloatArray = content_to_position + position_to_content.swapaxes(1, 2)
    return scores
