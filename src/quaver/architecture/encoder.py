"""The encoder as data: its spec from config.json, its weights from named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.architecture.head import DenseStep, classification_head
from quaver.errors import (
    ModelFolderError,
    PoolingError,
    UnsupportedArchitectureError,
)
from quaver.linear import Linear, LinearWeights, dequantized, stacked
from quaver.mapped import release_pages
from quaver.named_tensors import NamedTensors
from quaver.quantization_config import is_quantized

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Pooling = Literal["cls", "mean"]

# What the native kernels are made for: int32 sums without overflow, a packed key on the stack.
MAX_WIDTH = 65536
MAX_HEAD_SIZE = 1024
SUPPORTED = ("bert",)
POOLINGS: tuple[Pooling, ...] = ("cls", "mean")
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Options of config.json that change the forward pass, with the values that leave it as Quaver runs
# it.
_REQUIRED_OPTIONS: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
}


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder as data. Only values that Quaver runs.

    Attributes:
        model_type: as config.json names it.
        vocab_size: V, rows of the word embeddings.
        hidden_size: H, a multiple of `heads`.
        layers: number of layers.
        heads: attention heads.
        intermediate_size: inner size of the feed-forward part.
        max_positions: P, rows of the position embeddings.
        position_offset: position of the first token.
        type_vocab_size: rows of the token type embeddings.
        norm_eps: added to the variance in LayerNorm.
        activation: of the feed-forward part; "gelu" is the exact one (erf).
        pooling: how token vectors become one.
        normalize: whether the pooled vector is divided by its length.
        head: what runs on the pooled vector, before it is normalised.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int
    position_offset: int
    type_vocab_size: int
    norm_eps: float
    activation: Activation
    pooling: Pooling
    normalize: bool
    head: tuple[DenseStep, ...] = ()

    @property
    def outputs(self) -> int:
        """The features of a result: of the last step of the head, else the hidden size."""
        return self.head[-1].outputs if self.head else self.hidden_size


@dataclass(frozen=True)
class NormWeights:
    """LayerNorm: gamma float32 (H,), beta float32 (H,)."""

    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """One layer.

    Attributes:
        qkv: weight (3H, H), the rows of query, key and value stacked.
        out: weight (H, H), behind the attention.
        attention_norm: behind `out` and its residual.
        up: weight (I, H), I the inner size.
        down: weight (H, I).
        output_norm: behind `down` and its residual.
    """

    qkv: Linear
    out: Linear
    attention_norm: NormWeights
    up: Linear
    down: Linear
    output_norm: NormWeights


@dataclass(frozen=True)
class EncoderWeights:
    """All weights.

    Attributes:
        word: float32 (V, H).
        position: float32 (P, H).
        token_type: float32 (types, H).
        embedding_norm: behind the sum of the three.
        layers: one for each layer.
        head: one for each step of the head.
    """

    word: NDArray[np.float32]
    position: NDArray[np.float32]
    token_type: NDArray[np.float32]
    embedding_norm: NormWeights
    layers: tuple[LayerWeights, ...]
    head: tuple[LinearWeights, ...] = ()


def encoder_spec(config: Mapping[str, Any], *, pooling: str | None, normalize: bool) -> EncoderSpec:
    """Read config.json and refuse what Quaver does not run.

    Args:
        config: config.json of the model.
        pooling: "cls" or "mean"; from the model folder or from the user, never a guess.
        normalize: whether pooled vectors are divided by their length.

    Returns:
        The spec.

    Raises:
        UnsupportedArchitectureError: the model type, or an option, is not supported; both sides are
            named.
        ModelFolderError: a size is missing from config.json or is no positive number.
        PoolingError: pooling is None.
    """
    model_type = config.get("model_type")
    if model_type not in SUPPORTED:
        raise UnsupportedArchitectureError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(SUPPORTED)}"
        )
    for key, values in _REQUIRED_OPTIONS.items():
        if config.get(key) not in values:
            raise UnsupportedArchitectureError(
                f"config.json has {key}={config[key]!r}; {model_type} is supported with "
                f"{key}={values[0]!r}"
            )
    is_quantized(config)  # refuses layouts that Quaver does not read
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if hidden % heads:
        raise ModelFolderError(
            f"hidden_size must be a multiple of num_attention_heads: got {hidden} and {heads} in "
            "config.json"
        )
    inner = _size(config, "intermediate_size")
    if max(hidden, inner) > MAX_WIDTH or hidden // heads > MAX_HEAD_SIZE:
        raise UnsupportedArchitectureError(
            f"supported are hidden_size and intermediate_size up to {MAX_WIDTH} and heads of up to "
            f"{MAX_HEAD_SIZE} features: got {hidden}, {inner} and {hidden // heads} in config.json"
        )
    return EncoderSpec(
        model_type=str(model_type),
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        intermediate_size=inner,
        max_positions=_size(config, "max_position_embeddings"),
        position_offset=0,
        type_vocab_size=_size(config, "type_vocab_size"),
        norm_eps=_norm_eps(config),
        activation=_activation(config),
        pooling=_pooling(pooling),
        normalize=normalize,
    )


def classifier_spec(config: Mapping[str, Any]) -> EncoderSpec:
    """Read config.json of a cross-encoder: an encoder with a classification head.

    Args:
        config: config.json of the model.

    Returns:
        The spec; `outputs` is the number of labels.

    Raises:
        UnsupportedArchitectureError: the model type, an option or the head is not supported.
        ModelFolderError: a size is missing from config.json or is no positive number.
    """
    spec = encoder_spec(config, pooling="cls", normalize=False)
    return replace(spec, head=classification_head(config, spec.hidden_size))


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelFolderError(
            f"config.json must have {key}, a positive whole number: got {value!r}"
        )
    return value


def _norm_eps(config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_eps")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ModelFolderError(
            f"config.json must have layer_norm_eps, a small positive number: got {value!r}"
        )
    return float(value)


def _activation(config: Mapping[str, Any]) -> Activation:
    name = config.get("hidden_act")
    if name not in _ACTIVATIONS:
        raise UnsupportedArchitectureError(
            f"config.json has hidden_act={name!r}; supported: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _pooling(pooling: str | None) -> Pooling:
    if pooling is None:
        raise PoolingError(
            "the model folder does not say how to pool (it has no modules.json), and with the "
            "wrong pooling the vectors look "
            "healthy and are useless; look it up in the model's card and pass pooling='cls' or "
            "pooling='mean'"
        )
    for supported in POOLINGS:
        if pooling == supported:
            return supported
    raise UnsupportedArchitectureError(
        f"pooling {pooling!r} is not supported; supported: {', '.join(POOLINGS)}"
    )


def encoder_weights(spec: EncoderSpec, tensors: Mapping[str, NDArray[Any]]) -> EncoderWeights:
    """Pick the encoder's tensors by name; check shape, dtype and that every value is finite.

    A prefix such as "bert." is found and left out, old names (LayerNorm.gamma) are understood,
    tensors that the spec has no use for (poolers, other heads) ignored.

    Args:
        spec: the encoder.
        tensors: tensors by name, as the model folder gives them.

    Returns:
        The weights; arrays are C-contiguous float32, views where possible.

    Raises:
        WeightsError: a tensor is missing, unexpected, has the wrong shape or dtype, or holds NaN or
            infinity; it is named.
    """
    named = NamedTensors(tensors, anchor="embeddings.word_embeddings.weight")
    hidden = spec.hidden_size
    weights = EncoderWeights(
        word=named.take("embeddings.word_embeddings.weight", spec.vocab_size, hidden),
        position=named.take("embeddings.position_embeddings.weight", spec.max_positions, hidden),
        token_type=named.take(
            "embeddings.token_type_embeddings.weight", spec.type_vocab_size, hidden
        ),
        embedding_norm=_norm(named, "embeddings.LayerNorm", hidden),
        layers=tuple(_layer(named, f"encoder.layer.{i}", spec) for i in range(spec.layers)),
        head=_head(named, spec),
    )
    named.require_all_taken("encoder.", f"a {spec.model_type} of {spec.layers} layers")
    return weights


def _layer(named: NamedTensors, name: str, spec: EncoderSpec) -> LayerWeights:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    parts = [
        named.linear(f"{name}.attention.self.{part}", hidden, hidden)
        for part in ("query", "key", "value")
    ]
    qkv = stacked(parts)
    for part in parts:
        release_pages(part.weight)
    return LayerWeights(
        qkv=qkv,
        out=named.linear(f"{name}.attention.output.dense", hidden, hidden),
        attention_norm=_norm(named, f"{name}.attention.output.LayerNorm", hidden),
        up=named.linear(f"{name}.intermediate.dense", inner, hidden),
        down=named.linear(f"{name}.output.dense", hidden, inner),
        output_norm=_norm(named, f"{name}.output.LayerNorm", hidden),
    )


def _head(named: NamedTensors, spec: EncoderSpec) -> tuple[LinearWeights, ...]:
    columns = [spec.hidden_size, *(step.outputs for step in spec.head)]
    return tuple(
        dequantized(named.linear(step.name, step.outputs, inputs))
        for step, inputs in zip(spec.head, columns, strict=False)
    )


def _norm(named: NamedTensors, name: str, size: int) -> NormWeights:
    gamma, beta = ("gamma", "beta") if f"{name}.gamma" in named else ("weight", "bias")
    return NormWeights(named.take(f"{name}.{gamma}", size), named.take(f"{name}.{beta}", size))
