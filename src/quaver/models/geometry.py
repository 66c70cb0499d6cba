"""The encoder as data: everything that tells one architecture from another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from quaver.models.head import DenseStep, HeadStep, WordHead

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Pooling = Literal["cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
Gate = Literal["none", "first", "last"]
NormKind = Literal["layer", "rms"]
NormPlaces = Literal["after", "before", "both"]
Bias = Literal["none", "relative", "alibi"]

# What the native kernels are made for: int32 sums without overflow, a packed key on the stack.
MAX_WIDTH = 65536
MAX_HEAD_SIZE = 1024
# The maximum number of tokens in a text where no table of positions sets a bound; eight times what published
# encoders read.
MAX_LENGTH = 65536
POOLINGS: tuple[Pooling, ...] = (
    "cls",
    "mean",
    "max",
    "lasttoken",
    "mean_sqrt_len_tokens",
    "weightedmean",
)


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequencies of Llama 3.1: slow ones divided, fast ones kept, a blend between them.

    Formula:
        turns = original * frequency / 2 pi
        blend = (turns - low) / (high - low), kept in [0, 1]
        frequency * ((1 - blend) / factor + blend)

    Attributes:
        factor: what slow frequencies are divided by.
        low: turns within the original length at which a frequency is slow.
        high: turns at which it is fast, more than `low`.
        original: positions that the model was trained on first.
    """

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True)
class YarnScaling:
    """Frequencies of YaRN: as Llama's, with a blend that is linear in the feature's number.

    Formula:
        place(turns) = D log(original / (2 pi turns)) / (2 log theta)
        low = max(place(fast), 0), high = min(place(slow), D - 1)
        blend_i = 1 - (i - low) / (high - low), kept in [0, 1]
        frequency_i * ((1 - blend_i) / factor + blend_i)

    Attributes:
        factor: what slow frequencies are divided by.
        magnitude: what cosine and sine are multiplied with.
        fast: turns within the original length from which a frequency is kept.
        slow: turns up to which it is divided.
        original: positions that the model was trained on first.
        whole: whether `low` is rounded down and `high` up.

    Source:
        Peng et al., YaRN (arXiv 2309.00071)
    """

    factor: float
    magnitude: float
    fast: float
    slow: float
    original: int
    whole: bool = True


@dataclass(frozen=True)
class Rotary:
    """Angles of a rotary position embedding: position * frequency_i, D features a head.

    Formula:
        frequency_i = theta^(-2i / D) / divisor, i in [0, D / 2)

    Attributes:
        theta: the base, already times the factor of NTK scaling where there is one.
        divisor: what every frequency is divided by: factor^(2 / D) with NTK scaling, the factor with
            linear scaling; 1 without.
        scaling: how frequencies change by their speed, None for not at all.

    Source:
        Su et al., RoFormer (arXiv 2104.09864); NTK scaling: https://kexue.fm/archives/9706
    """

    theta: float
    divisor: float = 1.0
    scaling: Llama3Scaling | YarnScaling | None = None


@dataclass(frozen=True)
class DistanceBuckets:
    """How distances share the rows of a learned bias: half of the rows for keys after the query.

    In each half, the first half of the rows has one distance each; the others widen with the logarithm.

    Attributes:
        count: rows, at least four.
        reach: the distance from which all share the last row, more than a quarter of the rows.

    Source:
        Raffel et al., T5 (arXiv 1910.10683).
    """

    count: int
    reach: int


