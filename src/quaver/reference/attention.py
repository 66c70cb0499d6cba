"""Attention in plain NumPy: rotary positions, biases, windows, relative positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Positions:
    """Relative positions that tokens attend to, in one layer.

    Attributes:
        queries: float32 (2S, H).
        keys: float32 (2S, H).
        rows: int32 (2R - 1,), see `relative_rows`.
    """

    queries: FloatArray
    keys: FloatArray
    rows: NDArray[np.int32]


def rotate(qkv: FloatArray, cosine: FloatArray, sine: FloatArray, heads: int) -> FloatArray:
    """Turn every head of query and key by the angles of its token's place.

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
    """Let every token look at the tokens of its own sequence.

    Formula:
        softmax(q k^T / sqrt(D) + bias) v, for each sequence and head, D = H / heads; with positions
        softmax((q_i k_j + q_i key_r + k_j query_r) / sqrt(3D)) v, r = rows[j - i + R - 1]

    Args:
        qkv: float32 (T, 3H), query, key and value side by side.
        offsets: int32 (N + 1,).
        heads: number of heads.
        window: tokens further apart do not see each other.
        bias: float32 (heads, 2R - 1), by distance, see `EncoderWeights`.
        positions: relative positions that tokens attend to.

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
