"""The weights of an encoder, as its EncoderSpec describes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.models.geometry import NormKind
from quaver.models.linear import Linear, LinearWeights


@dataclass(frozen=True)
class StoredTable:
    """Word embeddings as they are in the file; rows are widened when they are read.

    Attributes:
        rows: (V, H): float16; uint16, the bits of bfloat16; or int8.
        kind: which of them.
        scale: float32 (V,), what the integers of a row are multiplied with; None for floats.
    """

    rows: NDArray[Any]
    kind: Literal["float16", "bfloat16", "int8"]
    scale: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Return V."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return rows in float32; an index along the first dimension, as of an array."""
        rows = self.rows[index]
        if self.kind == "bfloat16":
            bits: NDArray[np.uint32] = rows.astype(np.uint32) << np.uint32(16)
            return bits.view(np.float32)
        wide: NDArray[np.float32] = rows.astype(np.float32)
        if self.scale is not None:
            wide *= self.scale[index][..., None]
        return wide

    def copy(self) -> StoredTable:
        """Return a copy that is not mapped from a file."""
        scale = None if self.scale is None else self.scale.copy()
        return StoredTable(self.rows.copy(), self.kind, scale)


@dataclass(frozen=True)
class NormWeights:
    """LayerNorm or RMSNorm.

    Attributes:
        gamma: float32 (H,); where a checkpoint multiplies with 1 + w, this is the sum.
        beta: float32 (H,), zeros if the model has none; an RMSNorm ignores it.
        kind: which norm.
        stored: the name of an RMSNorm's weight in the file; "" where it is unknown.
        offset: what was added to that weight.
    """

    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    kind: NormKind = "layer"
    stored: str = ""
    offset: float = 0.0


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Its linear layers are `qkv`, `out`, `up` and `down`, whatever the family.

    Attributes:
        qkv: weight ((Hq + 2 Hkv) D, H), the rows of query, key and value stacked.
        out: weight (H, Hq D), after the attention.
        attention_norm: of the attention: after `out` and its residual, or before `qkv` if
            norms come first; None if there is no norm (the first layer of a ModernBERT).
        up: weight (I, H), I the inner size; (2I, H) with a gate.
        down: weight (H, I).
        output_norm: of the feed-forward part: after `down` and its residual, or before `up`.
        attention_post_norm: of the output of `out`, before its residual is added; None unless norms
            are on both sides.
        output_post_norm: of the output of `down` likewise.
        query_norm: of each head of the query, (D,), if the layer has `head_norms`.
        key_norm: of each head of the key likewise.
        value_norm: of each head of the value, if the layer has `value_norm`.
        input: weight (P, H), of a token's embedding e, if the layer has an `input_size`. At the layer's
            end x grows by input_post_norm(input_out(act(input_gate(x)) * input_norm(input(e)))).
        input_norm: (P,).
        input_gate: weight (P, H).
        input_out: weight (H, P).
        input_post_norm: (H,).
        scale: what the layer's result is multiplied with.
    """

    qkv: Linear
    out: Linear
    attention_norm: NormWeights | None
    up: Linear
    down: Linear
    output_norm: NormWeights
    attention_post_norm: NormWeights | None = None
    output_post_norm: NormWeights | None = None
    query_norm: NormWeights | None = None
    key_norm: NormWeights | None = None
    value_norm: NormWeights | None = None
    input: Linear | None = None
    input_norm: NormWeights | None = None
    input_gate: Linear | None = None
    input_out: Linear | None = None
    input_post_norm: NormWeights | None = None
    scale: float = 1.0


class LayersOnDemand(Sequence[LayerWeights]):
    """Layers that are read whenever they are taken, so that one is in memory and not all of them."""

    def __init__(self, count: int, take: Callable[[int], LayerWeights]) -> None:
        """Describe the layers.

        Args:
            count: how many there are.
            take: reads and checks one.
        """
        self._count, self._take = count, take

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Read a layer, or a tuple of them for a slice."""
        if isinstance(index, slice):
            return tuple(self._take(i) for i in range(*index.indices(self._count)))
        return self._take(range(self._count)[index])


@dataclass(frozen=True)
class EncoderWeights:
    """The weights of an encoder.

    Attributes:
        word: (V, E), float32 or as stored; E = H without a projection.
        position: float32 (P, E), or None.
        token_type: float32 (types, E), or None.
        embedding_norm: after the sum of the three; None without a norm.
        projection: after that, weight (H, E); None without one.
        layers: one for each layer.
        final_norm: after the last layer if norms come first, else None.
        output_projection: after that, weight (spec.output_size, H) in the natural order; None without one.
        distance_bias: float32 (heads, 2R - 1), R = spec.max_length: entry [h, j - i + R - 1] is
            added to the score of query i and key j in head h; None without such a bias.
        relative: float32 (2S, H), the embeddings of relative positions, which the query and key
            projections of every layer transform like token states; None without them.
        relative_norm: of `relative`; None without a norm.
        head: one for each step of the head.
        words: from a token's vector to a logit for each word, weight (V, K); None without words.
        order: int32 (H,), the order of the hidden dimension in layers and norms: feature c there is
            feature order[c] of the tables and of pooled vectors, which are in the natural order.
            None for the natural order everywhere; see `quaver.models.reordered`.
        wide: int32 (W,), W a multiple of 64: features of the hidden dimension whose values are much
            wider than those of others. `qkv` and `up` in int8 find a range for them and one for all
            others. None for one range.
    """

    word: NDArray[np.float32] | StoredTable
    position: NDArray[np.float32] | None
    token_type: NDArray[np.float32] | None
    embedding_norm: NormWeights | None
    layers: Sequence[LayerWeights]
    projection: LinearWeights | None = None
    final_norm: NormWeights | None = None
    output_projection: LinearWeights | None = None
    distance_bias: NDArray[np.float32] | None = None
    relative: NDArray[np.float32] | None = None
    relative_norm: NormWeights | None = None
    head: tuple[LinearWeights | NormWeights, ...] = ()
    words: LinearWeights | None = None
    order: NDArray[np.int32] | None = None
    wide: NDArray[np.int32] | None = None
