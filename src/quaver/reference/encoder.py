"""The encoder in plain NumPy, one text at a time in float64: what the engine's results are compared with.

Written to be read, and shares no mathematics with the engine. T tokens of the text, H hidden size, D head size,
I intermediate size, S span of relative positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quaver.models import (
    DenseStep,
    EncoderSpec,
    EncoderWeights,
    LayerWeights,
    Linear,
    LinearWeights,
    NormWeights,
    Rotary,
    TokenBatch,
    dequantized,
    relative_rows,
)

Array = NDArray[np.float64]


def encode(spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch) -> NDArray[np.float32]:
    """Turn texts into vectors: encoder, pooling, head, and length 1 where the spec says so.

    Args:
        spec: the encoder.
        weights: its weights; int8 layers are dequantized.
        batch: N texts, ids in [0, V), each of at most spec.max_length tokens.

    Returns:
        float32 (N, spec.outputs).
    """
    vectors = head(
        spec, weights, pool(spec, hidden_states(spec, weights, batch)[-1], batch.offsets)
    )
    return (normalized(vectors) if spec.normalize else vectors).astype(np.float32)


def hidden_states(spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch) -> list[Array]:
    """Return the embeddings and then the output of each layer, text after text.

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N texts of T tokens together.

    Returns:
        spec.layers + 1 arrays float64 (T, H). Where norms come first, the last array went through the
        final norm.
    """
    texts = []
    for begin, end in pairwise(batch.offsets):
        types = None if batch.type_ids is None else batch.type_ids[begin:end]
        states = [embed(spec, weights, batch.ids[begin:end], types)]
        for index in range(spec.layers):
            states.append(layer(spec, weights, index, states[-1]))
        if weights.final_norm is not None:
            states[-1] = layer_norm(states[-1], weights.final_norm, spec.norm_eps)
        texts.append(states)
    if not texts:
        return [np.empty((0, spec.hidden_size))] * (spec.layers + 1)
    return [np.concatenate(layers) for layers in zip(*texts, strict=True)]


def embed(
    spec: EncoderSpec,
    weights: EncoderWeights,
    ids: NDArray[np.int32],
    types: NDArray[np.int32] | None,
) -> Array:
    """Return norm(word[id] + position[place] + token_type[type]), float64 (T, H)."""
    total = weights.word[ids].astype(np.float64)
    if weights.position is not None:
        total += weights.position[spec.position_offset : spec.position_offset + len(ids)]
    if weights.token_type is not None:
        total += weights.token_type[np.zeros_like(ids) if types is None else types]
    return layer_norm(total, weights.embedding_norm, spec.norm_eps)


def layer(spec: EncoderSpec, weights: EncoderWeights, index: int, x: Array) -> Array:
    """Run one layer on a text, float64 (T, H) to (T, H).

    Formula:
        norms behind:  a = norm(x + out(attend(qkv(x))));  y = norm'(a + down(inner(a)))
        norms first:   a = x + out(attend(qkv(norm(x))));  y = a + down(inner(norm'(a)))
    """
    parts = weights.layers[index]

    def first_norm(v: Array) -> Array:
        if parts.attention_norm is None:
            return v
        return layer_norm(v, parts.attention_norm, spec.norm_eps)

    def second_norm(v: Array) -> Array:
        return layer_norm(v, parts.output_norm, spec.norm_eps)

    def attended(v: Array) -> Array:
        return linear(attend(spec, weights, index, linear(v, parts.qkv)), parts.out)

    def fed_forward(v: Array) -> Array:
        return linear(inner(spec, parts, v), parts.down)

    if spec.norm_first:
        a = x + attended(first_norm(x))
        return a + fed_forward(second_norm(a))
    a = first_norm(x + attended(x))
    return second_norm(a + fed_forward(a))


def inner(spec: EncoderSpec, parts: LayerWeights, x: Array) -> Array:
    """Return act(up(x)); with a gate act(one half of up(x)) times the other half; float64 (T, I)."""
    wide = linear(x, parts.up)
    activation = ACTIVATIONS[spec.activation]
    if spec.gate == "none":
        return activation(wide)
    first, second = np.split(wide, 2, axis=1)
    if spec.gate == "first":
        return activation(first) * second
    return activation(second) * first


def attend(spec: EncoderSpec, weights: EncoderWeights, index: int, qkv: Array) -> Array:
    """Let every token of a text look at the others, head by head; float64 (T, 3H) to (T, H).

    Formula:
        softmax(scores) v, with scores_ij = (q_i k_j + relative_ij) * score_scale + bias_(j - i), and minus infinity
        where |j - i| exceeds the layer's window
    """
    count = len(qkv)
    distance = np.arange(count)[None, :] - np.arange(count)[:, None]
    window, rotary = spec.attention[index].window, spec.attention[index].rotary
    context = np.empty((count, spec.hidden_size))
    for number in range(spec.heads):
        columns = slice(number * spec.head_size, (number + 1) * spec.head_size)
        q, k, v = (part[:, columns] for part in np.split(qkv, 3, axis=1))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        scores = q @ k.T
        if spec.relative is not None:
            queries, keys = relative_projections(spec, weights, weights.layers[index])
            rows = relative_rows(spec.relative, spec.max_length)[distance + spec.max_length - 1]
            to_position = np.take_along_axis(q @ keys[:, columns].T, rows, axis=1)
            from_position = np.take_along_axis(k @ queries[:, columns].T, rows.T, axis=1).T
            scores = scores + to_position + from_position
        scores = scores * spec.score_scale
        if weights.distance_bias is not None:
            scores = scores + weights.distance_bias[number, distance + spec.max_length - 1]
        if window is not None:
            scores = np.where(np.abs(distance) <= window, scores, -np.inf)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        context[:, columns] = powers / powers.sum(axis=1, keepdims=True) @ v
    return context


def rotate(x: Array, rotary: Rotary) -> Array:
    """Turn the queries or keys of a head by the angles of their places, float64 (T, D).

    Formula:
        (a, b) to (a cos - b sin, b cos + a sin), a the first half of a row and b the second; the angle of feature i
        at place p is p * theta^(-2i / D) / divisor
    """
    size = x.shape[1]
    frequency = rotary.theta ** (-np.arange(0, size, 2) / size) / rotary.divisor
    angle = np.arange(len(x))[:, None] * frequency
    a, b = np.split(x, 2, axis=1)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=1)


def relative_projections(
    spec: EncoderSpec, weights: EncoderWeights, parts: LayerWeights
) -> tuple[Array, Array]:
    """Return the queries and the keys of the relative positions, two float64 (2S, H)."""
    assert weights.relative is not None
    table = weights.relative.astype(np.float64)
    if weights.relative_norm is not None:
        table = layer_norm(table, weights.relative_norm, spec.norm_eps)
    queries, keys, _ = np.split(linear(table, parts.qkv), 3, axis=1)
    return queries, keys


def pool(spec: EncoderSpec, states: Array, offsets: NDArray[np.int32]) -> Array:
    """Make one vector of each text's token vectors, for each pooling mode one, side by side.

    Formula:
        cls: the first token; lasttoken: the last; mean, max: over the tokens;
        mean_sqrt_len_tokens: their sum divided by the root of their number

    Args:
        spec: the encoder.
        states: float64 (T, H).
        offsets: int32 (N + 1,), the first token of each text, and T.

    Returns:
        float64 (N, H times the modes).
    """
    vectors = np.empty((len(offsets) - 1, spec.pooled_size))
    for row, (begin, end) in enumerate(pairwise(offsets)):
        tokens = states[begin:end]
        modes = {
            "cls": tokens[0],
            "lasttoken": tokens[-1],
            "mean": tokens.mean(axis=0),
            "max": tokens.max(axis=0),
            "mean_sqrt_len_tokens": tokens.sum(axis=0) / math.sqrt(len(tokens)),
        }
        vectors[row] = np.concatenate([modes[mode] for mode in spec.poolings])
    return vectors


def head(spec: EncoderSpec, weights: EncoderWeights, pooled: Array) -> Array:
    """Run the steps of the head, float64 (N, spec.pooled_size) to (N, spec.outputs)."""
    for step, weight in zip(spec.head, weights.head, strict=True):
        if isinstance(step, DenseStep):
            assert isinstance(weight, LinearWeights)
            pooled = ACTIVATIONS[step.activation](linear(pooled, weight))
        else:
            assert isinstance(weight, NormWeights)
            pooled = layer_norm(pooled, weight, step.eps)
    return pooled


def linear(x: Array, weights: Linear) -> Array:
    """Return x @ weight.T + bias, float64 (T, K) to (T, O)."""
    exact = dequantized(weights)
    y: Array = x @ exact.weight.T.astype(np.float64) + exact.bias
    return y


def layer_norm(x: Array, weights: NormWeights, eps: float) -> Array:
    """Return (x - mean) / sqrt(variance + eps) * gamma + beta for each row, float64 (T, H)."""
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    y: Array = (x - mean) / np.sqrt(variance + eps) * weights.gamma + weights.beta
    return y


def normalized(rows: Array) -> Array:
    """Divide each row by its length; zeros stay zeros. float64 (N, D)."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Array = rows / np.where(lengths == 0, 1, lengths)
    return unit


def _erf(x: Array) -> Array:
    values: Array = np.vectorize(math.erf, otypes=[np.float64])(x)
    return values


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "gelu": lambda x: x / 2 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / 2 * (1 + np.tanh(x / 2)),
    "tanh": np.tanh,
}
