"""DeBERTa v2 and v3: disentangled attention, content and relative position apart.

Source:
    He et al., DeBERTa (arXiv 2006.03654); He et al., DeBERTaV3 (arXiv 2111.09543)
"""

from __future__ import annotations

import math

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.config import Config
from quaver.models.families.family import ClassifierSpec, Family, LayerNames, take_norm
from quaver.models.geometry import EncoderSpec, LayerSpec, RelativePositions
from quaver.models.head import DenseStep
from quaver.models.tensors import NamedTensors

_LAYER = LayerNames(
    layers="encoder.layer",
    qkv=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    output_norm="output.LayerNorm",
)


def _spec(config: Config) -> EncoderSpec:
    hidden, sizes = config.sizes("hidden_size", "num_attention_heads", "intermediate_size")
    config.require(
        {
            "relative_attention": (True,),
            "share_att_key": (True,),
            "conv_kernel_size": (0, None),
            "embedding_size": (hidden, None),
            "attention_head_size": (sizes["head_size"], None),
            "norm_rel_ebd": ("layer_norm", "none", None),
        }
    )
    _require_both_parts(config)
    positions = config.size("max_position_embeddings")
    table = config.flag("position_biased_input", True)
    layer = LayerSpec(
        **sizes,
        activation=config.activation("hidden_act", "gelu"),
        attention_scale=1 / math.sqrt(3 * sizes["head_size"]),  # a score is a sum of three
    )
    return EncoderSpec(
        family="deberta-v2",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("num_hidden_layers"),
        max_positions=positions if table else config.length("max_position_embeddings"),
        position_table=table,
        type_vocab_size=config.size("type_vocab_size", least=0, default=0),
        norm_eps=config.number("layer_norm_eps", default=1e-7),
        relative=_relative(config, positions),
    )


def _relative(config: Config, positions: int) -> RelativePositions:
    def stated(key: str, least: int) -> int | None:
        return None if getattr(config.file, key) in (None, -1) else config.size(key, least=least)

    norm = config.values.get("norm_rel_ebd") == "layer_norm"
    buckets = stated("position_buckets", 4)
    reach = stated("max_relative_positions", 1) or positions
    if buckets is None:
        return RelativePositions(reach, None, norm)
    if reach <= buckets // 2 + 1:
        raise ModelFolderError(
            f"config.json has position_buckets={buckets} for distances up to {reach} "
            "(max_relative_positions, else max_position_embeddings); half of the buckets must be "
            "less than the largest distance"
        )
    return RelativePositions(buckets, reach, norm)


def _require_both_parts(config: Config) -> None:
    """Check that scores have the parts content to position and position to content."""
    kinds = config.file.pos_att_type
    names = kinds.split("|") if isinstance(kinds, str) else kinds or []
    if {name.strip().lower() for name in names} != {"c2p", "p2c"}:
        raise UnsupportedArchitectureError(
            f"config.json has pos_att_type={kinds!r}; {config.model_type} is supported with "
            "pos_att_type=['p2c', 'c2p']"
        )


def _weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    assert spec.relative is not None
    hidden, types = spec.hidden_size, spec.type_vocab_size
    position = token_type = None
    if spec.position_table:
        name = "embeddings.position_embeddings.weight"
        position = named.take(name, spec.max_positions, hidden)
    if types:
        token_type = named.take("embeddings.token_type_embeddings.weight", types, hidden)
    return EncoderWeights(
        word=named.take("embeddings.word_embeddings.weight", spec.vocab_size, hidden),
        position=position,
        token_type=token_type,
        embedding_norm=take_norm(named, "embeddings.LayerNorm", hidden),
        layers=tuple(_LAYER.layer(spec, named, i) for i in range(len(spec.layers))),
        relative=named.take("encoder.rel_embeddings.weight", 2 * spec.relative.span, hidden),
        relative_norm=take_norm(named, "encoder.LayerNorm", hidden) if spec.relative.norm else None,
    )


def _classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    """Return the context pooler: a dense layer on the first token."""
    hidden = spec.hidden_size
    config.require({"pooler_hidden_size": (hidden, None)})
    activation = config.head_activation("pooler_hidden_act", "gelu")
    return ClassifierSpec(
        "cls",
        (
            DenseStep("pooler.dense", hidden, activation),
            DenseStep("classifier", config.labels(), "none"),
        ),
    )


DEBERTA_V2 = Family(_spec, _weights, _classifier)
