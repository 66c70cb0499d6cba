"""The encoder of T5 and mT5, as in gtr, sentence-t5 and instructor.

RMSNorm before each half of a layer, scores without a scale, and a bias for the distance of two tokens that the first
layer has for all of them.

Source:
    Raffel et al., T5 (arXiv 1910.10683); modeling_t5.py of transformers 5.23.
"""

from __future__ import annotations

from dataclasses import replace

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.config import Config
from quaver.models.families.family import ClassifierSpec, Family, LayerNames, rms_norm
from quaver.models.geometry import MAX_LENGTH, DistanceBuckets, EncoderSpec, LayerSpec
from quaver.models.positions import relative_bias
from quaver.models.tensors import NamedTensors

_PLAIN = LayerNames(
    layers="encoder.block",
    qkv=("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"),
    out="layer.0.SelfAttention.o",
    attention_norm="layer.0.layer_norm",
    up=("layer.1.DenseReluDense.wi",),
    down="layer.1.DenseReluDense.wo",
    output_norm="layer.1.layer_norm",
    qkv_bias=False,
    out_bias=False,
    up_bias=False,
    down_bias=False,
)
_GATED = replace(_PLAIN, up=("layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"))
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_FINAL_NORM = "encoder.final_layer_norm"
# A checkpoint has the table of words under one of these names, or under both.
_WORDS = ("encoder.embed_tokens.weight", "shared.weight")


def _spec(config: Config) -> EncoderSpec:
    hidden, sizes = config.t5_sizes()
    stated = config.file.feed_forward_proj or "relu"
    *gate, name = stated.split("-")
    if gate not in ([], ["gated"]):
        raise UnsupportedArchitectureError(
            f"config.json has feed_forward_proj={stated!r}; {config.model_type} is supported with an "
            "activation, or 'gated-' before one"
        )
    # What T5 calls gated-gelu is the approximation with tanh; any other name is what it says.
    activation = "gelu_new" if stated == "gated-gelu" else name
    buckets = DistanceBuckets(
        config.size("relative_attention_num_buckets", least=4, default=32),
        config.size("relative_attention_max_distance", default=128),
    )
    if buckets.reach <= buckets.count // 4:
        raise ModelFolderError(
            "config.json must have relative_attention_max_distance above a quarter of "
            f"relative_attention_num_buckets: got {buckets.reach} and {buckets.count}"
        )
    layer = LayerSpec(
        **sizes,
        activation=config.activation_named("feed_forward_proj", activation),
        gate="first" if gate else "none",
        norm="rms",
        norm_places="before",
        attention_scale=1.0,
    )
    return EncoderSpec(
        family="t5",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("num_layers"),
        max_positions=MAX_LENGTH,
        position_table=False,
        type_vocab_size=0,
        norm_eps=config.number("layer_norm_epsilon", default=1e-6),
        bias="relative",
        buckets=buckets,
    )


def _weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    assert spec.buckets is not None
    hidden, first = spec.hidden_size, spec.layers[0]
    names = _PLAIN if first.gate == "none" else _GATED
    words = next((name for name in _WORDS if name in named), _WORDS[-1])
    table = named.take(_BIAS, spec.buckets.count, first.heads)
    return EncoderWeights(
        word=named.take(words, spec.vocab_size, hidden),
        position=None,
        token_type=None,
        embedding_norm=None,
        layers=tuple(names.layer(spec, named, i) for i in range(len(spec.layers))),
        final_norm=rms_norm(named, _FINAL_NORM, hidden),
        distance_bias=relative_bias(table, spec.max_length, spec.buckets.reach),
    )


def _classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    raise UnsupportedArchitectureError(
        f"the classification head of a {config.model_type} reads its decoder, which is not supported; its "
        "encoder is, as an embedding model"
    )


T5 = Family(_spec, _weights, _classifier, anchor=f"{_FINAL_NORM}.weight", tables=_WORDS)
