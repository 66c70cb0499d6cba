"""ModernBERT: norms first, rotary positions, a gate, most layers local.

Source:
    Warner et al., ModernBERT (arXiv 2412.13663)
"""

from __future__ import annotations

from dataclasses import replace

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.config import Config
from quaver.models.families.family import (
    ClassifierSpec,
    Family,
    LayerNames,
    MaskedLmSpec,
    take_norm,
)
from quaver.models.files import Rope
from quaver.models.geometry import EncoderSpec, LayerSpec, Rotary
from quaver.models.head import DenseStep, HeadStep, NormStep, WordHead
from quaver.models.tensors import NamedTensors

_EVERY_THIRD = 3
_THETAS = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
_OLD_THETAS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


def _spec(config: Config) -> EncoderSpec:
    biases = {"attention_bias": (False, None), "mlp_bias": (False, None)}
    config.require({**biases, "norm_bias": (False, None), "rope_scaling": (None,)})
    hidden, sizes = config.sizes(
        "hidden_size", "num_attention_heads", "intermediate_size", rotary=True
    )
    full = LayerSpec(
        **sizes,
        activation=config.activation("hidden_activation", "gelu"),
        gate="first",
        norm_places="before",
        rotary=_rotary(config, "full_attention"),
    )
    local = config.size("local_attention", least=2, default=128)
    sliding = replace(full, window=local // 2, rotary=_rotary(config, "sliding_attention"))
    kinds = {"full_attention": full, "sliding_attention": sliding}
    return EncoderSpec(
        family="modernbert",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=tuple(kinds[kind] for kind in _layer_types(config)),
        max_positions=config.length("max_position_embeddings"),
        position_table=False,
        type_vocab_size=0,
        norm_eps=config.number("norm_eps", default=1e-5),
    )


def _layer_types(config: Config) -> list[str]:
    layers = config.size("num_hidden_layers")
    kinds = config.file.layer_types
    if kinds is None:
        every = config.size("global_attn_every_n_layers", default=_EVERY_THIRD)
        return ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    if len(kinds) != layers or set(kinds) - set(_THETAS):
        raise ModelFolderError(
            f"config.json must have layer_types, one of {', '.join(_THETAS)} for each of {layers} "
            f"layers: got {kinds!r}"
        )
    return kinds


def _rotary(config: Config, kind: str) -> Rotary:
    parameters = config.file.rope_parameters or Rope()
    described = getattr(parameters, kind)
    for rope in (parameters, described or parameters):
        if rope.rope_type not in (None, "default"):
            raise UnsupportedArchitectureError(
                f"config.json has rope_type={rope.rope_type!r} in rope_parameters; modernbert is "
                "supported with rope_type='default'"
            )
    if described is not None:
        return Rotary(described.rope_theta or _THETAS[kind])
    # Old configurations may say null for the local layers: the same as the global ones.
    old = _OLD_THETAS[kind]
    if old in config.values and config.values[old] is None and kind != "full_attention":
        return _rotary(config, "full_attention")
    return Rotary(config.number(old, default=_THETAS[kind]))


_LAYER = LayerNames(
    layers="layers",
    qkv=("attn.Wqkv",),
    out="attn.Wo",
    attention_norm="attn_norm",
    up=("mlp.Wi",),
    down="mlp.Wo",
    output_norm="mlp_norm",
    qkv_bias=False,
    out_bias=False,
    up_bias=False,
    down_bias=False,
    norm_bias=False,
)


def _weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    hidden = spec.hidden_size
    return EncoderWeights(
        word=named.take("embeddings.tok_embeddings.weight", spec.vocab_size, hidden),
        position=None,
        token_type=None,
        embedding_norm=take_norm(named, "embeddings.norm", hidden, bias=False),
        layers=tuple(
            _LAYER.layer(spec, named, i, first_norm=i > 0) for i in range(len(spec.layers))
        ),
        final_norm=take_norm(named, "final_norm", hidden, bias=False),
    )


def _classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    pooling = config.values.get("classifier_pooling", "cls")
    config.require({"classifier_pooling": ("cls", "mean", None)})
    return ClassifierSpec(
        pooling or "cls",
        (*_prediction_head(config, spec), DenseStep("classifier", config.labels(), "none")),
    )


def _prediction_head(config: Config, spec: EncoderSpec) -> tuple[HeadStep, ...]:
    return (
        DenseStep(
            "head.dense",
            spec.hidden_size,
            config.head_activation("classifier_activation", "gelu"),
            config.flag("classifier_bias", False),
        ),
        NormStep("head.norm", spec.norm_eps, has_bias=False),
    )


def _masked_lm(config: Config, spec: EncoderSpec) -> MaskedLmSpec:
    config.require({"decoder_bias": (True, None)})
    return MaskedLmSpec(_prediction_head(config, spec), WordHead("decoder", ("decoder.bias",)))


MODERNBERT = Family(
    _spec, _weights, _classifier, _masked_lm, anchor="embeddings.tok_embeddings.weight"
)
