"""A family: how config.json becomes a spec, how its tensors are named, what head it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.models.encoder_weights import EncoderWeights, LayerWeights, NormWeights
from quaver.models.families.config import Config
from quaver.models.geometry import EncoderSpec
from quaver.models.head import DenseStep, HeadStep, NormStep, WordHead
from quaver.models.linear import Linear, stacked
from quaver.models.tensors import NamedTensors
from quaver.models.weights_file import release_pages

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ClassifierSpec:
    """What a family's model for sequence classification does after the encoder.

    Attributes:
        pooling: which token vectors the head reads.
        head: its steps.
    """

    pooling: str
    head: tuple[HeadStep, ...]


@dataclass(frozen=True)
class MaskedLmSpec:
    """What a family's masked language model does after the encoder.

    Attributes:
        steps: what runs on each token's vector.
        words: the layer that follows.
    """

    steps: tuple[HeadStep, ...]
    words: WordHead


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        spec: config.json to a spec, pooling and head left as they are by default.
        weights: the tensors that a spec asks for, the head's left out.
        classifier: the head of the family's ...ForSequenceClassification.
        masked_lm: the head of the family's ...ForMaskedLM, where Quaver runs it.
        anchor: the tensor whose name tells the prefix of all others: the word embeddings, or one that
            every checkpoint has exactly once.
        tables: names that the table of words has, where the anchor is another tensor.
        split: the tensors under the names that transformers' own class has, where a published file
            has one tensor for what are several layers there; None where the names are the same.
    """

    spec: Callable[[Config], EncoderSpec]
    weights: Callable[[EncoderSpec, NamedTensors], EncoderWeights]
    classifier: Callable[[Config, EncoderSpec], ClassifierSpec]
    masked_lm: Callable[[Config, EncoderSpec], MaskedLmSpec] | None = None
    anchor: str = "embeddings.word_embeddings.weight"
    tables: tuple[str, ...] = ()
    split: Callable[[EncoderSpec, Tensors], Tensors] | None = None


def pooler_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    """BERT's head: classifier(tanh(pooler(h))), h the last state of the first token."""
    return ClassifierSpec(
        "cls",
        (
            DenseStep("pooler.dense", spec.hidden_size, "tanh"),
            DenseStep("classifier", config.labels(), "none"),
        ),
    )


def projection_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    """RoBERTa's head: out_proj(tanh(dense(h))), h the last state of the first token."""
    return ClassifierSpec(
        "cls",
        (
            DenseStep("classifier.dense", spec.hidden_size, "tanh"),
            DenseStep("classifier.out_proj", config.labels(), "none"),
        ),
    )


def transform_masked_lm(config: Config, spec: EncoderSpec) -> MaskedLmSpec:
    """BERT's head: a dense layer with the activation of the layers, LayerNorm, logits."""
    name = "cls.predictions"
    return MaskedLmSpec(
        (
            DenseStep(f"{name}.transform.dense", spec.hidden_size, spec.layers[0].activation),
            NormStep(f"{name}.transform.LayerNorm", spec.norm_eps),
        ),
        WordHead(f"{name}.decoder", (f"{name}.bias", f"{name}.decoder.bias")),
    )


def lm_head_masked_lm(config: Config, spec: EncoderSpec) -> MaskedLmSpec:
    """RoBERTa's head: a dense layer with GELU, LayerNorm, logits."""
    return MaskedLmSpec(
        (
            DenseStep("lm_head.dense", spec.hidden_size, "gelu"),
            NormStep("lm_head.layer_norm", spec.norm_eps),
        ),
        WordHead("lm_head.decoder", ("lm_head.bias", "lm_head.decoder.bias")),
    )


