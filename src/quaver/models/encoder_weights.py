"""The weights of an encoder, as its EncoderSpec describes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quaver.models.linear import Linear, LinearWeights


@dataclass(frozen=True)
class NormWeights:
    """LayerNorm: gamma float32 (H,), beta float32 (H,), zeros if the model has none."""

    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Its linear layers are `qkv`, `out`, `up` and `down`, whatever the family.

    Attributes:
        qkv: weight (3H, H), the rows of query, key and value stacked.
        out: weight (H, H), after the attention.
        attention_norm: of the attention: after `out` and its residual, or before `qkv` if
            norms come first; None if there is no norm (the first layer of a ModernBERT).
        up: weight (I, H), I the inner size; (2I, H) with a gate.
        down: weight (H, I).
        output_norm: of the feed-forward part: after `down` and its residual, or before `up`.
    """

    qkv: Linear
    out: Linear
    attention_norm: NormWeights | None
    up: Linear
    down: Linear
    output_norm: NormWeights


@dataclass(frozen=True)
class EncoderWeights:
    """The weights of an encoder.

    Attributes:
        word: float32 (V, H).
        position: float32 (P, H), or None.
        token_type: float32 (types, H), or None.
        embedding_norm: after the sum of the three.
        layers: one for each layer.
        final_norm: after the last layer if norms come first, else None.
        distance_bias: float32 (heads, 2R - 1), R = spec.max_length: entry [h, j - i + R - 1] is
            added to the score of query i and key j in head h; None without such a bias.
        relative: float32 (2S, H), the embeddings of relative positions, which the query and key
            projections of every layer transform like token states; None without them.
        relative_norm: of `relative`; None without a norm.
        head: one for each step of the head.
    """

    word: NDArray[np.float32]
    position: NDArray[np.float32] | None
    token_type: NDArray[np.float32] | None
    embedding_norm: NormWeights
    layers: tuple[LayerWeights, ...]
    final_norm: NormWeights | None = None
    distance_bias: NDArray[np.float32] | None = None
    relative: NDArray[np.float32] | None = None
    relative_norm: NormWeights | None = None
    head: tuple[LinearWeights | NormWeights, ...] = ()
