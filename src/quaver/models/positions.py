"""Positions as arrays: angles of rotary embeddings, biases for the distance of two tokens."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quaver.models.geometry import Llama3Scaling, RelativePositions, Rotary, YarnScaling


def rotary_tables(
    rotary: Rotary, length: int, head_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cosine and sine of every rotary angle.

    Args:
        rotary: which frequencies.
        length: positions, from 0.
        head_size: D, even.

    Returns:
        two float32 (length, D / 2).
    """
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = 1 / np.float32(rotary.theta) ** exponents / np.float32(rotary.divisor)
    magnitude = np.float32(1)
    if isinstance(rotary.scaling, Llama3Scaling):
        blend = _llama3_blend(rotary.scaling, frequencies)
        frequencies = frequencies * ((1 - blend) / np.float32(rotary.scaling.factor) + blend)
    elif isinstance(rotary.scaling, YarnScaling):
        blend = _yarn_blend(rotary.scaling, rotary.theta, head_size)
        frequencies = frequencies * ((1 - blend) / np.float32(rotary.scaling.factor) + blend)
        magnitude = np.float32(rotary.scaling.magnitude)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    return np.cos(angles) * magnitude, np.sin(angles) * magnitude


def _llama3_blend(scaling: Llama3Scaling, frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
    turns = np.float32(scaling.original / (2 * math.pi)) * frequencies
    blend = (turns - np.float32(scaling.low)) / np.float32(scaling.high - scaling.low)
    kept: NDArray[np.float32] = np.clip(blend, 0, 1)
    return kept


def _yarn_blend(scaling: YarnScaling, theta: float, head_size: int) -> NDArray[np.float32]:
    def place(turns: float) -> float:
        return (
            head_size * math.log(scaling.original / (2 * math.pi * turns)) / (2 * math.log(theta))
        )

    low, high = place(scaling.fast), place(scaling.slow)
    if scaling.whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    if low == high:
        high += 0.001  # as in the original, against a division by zero
    ramp = (np.arange(head_size // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    blend: NDArray[np.float32] = 1 - np.clip(ramp, 0, 1)
    return blend


def alibi_bias(heads: int, length: int) -> NDArray[np.float32]:
    """Return ALiBi's bias for every distance, the same in both directions.

    Formula:
        -slope_h * |j - i|, slope_h = 2^(-8 h / n) for h = 1..n, n heads a power of two; otherwise
        the slopes of the next smaller power, then every second one of the next larger

    Args:
        heads: number of heads.
        length: R, the maximum number of tokens in a text.

    Returns:
        float32 (heads, 2R - 1), entry [h, j - i + R - 1].

    Source:
        Press et al., ALiBi (arXiv 2108.12409); symmetric as in Günther et al., Jina Embeddings 2
        (arXiv 2310.19923).
    """

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (h + 1) / n) for h in range(n)]

    below = 2 ** int(math.log2(heads))
    slopes = powers(below) + powers(2 * below)[0::2][: heads - below]
    distances = np.abs(np.arange(1 - length, length, dtype=np.float32))
    bias: NDArray[np.float32] = -np.array(slopes, np.float32)[:, None] * distances
    return bias


def relative_bias(table: NDArray[np.float32], length: int, reach: int = 128) -> NDArray[np.float32]:
    """Expand a learned bias by distance bucket to all distances.

    Each short distance has its own bucket; longer ones share buckets whose width grows
    logarithmically, up to `reach`. Keys before the query use the first half of the buckets.

    Args:
        table: float32 (buckets, heads).
        length: R, the maximum number of tokens in a text.
        reach: the distance from which all share a bucket, more than a quarter of the buckets.

    Returns:
        float32 (heads, 2R - 1), entry [h, j - i + R - 1].

    Source:
        Song et al., MPNet (arXiv 2004.09297); buckets of Raffel et al., T5 (arXiv 1910.10683).
    """
    half = len(table) // 2
    exact = half // 2
    distances = np.arange(1 - length, length)
    magnitude = np.abs(distances)
    with np.errstate(divide="ignore"):
        ratio = np.log(magnitude.astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(reach / exact)
        )
    far = exact + (np.maximum(ratio, 0) * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(magnitude < exact, magnitude, np.minimum(far, half - 1))
    bucket = bucket + np.where(distances > 0, half, 0)
    return np.ascontiguousarray(table[bucket].T)


def relative_rows(relative: RelativePositions, length: int) -> NDArray[np.int32]:
    """Return the row of the table of relative positions for every distance.

    Formula:
        S + bucket(i - j), kept in [0, 2S); bucket(d) = d up to S / 2, beyond it
        sign(d) * (S / 2 + ceil((S / 2 - 1) * log(2 |d| / S) / log(2 (reach - 1) / S)))

    Args:
        relative: S and reach.
        length: R, the maximum number of tokens in a text.

    Returns:
        int32 (2R - 1,), entry [j - i + R - 1] for query i and key j.
    """
    span, distances = relative.span, -np.arange(1 - length, length)
    buckets = distances
    if relative.reach is not None:
        middle = span // 2
        magnitude = np.maximum(np.abs(distances), middle).astype(np.float32)
        # float32 at every step, like the original: values near whole numbers are rounded up.
        widest = np.log(np.float32((relative.reach - 1) / middle))
        ratio = np.log(magnitude / np.float32(middle)) / widest
        far = np.ceil(ratio * np.float32(middle - 1)).astype(np.int64) + middle
        buckets = np.where(np.abs(distances) <= middle, distances, far * np.sign(distances))
    return np.clip(span + buckets, 0, 2 * span - 1).astype(np.int32)