@dataclass(frozen=True)
class RelativePositions:
    """Relative positions with embeddings of their own, in disentangled attention.

    Near distances have a row of the table each; with `reach` those from span / 2 on share rows that
    widen with the logarithm.

    Attributes:
        span: S, half the rows of the table: as many for keys before the query as after it.
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
class LayerSpec:
    """One layer.

    Attributes:
        heads: Hq, heads of the query.
        kv_heads: Hkv, heads of key and value, a divisor of `heads`; query head h reads the keys and
            values of head h // (heads // kv_heads).
        head_size: D, features of a head.
        intermediate_size: I, inner size of the feed-forward part.
        activation: of the feed-forward part; "gelu" is the exact one (erf).
        gate: "first": the first half of `up` goes through the activation and is multiplied with the
            second; "last": the other way round; "none": no gate.
        norm: the kind of its norms: "layer" is LayerNorm, "rms" RMSNorm.
        norm_places: where attention and feed-forward part f have their norms: "after":
            norm(x + f(x)); "before": x + f(norm(x)); "both": x + norm'(f(norm(x))).
        head_norms: whether every head of query and key goes through a norm before rotation.
        value_norm: the same for values.
        window: a token attends to those at most this far away; None for all.
        causal: a token attends to none after it.
        rotary: rotates query and key by their positions; None for no rotation.
        attention_scale: what scores are multiplied with; None for one over the root of D.
        input_size: P, features that the layer makes of a token's embedding, see `LayerWeights`; 0 for
            none.
    """

    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    activation: Activation
    gate: Gate = "none"
    norm: NormKind = "layer"
    norm_places: NormPlaces = "after"
    head_norms: bool = False
    value_norm: bool = False
    window: int | None = None
    causal: bool = False
    rotary: Rotary | None = None
    attention_scale: float | None = None
    input_size: int = 0

    @property
    def query_width(self) -> int:
        """The features of all heads of the query."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """The features of all heads of the key; as many of the value."""
        return self.kv_heads * self.head_size

    @property
    def up_width(self) -> int:
        """The outputs of the feed-forward part's first layer."""
        return self.intermediate_size * (1 if self.gate == "none" else 2)

    @property
    def score_scale(self) -> float:
        """What scores are multiplied with."""
        if self.attention_scale is not None:
            return self.attention_scale
        return 1 / math.sqrt(self.head_size)


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder as data. Only values that Quaver runs.

    Attributes:
        family: which names its tensors have, a key of `FAMILIES`.
        model_type: as config.json names it.
        vocab_size: V, rows of the word embeddings.
        hidden_size: H.
        layers: one for each layer.
        max_positions: P, `position_offset` plus the maximum number of tokens in a text.
        type_vocab_size: rows of the token type embeddings; 0 for none.
        norm_eps: added to the variance in every norm.
        position_offset: position of the first token.
        position_table: whether positions have learned embeddings, P rows.
        embedding_scale: what word embeddings are multiplied with.
        embedding_size: E, features of the tables of embeddings, where a projection makes H of them after
            the norm; None for H without a projection.
        output_size: what the last states are projected to before they are pooled; None for H without a
            projection.
        bias: what is added to a score for the positions of query and key: "relative" learned for
            each distance, "alibi" a slope for each head.
        buckets: how distances share the rows of a "relative" bias; None for MPNet's, 32 up to 128.
        relative: relative positions that query and key attend to, None for none.
        pooling: how token vectors become one; several names joined by "+" are concatenated.
        normalize: whether the vector is divided by its length.
        head: what runs on the pooled vector, before it is normalized; on each token's vector where
            there are words.
        words: what makes a weight for each word of the vocabulary instead of a pooled vector.
        shared_layers: of a model whose layers share weights, into how many groups they are divided, and
            how many layers of its own each group repeats; (0, 0) for others.
        biases: which of a layer's parts ("qkv", "out", "up", "down") have a bias, in families where
            config.json decides it.
    """

    family: str
    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    max_positions: int
    type_vocab_size: int
    norm_eps: float
    position_offset: int = 0
    position_table: bool = True
    embedding_scale: float = 1.0
    embedding_size: int | None = None
    output_size: int | None = None
    bias: Bias = "none"
    buckets: DistanceBuckets | None = None
    relative: RelativePositions | None = None
    pooling: str = "cls"
    normalize: bool = False
    head: tuple[HeadStep, ...] = ()
    words: WordHead | None = None
    shared_layers: tuple[int, int] = (0, 0)
    biases: tuple[str, ...] = ()

    def with_layers(self, **changes: Any) -> EncoderSpec:
        """Return the spec with fields of every layer changed."""
        return replace(self, layers=tuple(replace(layer, **changes) for layer in self.layers))

    @property
    def max_length(self) -> int:
        """The maximum number of tokens in a text."""
        return self.max_positions - self.position_offset

    def length_within(self, stated: int | None) -> int:
        """Return the maximum number of tokens in a text when a folder states a length of its own, or None."""
        return min(stated or self.max_length, self.max_length)

    @property
    def table_width(self) -> int:
        """The features of the tables of embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def poolings(self) -> tuple[str, ...]:
        """The pooling modes whose vectors are concatenated."""
        return tuple(self.pooling.split("+"))

    @property
    def pooled_size(self) -> int:
        """The features of a pooled vector, before the head."""
        return (self.output_size or self.hidden_size) * len(self.poolings)

    @property
    def outputs(self) -> int:
        """The features of a result: words, else of the last dense step of the head, else of the pooled vector."""
        if self.words is not None:
            return self.vocab_size
        widths = [step.outputs for step in self.head if isinstance(step, DenseStep)]
        return widths[-1] if widths else self.pooled_size
