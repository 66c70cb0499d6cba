"""The forward pass for calibration, in NumPy and float32; a callback computes every linear layer.

T tokens in the batch, N sequences, H hidden size, I intermediate size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quaver.engine import relative_projections
from quaver.models import (
    Activation,
    EncoderSpec,
    EncoderWeights,
    LayerWeights,
    Linear,
    NormWeights,
    TokenBatch,
    relative_rows,
    rotary_tables,
)

FloatArray = NDArray[np.float32]
ApplyLinear = Callable[[FloatArray, Linear], FloatArray]


def run_layers(
    spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch, *, apply: ApplyLinear
) -> FloatArray:
    """Run the encoder's layers, without pooling and head, which stay in float32.

    Formula:
        h_0 = norm(word[id] + position[p] + token_type[type]);  h_l = layer_l(h_(l-1))

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N sequences, T tokens in total.
        apply: computes a linear layer, float32 (T, K) to (T, O); called for every layer in
            the order they run.

    Returns:
        float32 (T, H), the output of the last layer, before a final norm.
    """
    states = embed(spec, weights, batch)
    for i, layer in enumerate(weights.layers):
        attend = _attention_of(spec, i, weights, batch.offsets)
        states = run_layer(spec, layer, states, attend, apply=apply)
    return states


def embed(spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch) -> FloatArray:
    """Add the embeddings of each token and normalize the sum; float32 (T, H)."""
    total = weights.word[batch.ids]
    if weights.position is not None:
        total = total + weights.position[_places(batch.offsets) + spec.position_offset]
    if weights.token_type is not None:
        types = np.zeros_like(batch.ids) if batch.type_ids is None else batch.type_ids
        total = total + weights.token_type[types]
    return layer_norm(total, weights.embedding_norm, spec.norm_eps)


def _places(offsets: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the position of each token in its sequence, int (T,)."""
    return np.concatenate([np.arange(n) for n in np.diff(offsets)] or [np.arange(0)])


def run_layer(
    spec: EncoderSpec,
    layer: LayerWeights,
    x: FloatArray,
    attend: Callable[[FloatArray], FloatArray],
    *,
    apply: ApplyLinear,
) -> FloatArray:
    """Run one layer.

    Formula:
        norm last:    a = norm(x + out(attend(qkv(x))));  y = norm'(a + down(inner(a)))
        norm first:   a = x + out(attend(qkv(norm(x))));  y = a + down(inner(norm'(a)))
        inner(v) = act(up(v)), with a gate act(first half of up(v)) * second half

    Args:
        spec: the encoder.
        layer: the layer's weights.
        x: float32 (T, H).
        attend: the layer's attention, float32 (T, 3H) to (T, H).
        apply: see `run_layers`.

    Returns:
        float32 (T, H).
    """

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
            queries, keys = relative_projections(spec, weights, weights.layers[layer])
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


def activate(x: FloatArray, activation: Activation) -> FloatArray:
    """Apply the activation to every value.

    Formula:
        gelu      x / 2 * (1 + erf(x / sqrt(2)))
        gelu_tanh x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
        relu      max(x, 0)
        silu      x / (1 + exp(-x))

    Args:
        x: float32, any shape.
        activation: its name.

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


@dataclass(frozen=True)
class Positions:
    """The relative position embeddings of one layer.

    Attributes:
        queries: float32 (2S, H), the embeddings projected as queries.
        keys: float32 (2S, H), the embeddings projected as keys.
        rows: int32 (2R - 1,), the row of both for each distance; see `relative_rows`.
    """

    queries: FloatArray
    keys: FloatArray
    rows: NDArray[np.int32]


def rotate(qkv: FloatArray, cosine: FloatArray, sine: FloatArray, heads: int) -> FloatArray:
    """Apply rotary position embeddings to the heads of query and key.

    Formula:
        (a, b) to (a cos - b sin, b cos + a sin), a the first half of a head and b the second

    Args:
        qkv: float32 (T, 3H), query, key and value side by side.
        cosine: float32 (T, D / 2).
        sine: float32 (T, D / 2).
        heads: number of heads.

    Returns:
        float32 (T, 3H).
    """
    turned = qkv.reshape(len(qkv), 3, heads, 2, -1).copy()
    a, b = turned[:, :2, :, 0].copy(), turned[:, :2, :, 1].copy()
    cos, sin = cosine[:, None, None], sine[:, None, None]
    turned[:, :2, :, 0] = a * cos - b * sin
    turned[:, :2, :, 1] = b * cos + a * sin
    merged: FloatArray = turned.reshape(qkv.shape)
    return merged


def attention(
    qkv: FloatArray,
    offsets: NDArray[np.int32],
    heads: int,
    *,
    window: int | None = None,
    bias: FloatArray | None = None,
    positions: Positions | None = None,
) -> FloatArray:
    """Compute attention within each sequence.

    Formula:
        softmax(q k^T / sqrt(D) + bias) v, for each sequence and head, D = H / heads; with positions
        softmax((q_i k_j + q_i key_r + k_j query_r) / sqrt(3D)) v, r = rows[j - i + R - 1]

    Args:
        qkv: float32 (T, 3H), query, key and value side by side.
        offsets: int32 (N + 1,).
        heads: number of heads.
        window: largest distance at which tokens attend to each other; None for no limit.
        bias: float32 (heads, 2R - 1), by distance; see `EncoderWeights`. None for no bias.
        positions: relative position embeddings, or None.

    Returns:
        float32 (T, H).
    """
    tokens, hidden = len(qkv), qkv.shape[1] // 3
    size = hidden // heads
    q, k, v = np.moveaxis(qkv.reshape(tokens, 3, heads, size), 0, 2)
    scale = np.float32(1 / math.sqrt(size if positions is None else 3 * size))
    context: FloatArray = np.empty((heads, tokens, size), np.float32)
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
        if window is not None:
            scores = np.where(np.abs(distances) <= window, scores, np.float32(-np.inf))
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        context[one] = powers / powers.sum(axis=2, keepdims=True) @ v[one]
    merged: FloatArray = context.swapaxes(0, 1).reshape(tokens, hidden)
    return merged


def _position_scores(
    q: FloatArray, k: FloatArray, positions: Positions, rows: NDArray[np.int32]
) -> FloatArray:
    """Return q_i key_r + k_j query_r, r = rows[i, j]: float32 (heads, n, D) to (heads, n, n)."""
    by_head = (len(positions.keys), *q.shape[::2])
    queries, keys = (
        table.reshape(by_head).transpose(1, 2, 0) for table in (positions.queries, positions.keys)
    )
    content_to_position = np.take_along_axis(q @ keys, rows[None], axis=2)
    position_to_content = np.take_along_axis(k @ queries, rows.T[None], axis=2)
    scores: FloatArray = content_to_position + position_to_content.swapaxes(1, 2)
    return scores
