"""The encoder as data: everything that tells one architecture from another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from quaver.models.head import DenseStep, HeadStep

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Pooling = Literal["cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens"]
Gate = Literal["none", "first", "last"]
Bias = Literal["none", "relative", "alibi"]

# What the native kernels are made for: int32 sums without overflow, a packed key on the stack.
MAX_WIDTH = 65536
MAX_HEAD_SIZE = 1024
# The most tokens of a text where no table of positions sets a bound; eight times what published
# encoders read.
MAX_LENGTH = 65536
POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens")


@dataclass(frozen=True)
class Rotary:
    """Angles of a rotary position embedding: position * frequency_i, D features a head.

    Formula:
        frequency_i = theta^(-2i / D) / divisor, i in [0, D / 2)

    Attributes:
        theta: the base, already times the factor of NTK scaling where there is one.
        divisor: what NTK scaling divides every frequency by, factor^(2 / D); 1 without it.

    Source:
        Su et al., RoFormer (arXiv 2104.09864); NTK scaling: https://kexue.fm/archives/9706
    """

    theta: float
    divisor: float = 1.0


@dataclass(frozen=True)
class RelativePositions:
    """Relative positions with embeddings of their own, in disentangled attention.

    Near distances have a row of the table each; with `reach` those from span / 2 on share rows that
    widen with the logarithm.

    Attributes:
        span: S, half the rows of the table: as many for keys before the query as behind it.
        reach: the distance whose row is the last one; None has a row for every distance, up to S.
        norm: whether the table goes through a LayerNorm of its own.

    Source:
        He et al., DeBERTa (arXiv 2006.03654); the logarithm: He et al., DeBERTaV3
        (arXiv 2111.09543).
    """

    span: int
    reach: int | None = None
    norm: bool = False


@dataclass(frozen=True)
class AttentionSpec:
    """What the attention of one layer sees.

    Attributes:
        window: a token attends to those at most this far away, itself included; None for all.
        rotary: turns query and key by their positions; None for no rotation.
    """

    window: int | None = None
    rotary: Rotary | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder as data. Only values that Quaver runs.

    Attributes:
        family: which names its tensors have, a key of `FAMILIES`.
        model_type: as config.json names it.
        vocab_size: V, rows of the word embeddings.
        hidden_size: H, a multiple of `heads`.
        attention: one for each layer.
        heads: attention heads.
        intermediate_size: I, inner size of the feed-forward part.
        max_positions: P, `position_offset` plus the most tokens of a text.
        position_offset: position of the first token.
        position_table: whether positions have learned embeddings, P rows.
        type_vocab_size: rows of the token type embeddings; 0 for none.
        norm_eps: added to the variance in LayerNorm.
        norm_first: norms come before attention and feed-forward part, and one after the last layer,
            instead of after each of them and its residual.
        activation: of the feed-forward part; "gelu" is the exact one (erf).
        gate: "first": the first half of `up` goes through the activation and is multiplied with the
            second; "last": the other way round; "none": no gate.
        bias: what is added to a score for the places of query and key: "relative" learned for each
            distance, "alibi" a slope for each head.
        relative: relative positions that query and key attend to, None for none.
        pooling: how token vectors become one; several names joined by "+" are concatenated.
        normalize: whether the vector is divided by its length.
        head: what runs on the pooled vector, before it is normalized.
    """

    family: str
    model_type: str
    vocab_size: int
    hidden_size: int
    attention: tuple[AttentionSpec, ...]
    heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    norm_eps: float
    activation: Activation
    position_offset: int = 0
    position_table: bool = True
    norm_first: bool = False
    gate: Gate = "none"
    bias: Bias = "none"
    relative: RelativePositions | None = None
    pooling: str = "cls"
    normalize: bool = False
    head: tuple[HeadStep, ...] = ()

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.attention)

    @property
    def head_size(self) -> int:
        """D, the features of an attention head."""
        return self.hidden_size // self.heads

    @property
    def score_scale(self) -> float:
        """What a score is multiplied with: one over the root of D times the parts it is summed of."""
        parts = 1 if self.relative is None else 3
        return 1 / math.sqrt(parts * self.head_size)

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""
        return self.max_positions - self.position_offset

    def length_within(self, stated: int | None) -> int:
        """Return the most tokens of a text when a folder states a length of its own, or None."""
        return min(stated or self.max_length, self.max_length)

    @property
    def poolings(self) -> tuple[str, ...]:
        """The pooling modes whose vectors are concatenated."""
        return tuple(self.pooling.split("+"))

    @property
    def pooled_size(self) -> int:
        """The features of a pooled vector, before the head."""
        return self.hidden_size * len(self.poolings)

    @property
    def outputs(self) -> int:
        """The features of a result: of the last dense step of the head, else of the pooled vector."""
        widths = [step.outputs for step in self.head if isinstance(step, DenseStep)]
        return widths[-1] if widths else self.pooled_size