def joined(
    named: NamedTensors, names: Sequence[str], rows: Sequence[int], columns: int, bias: bool
) -> Linear:
    """Take linear layers that read the same input as one, the first on top."""
    parts = [
        named.linear(name, outputs, columns, bias=bias)
        for name, outputs in zip(names, rows, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    whole = stacked(parts)
    for part in parts:
        release_pages(part.weight)
    return whole


@dataclass(frozen=True)
class LayerNames:
    """The names inside a layer, for the families that have one tensor for each part.

    Attributes:
        layers: the name before the layer's number.
        qkv: query, key and value; or one name of all three, stacked.
        out: after the attention.
        attention_norm: see `LayerWeights`.
        up: the feed-forward part's first layer; with a gate both halves, or one name of both.
        down: its second.
        output_norm: see `LayerWeights`.
        qkv_bias: whether `qkv` has a bias; the next three the same for the others.
        norm_bias: whether a LayerNorm has one.
        head_norms: norms of the heads of query and key, where the layer has them.
        attention_post_norm: see `LayerWeights`; the next one too.
        norm_offset: what is added to the weight of an RMSNorm.
    """

    layers: str
    qkv: tuple[str, ...]
    out: str
    attention_norm: str
    up: tuple[str, ...]
    down: str
    output_norm: str
    qkv_bias: bool = True
    out_bias: bool = True
    up_bias: bool = True
    down_bias: bool = True
    norm_bias: bool = True
    head_norms: tuple[str, str] | None = None
    attention_post_norm: str | None = None
    output_post_norm: str | None = None
    norm_offset: float = 0.0

    def with_biases(self, parts: Sequence[str]) -> LayerNames:
        """Return the names with a bias for some of the parts "qkv", "out", "up" and "down"."""
        changes: dict[str, Any] = {f"{part}_bias": True for part in parts}
        return replace(self, **changes)

    def layer(
        self, spec: EncoderSpec, named: NamedTensors, i: int, *, first_norm: bool = True
    ) -> LayerWeights:
        """Take one layer; `first_norm` is false for a layer without an attention norm."""
        name, hidden, layer = f"{self.layers}.{i}", spec.hidden_size, spec.layers[i]

        def take(parts: tuple[str, ...], rows: tuple[int, ...], columns: int, bias: bool) -> Linear:
            names = [f"{name}.{part}" for part in parts]
            return joined(named, names, rows if len(parts) > 1 else [sum(rows)], columns, bias)

        def norm(part: str, size: int = hidden) -> NormWeights:
            if layer.norm == "rms":
                return rms_norm(named, f"{name}.{part}", size, self.norm_offset)
            return take_norm(named, f"{name}.{part}", size, bias=self.norm_bias)

        def norm_or_none(part: str | None, size: int = hidden) -> NormWeights | None:
            return None if part is None else norm(part, size)

        qkv = (layer.query_width, layer.kv_width, layer.kv_width)
        halves = layer.up_width // layer.intermediate_size
        query, key = self.head_norms or (None, None)
        return LayerWeights(
            qkv=take(self.qkv, qkv, hidden, self.qkv_bias),
            out=take((self.out,), (hidden,), layer.query_width, self.out_bias),
            attention_norm=norm(self.attention_norm) if first_norm else None,
            up=take(self.up, (layer.intermediate_size,) * halves, hidden, self.up_bias),
            down=take((self.down,), (hidden,), layer.intermediate_size, self.down_bias),
            output_norm=norm(self.output_norm),
            attention_post_norm=norm_or_none(self.attention_post_norm),
            output_post_norm=norm_or_none(self.output_post_norm),
            query_norm=norm_or_none(query, layer.head_size),
            key_norm=norm_or_none(key, layer.head_size),
        )

    def renamed(self, tensors: Tensors, other: LayerNames) -> Tensors:
        """Put the layers under other names; one tensor here may be several there.

        Args:
            tensors: tensors by name, with a prefix or without.
            other: the other names.

        Returns:
            all tensors; those that were taken apart are views.
        """
        places: dict[str, tuple[str, ...]] = {
            self.attention_norm: (other.attention_norm,),
            self.output_norm: (other.output_norm,),
            self.out: (other.out,),
            self.down: (other.down,),
        }
        for here, there in ((self.qkv, other.qkv), (self.up, other.up)):
            if len(here) == len(there):
                places.update((one, (another,)) for one, another in zip(here, there, strict=True))
            else:
                places[here[0]] = there
        pattern = re.compile(rf"(.*\.)?{re.escape(self.layers)}\.(\d+)\.(.+)\.([a-z_]+)")
        new: dict[str, NDArray[Any]] = {}
        for name, tensor in tensors.items():
            found = pattern.fullmatch(name)
            if found is None or found[3] not in places:
                new[name] = tensor
                continue
            parts = places[found[3]]
            for part, rows in zip(parts, np.split(tensor, len(parts)), strict=True):
                new[f"{found[1] or ''}{other.layers}.{found[2]}.{part}.{found[4]}"] = rows
        return new


def take_norm(named: NamedTensors, name: str, size: int, *, bias: bool = True) -> NormWeights:
    """Take a LayerNorm, under its new names (weight, bias) or its old ones (gamma, beta)."""
    gamma, beta = ("gamma", "beta") if named.has(f"{name}.gamma") else ("weight", "bias")
    return NormWeights(
        named.take(f"{name}.{gamma}", size),
        named.take(f"{name}.{beta}", size) if bias else named.zeros(size),
    )


def rms_norm(named: NamedTensors, name: str, size: int, offset: float = 0.0) -> NormWeights:
    """Take an RMSNorm whose factor is its weight plus an offset (1 in Gemma)."""
    gamma = named.take(f"{name}.weight", size)
    if offset:
        gamma = gamma + np.float32(offset)
    stored = named.stored(f"{name}.weight")
    return NormWeights(gamma, named.zeros(size), "rms", stored, offset)
