"""The encoder in plain NumPy, float32: the specification that every kernel is measured against.

Written to be read, not to be fast. T tokens in the batch, N sequences, H hidden size, I inner size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quaver.architecture import (
    EncoderSpec,
    EncoderWeights,
    LayerWeights,
    NormWeights,
)
from quaver.architecture.head import HeadActivation
from quaver.linear import Linear, LinearWeights, dequantized
from quaver.tokenizer import TokenBatch

FloatArray = NDArray[np.float32]
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
        h_0 = norm(word[id] + position[p] + token_type[type]);  h_l = layer_l(h_(l-1))

    Args:
        spec: the encoder.
        weights: its weights.
        batch: N sequences of T tokens together.
        apply: see `encode`.

    Returns:
        layers + 1 arrays float32 (T, H): the embeddings, then the output of each layer.
    """
    states = [embed(spec, weights, batch)]
    for layer in weights.layers:
        states.append(run_layer(spec, layer, states[-1], batch.offsets, apply=apply))
    return states


def embed(spec: EncoderSpec, weights: EncoderWeights, batch: TokenBatch) -> FloatArray:
    """Sum the three embeddings of every token and normalise; float32 (T, H)."""
    lengths = np.diff(batch.offsets)
    positions = np.concatenate([np.arange(n) for n in lengths] or [np.arange(0)])
    types = np.zeros_like(batch.ids) if batch.type_ids is None else batch.type_ids
    total = weights.word[batch.ids] + weights.position[positions + spec.position_offset]
    return layer_norm(total + weights.token_type[types], weights.embedding_norm, spec.norm_eps)


def run_layer(
    spec: EncoderSpec,
    layer: LayerWeights,
    x: FloatArray,
    offsets: NDArray[np.int32],
    *,
    apply: ApplyLinear | None = None,
) -> FloatArray:
    """Run one layer, norm after the residual.

    Formula:
        a = norm(x + out(attention(qkv(x))));  y = norm(a + down(act(up(a))))

    Args:
        spec: the encoder.
        layer: the layer's weights.
        x: float32 (T, H).
        offsets: int32 (N + 1,).
        apply: see `encode`.

    Returns:
        float32 (T, H).
    """
    apply = apply or linear
    context = attention(apply(x, layer.qkv), offsets, spec.heads)
    a = layer_norm(x + apply(context, layer.out), layer.attention_norm, spec.norm_eps)
    inner = activate(apply(a, layer.up), spec.activation)
    return layer_norm(a + apply(inner, layer.down), layer.output_norm, spec.norm_eps)


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


def attention(qkv: FloatArray, offsets: NDArray[np.int32], heads: int) -> FloatArray:
    """Let every token look at the tokens of its own sequence.

    Formula:
        softmax(q k^T / sqrt(H / heads)) v, for each sequence and head

    Args:
        qkv: float32 (T, 3H), query, key and value side by side.
        offsets: int32 (N + 1,).
        heads: number of heads.

    Returns:
        float32 (T, H).
    """
    tokens, hidden = len(qkv), qkv.shape[1] // 3
    q, k, v = np.moveaxis(qkv.reshape(tokens, 3, heads, hidden // heads), 0, 2)
    scale = np.float32(1 / math.sqrt(hidden // heads))
    context: FloatArray = np.empty((heads, tokens, hidden // heads), np.float32)
    for begin, end in pairwise(offsets):
        one = np.s_[:, begin:end]
        scores = q[one] @ k[one].swapaxes(1, 2) * scale
        powers = np.exp(scores - scores.max(axis=2, keepdims=True))
        context[one] = powers / powers.sum(axis=2, keepdims=True) @ v[one]
    merged: FloatArray = context.swapaxes(0, 1).reshape(tokens, hidden)
    return merged


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
        erf = np.frompyfunc(math.erf, 1, 1)(x / np.float32(math.sqrt(2))).astype(np.float32)
        return np.asarray(x * np.float32(0.5) * (1 + erf), np.float32)
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


def pool(spec: EncoderSpec, x: FloatArray, offsets: NDArray[np.int32]) -> FloatArray:
    """Make one vector of each sequence: its first token (cls) or the mean of its tokens.

    Args:
        spec: the encoder.
        x: float32 (T, H).
        offsets: int32 (N + 1,).

    Returns:
        float32 (N, H).
    """
    if spec.pooling == "cls":
        return x[offsets[:-1]]
    means = [x[a:b].mean(axis=0) for a, b in pairwise(offsets)]
    return np.stack(means) if means else np.empty((0, x.shape[1]), np.float32)


def run_head(spec: EncoderSpec, weights: Sequence[LinearWeights], pooled: FloatArray) -> FloatArray:
    """Run the steps of the head on every pooled vector by itself.

    Formula:
        activation(x @ weight.T + bias), for each step

    Args:
        spec: the encoder.
        weights: one for each step.
        pooled: float32 (N, H).

    Returns:
        float32 (N, spec.outputs); a row is the same bits in any batch.
    """
    for step, dense in zip(spec.head, weights, strict=True):
        rows = [dense.weight @ row + dense.bias for row in pooled]
        values = np.stack(rows) if rows else np.empty((0, step.outputs), np.float32)
        pooled = activate(values, step.activation)
    return pooled


def normalized(x: FloatArray) -> FloatArray:
    """Divide each row by its length; a row of zeros stays as it is. float32 (N, D)."""
    lengths = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    lengths[lengths == 0] = 1
    unit: FloatArray = x / lengths
    return unit
