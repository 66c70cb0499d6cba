"""The encoder in plain NumPy, one text at a time in float64: what the engine's results are compared with.

Written to be read, and shares no mathematics with the engine. T tokens of the text, H hidden size, D head size,
I intermediate size, S span of relative positions, Hq and Hkv heads of query and of key and value.
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
    LayerSpec,
    LayerWeights,
    Linear,
    LinearWeights,
    Llama3Scaling,
    NormWeights,
    RelativePositions,
    Rotary,
    TokenBatch,
    YarnScaling,
    dequantized,
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
    pooled = pool(spec, hidden_states(spec, weights, batch)[-1], batch.offsets)
    if weights.output_projection is None:
        parts = pooled.shape[1] // spec.hidden_size  # of joined poolings
        rows = pooled.reshape(len(batch), parts, spec.hidden_size)
        pooled = in_natural_order(weights, rows).reshape(pooled.shape)
    vectors = head(spec, weights, pooled)
    return (normalized(vectors) if spec.normalize else vectors).astype(np.float32)


def hidden_states(spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch) -> list[Array]:
    """Return the embeddings and then the output of each layer, text after text.

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N texts of T tokens together.

    Returns:
        one array more than there are layers, float64 (T, H), in the order of the weights. The last one
        went through the final norm and the projection behind it, if there are any.
    """
    texts = []
    for begin, end in pairwise(batch.offsets):
        types = None if batch.type_ids is None else batch.type_ids[begin:end]
        states = [embed(spec, weights, batch.ids[begin:end], types)]
        for index in range(len(spec.layers)):
            states.append(layer(spec, weights, index, states[-1], states[0]))
        if weights.final_norm is not None:
            states[-1] = norm(states[-1], weights.final_norm, spec.norm_eps)
        if weights.output_projection is not None:
            states[-1] = linear(in_natural_order(weights, states[-1]), weights.output_projection)
        texts.append(states)
    if not texts:
        last = np.empty((0, spec.output_size or spec.hidden_size))
        return [*[np.empty((0, spec.hidden_size))] * len(spec.layers), last]
    return [np.concatenate(layers) for layers in zip(*texts, strict=True)]


def in_natural_order(weights: EncoderWeights, x: Array) -> Array:
    """Undo the order of the hidden dimension, the last one of x, that the weights have."""
    if weights.order is None:
        return x
    natural = np.empty_like(x)
    natural[..., weights.order] = x
    return natural


def embed(
    spec: EncoderSpec,
    weights: EncoderWeights,
    ids: NDArray[np.int32],
    types: NDArray[np.int32] | None,
) -> Array:
    """Return norm(scale * word[id] + position[place] + token_type[type]), float64 (T, H).

    A projection makes H features of fewer, after the norm.
    """
    total = spec.embedding_scale * weights.word[ids].astype(np.float64)
    if weights.position is not None:
        total += weights.position[spec.position_offset : spec.position_offset + len(ids)]
    if weights.token_type is not None:
        total += weights.token_type[np.zeros_like(ids) if types is None else types]
    if weights.projection is not None:
        return linear(norm(total, weights.embedding_norm, spec.norm_eps), weights.projection)
    if weights.order is not None:
        total = total[:, weights.order]
    return norm(total, weights.embedding_norm, spec.norm_eps)


def layer(
    spec: EncoderSpec, weights: EncoderWeights, index: int, x: Array, embedded: Array
) -> Array:
    """Run one layer on a text, float64 (T, H) to (T, H).

    Formula:
        norms after:   a = norm(x + out(attend(qkv(x))));  y = norm'(a + down(inner(a)))
        norms before:  a = x + out(attend(qkv(norm(x))));  y = a + down(inner(norm'(a)))
        norms on both sides: as before, with each result of out and down through a norm of its own
        an input of the layer's own: y + norm(input_out(act(input_gate(y)) * norm(input(embedded))))
        and then times the layer's scale
    """
    parts = weights.layers[index]
    eps, after = spec.norm_eps, spec.layers[index].norm_places == "after"

    def attended(v: Array) -> Array:
        context = attend(spec, weights, index, linear(v, parts.qkv))
        return norm(linear(context, parts.out), parts.attention_post_norm, eps)

    def fed_forward(v: Array) -> Array:
        wide = inner(spec.layers[index], parts, v)
        return norm(linear(wide, parts.down), parts.output_post_norm, eps)

    if after:
        a = norm(x + attended(x), parts.attention_norm, eps)
        y = norm(a + fed_forward(a), parts.output_norm, eps)
    else:
        a = x + attended(norm(x, parts.attention_norm, eps))
        y = a + fed_forward(norm(a, parts.output_norm, eps))
    if parts.input is not None:
        assert parts.input_gate is not None
        assert parts.input_out is not None
        own = norm(linear(embedded, parts.input), parts.input_norm, eps)
        gated = ACTIVATIONS[spec.layers[index].activation](linear(y, parts.input_gate)) * own
        y = y + norm(linear(gated, parts.input_out), parts.input_post_norm, eps)
    return y * parts.scale


def inner(layer_spec: LayerSpec, parts: LayerWeights, x: Array) -> Array:
    """Return act(up(x)); with a gate act(one half of up(x)) times the other half; float64 (T, I)."""
    wide = linear(x, parts.up)
    activation = ACTIVATIONS[layer_spec.activation]
    if layer_spec.gate == "none":
        return activation(wide)
    first, second = np.split(wide, 2, axis=1)
    if layer_spec.gate == "first":
        return activation(first) * second
    return activation(second) * first


def attend(spec: EncoderSpec, weights: EncoderWeights, index: int, qkv: Array) -> Array:
    """Let every token of a text look at the others, head by head.

    Formula:
        softmax(scores) v, with scores_ij = (q_i k_j + relative_ij) * score_scale + bias_(j - i), and minus infinity
        where |j - i| exceeds the layer's window, or j > i in a causal layer

    Args:
        spec: the encoder.
        weights: its weights.
        index: which layer.
        qkv: float64 (T, (Hq + 2 Hkv) D), the heads of query, key and value side by side.

    Returns:
        float64 (T, Hq D).
    """
    this, parts = spec.layers[index], weights.layers[index]
    count, size = len(qkv), this.head_size
    distance = np.arange(count)[None, :] - np.arange(count)[:, None]
    heads = np.split(qkv, this.heads + 2 * this.kv_heads, axis=1)
    queries, keys = heads[: this.heads], heads[this.heads : -this.kv_heads]
    values = heads[-this.kv_heads :]
    context = np.empty((count, this.query_width))
    if spec.relative is not None:
        position_queries, position_keys = relative_projections(spec, weights, parts)
        places = np.arange(count)
        rows = np.array([[relative_row(spec.relative, i - j) for j in places] for i in places])
    for number, q in enumerate(queries):
        shared = number * this.kv_heads // this.heads
        q = norm(q, parts.query_norm, spec.norm_eps)
        k = norm(keys[shared], parts.key_norm, spec.norm_eps)
        v = norm(values[shared], parts.value_norm, spec.norm_eps)
        columns = slice(number * size, (number + 1) * size)
        if this.rotary is not None:
            q, k = rotate(q, this.rotary), rotate(k, this.rotary)
        scores = q @ k.T
        if spec.relative is not None:
            to_position = np.take_along_axis(q @ position_keys[:, columns].T, rows, axis=1)
            from_position = np.take_along_axis(k @ position_queries[:, columns].T, rows.T, axis=1).T
            scores = scores + to_position + from_position
        scores = scores * this.score_scale
        if weights.distance_bias is not None:
            scores = scores + weights.distance_bias[number, distance + spec.max_length - 1]
        seen = np.full(distance.shape, True)
        if this.window is not None:
            seen &= np.abs(distance) <= this.window
        if this.causal:
            seen &= distance <= 0
        scores = np.where(seen, scores, -np.inf)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        context[:, columns] = powers / powers.sum(axis=1, keepdims=True) @ v
    return context


def relative_row(relative: RelativePositions, distance: int) -> int:
    """Return the row of the table of relative positions for a key `distance` places before its query.

    Written apart from the engine's own table, so that a mistake in either shows.

    Formula:
        S + d up to |d| = S / 2; beyond it S + sign(d) * (S / 2 + ceil((S / 2 - 1) * log(2 |d| / S) /
        log(2 (reach - 1) / S))); kept in [0, 2S)
    """
    span, middle = relative.span, relative.span // 2
    bucket = distance
    if relative.reach is not None and abs(distance) > middle:
        # In float32, as the model was trained: where the logarithm is nearly whole, that decides the row.
        far = np.log(np.float32(abs(distance)) / np.float32(middle))
        farthest = np.log(np.float32((relative.reach - 1) / middle))
        steps = math.ceil(far / farthest * np.float32(middle - 1))
        bucket = middle + steps if distance > 0 else -middle - steps
    return min(max(span + bucket, 0), 2 * span - 1)


def rotate(x: Array, rotary: Rotary) -> Array:
    """Turn the queries or keys of a head by the angles of their places, float64 (T, D).

    Formula:
        (a, b) to (a cos - b sin, b cos + a sin), a the first half of a row and b the second; the angle of feature i
        at place p is p * theta^(-2i / D) / divisor, scaled as the spec says
    """
    size = x.shape[1]
    scaling = rotary.scaling
    frequencies, magnitude = [], 1.0
    for i in range(size // 2):
        frequency = rotary.theta ** (-2 * i / size) / rotary.divisor
        if isinstance(scaling, Llama3Scaling):
            turns = scaling.original * frequency / (2 * math.pi)
            kept = min(max((turns - scaling.low) / (scaling.high - scaling.low), 0), 1)
            frequency = kept * frequency + (1 - kept) * frequency / scaling.factor
        elif isinstance(scaling, YarnScaling):
            bounds = [
                size
                * math.log(scaling.original / (2 * math.pi * turns))
                / (2 * math.log(rotary.theta))
                for turns in (scaling.fast, scaling.slow)
            ]
            low, high = (math.floor(bounds[0]), math.ceil(bounds[1])) if scaling.whole else bounds
            low, high = max(low, 0), min(high, size - 1)
            kept = 1 - min(max((i - low) / (high - low if high != low else 0.001), 0), 1)
            frequency = kept * frequency + (1 - kept) * frequency / scaling.factor
            magnitude = scaling.magnitude
        frequencies.append(frequency)
    angle = np.arange(len(x))[:, None] * np.array(frequencies)
    a, b = np.split(x, 2, axis=1)
    cosine, sine = magnitude * np.cos(angle), magnitude * np.sin(angle)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=1)


def relative_projections(
    spec: EncoderSpec, weights: EncoderWeights, parts: LayerWeights
) -> tuple[Array, Array]:
    """Return the queries and the keys of the relative positions, two float64 (2S, H)."""
    assert weights.relative is not None
    table = weights.relative.astype(np.float64)
    if weights.relative_norm is not None:
        table = norm(table, weights.relative_norm, spec.norm_eps)
    queries, keys, _ = np.split(linear(table, parts.qkv), 3, axis=1)
    return queries, keys


def pool(spec: EncoderSpec, states: Array, offsets: NDArray[np.int32]) -> Array:
    """Make one vector of each text's token vectors, for each pooling mode one, side by side.

    Formula:
        cls: the first token; lasttoken: the last; mean, max: over the tokens;
        mean_sqrt_len_tokens: their sum divided by the root of their number; weightedmean: the mean with
        the weights 1, 2, 3, ...

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
            "weightedmean": np.average(tokens, axis=0, weights=np.arange(1, len(tokens) + 1)),
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
            pooled = norm(pooled, weight, step.eps)
    return pooled


def linear(x: Array, weights: Linear) -> Array:
    """Return x @ weight.T + bias, float64 (T, K) to (T, O)."""
    exact = dequantized(weights)
    y: Array = x @ exact.weight.T.astype(np.float64) + exact.bias
    return y


def norm(x: Array, weights: NormWeights | None, eps: float) -> Array:
    """Norm each row; without a norm return x. float64 (T, n).

    Formula:
        LayerNorm  (x - mean) / sqrt(variance + eps) * gamma + beta
        RMSNorm    x / sqrt(mean of x^2 + eps) * gamma
    """
    if weights is None:
        return x
    y: Array
    if weights.kind == "rms":
        y = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + eps) * weights.gamma
    else:
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        y = (x - mean) / np.sqrt(variance + eps) * weights.gamma + weights.beta
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
