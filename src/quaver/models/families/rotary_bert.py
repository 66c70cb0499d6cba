"""BERT with rotary positions: GTE v1.5 and mGTE ("new") and nomic-embed with a gate, jina-embeddings-v3 without.

Source:
    Zhang et al., mGTE (arXiv 2407.19669); Nussbaum et al., Nomic Embed (arXiv 2402.01613); Sturua et al.,
    jina-embeddings-v3 (arXiv 2409.10173)
"""

from __future__ import annotations

import re
from dataclasses import replace

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.config import Config
from quaver.models.families.family import (
    Family,
    LayerNames,
    Tensors,
    pooler_classifier,
    projection_classifier,
    take_norm,
)
from quaver.models.geometry import EncoderSpec, LayerSpec, Rotary
from quaver.models.tensors import NamedTensors

# Published folders, and those that transformers has saved under its own names.
_GTE = LayerNames(
    layers="encoder.layer",
    qkv=("attention.qkv_proj",),
    out="attention.o_proj",
    attention_norm="attn_ln",
    up=("mlp.up_gate_proj",),
    down="mlp.down_proj",
    output_norm="mlp_ln",
    up_bias=False,
)
_NOMIC = LayerNames(
    layers="encoder.layers",
    qkv=("attn.Wqkv",),
    out="attn.out_proj",
    attention_norm="norm1",
    up=("mlp.fc11", "mlp.fc12"),
    down="mlp.fc2",
    output_norm="norm2",
    qkv_bias=False,
    out_bias=False,
    up_bias=False,
    down_bias=False,
)
_SAVED = LayerNames(
    layers="layers",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    up=("mlp.up_proj", "mlp.gate_proj"),
    down="mlp.down_proj",
    output_norm="post_mlp_layernorm",
    up_bias=False,
)
_JINA = LayerNames(
    layers="encoder.layers",
    qkv=("mixer.Wqkv",),
    out="mixer.out_proj",
    attention_norm="norm1",
    up=("mlp.fc1",),
    down="mlp.fc2",
    output_norm="norm2",
)
_SAVED_JINA = replace(_SAVED, up=("mlp.fc1",), up_bias=True, down="mlp.fc2")
_SAVED_NOMIC = replace(_SAVED, qkv_bias=False, out_bias=False, down_bias=False)


def _gte_spec(config: Config) -> EncoderSpec:
    config.require(
        {
            "position_embedding_type": ("rope", None),
            "layer_norm_type": ("layer_norm", None),
            "logn_attention_scale": (False, None),
            "pack_qkv": (True, None),
        }
    )
    hidden, sizes = config.sizes(
        "hidden_size", "num_attention_heads", "intermediate_size", rotary=True
    )
    layer = LayerSpec(
        **sizes,
        activation=config.activation("hidden_act", "gelu"),
        gate="last",
        rotary=_gte_rotary(config, sizes["head_size"]),
    )
    return EncoderSpec(
        family="gte",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("num_hidden_layers"),
        max_positions=config.length("max_position_embeddings"),
        position_table=False,
        type_vocab_size=config.size("type_vocab_size", least=0, default=0),
        norm_eps=config.number("layer_norm_eps", default=1e-12),
    )


def _gte_rotary(config: Config, head_size: int) -> Rotary:
    theta = _saved_theta(config)
    if theta is not None:
        return Rotary(theta)
    theta = config.number("rope_theta", default=10_000.0)
    scaling = config.file.rope_scaling
    if scaling is None:
        return Rotary(theta)
    if scaling.type != "ntk" or scaling.mixed_b is not None:
        raise UnsupportedArchitectureError(
            f"config.json has rope_scaling={config.values['rope_scaling']!r}; {config.model_type} is supported with "
            "rope_scaling={'type': 'ntk', 'factor': ...}"
        )
    factor = scaling.factor
    if factor is None or factor < 1:
        raise ModelFolderError(
            f"config.json must have a factor from 1 in rope_scaling: got {factor}; NTK scaling makes "
            "texts longer"
        )
    return Rotary(theta * factor, factor ** (2 / head_size))


def _saved_theta(config: Config) -> float | None:
    """Return theta where transformers has saved it, as `rope_parameters`."""
    parameters = config.file.rope_parameters
    if parameters is None:
        return None
    if parameters.rope_type not in (None, "default"):
        raise UnsupportedArchitectureError(
            f"config.json has rope_parameters={config.values['rope_parameters']!r}; {config.model_type} is supported "
            "with rope_type='default'"
        )
    if parameters.rope_theta is None:
        return config.number("rope_theta")
    return parameters.rope_theta


def _nomic_spec(config: Config) -> EncoderSpec:
    config.require(
        {
            "rotary_emb_fraction": (1.0, None),
            "rotary_emb_interleaved": (False, None),
            "rotary_emb_scale_base": (None,),
            "rotary_scaling_factor": (None,),
            "qkv_proj_bias": (False, None),
            "mlp_fc1_bias": (False, None),
            "mlp_fc2_bias": (False, None),
            "prenorm": (False, None),
            "use_rms_norm": (False, None),
            "parallel_block": (False, None),
            "causal": (False, None),
            "moe_every_n_layers": (0, -1, None),
            "activation_function": ("swiglu", None),
        }
    )
    published = "n_embd" in config.values
    keys = ("n_embd", "n_head", "n_inner")
    if not published:
        keys = ("hidden_size", "num_attention_heads", "intermediate_size")
    hidden, sizes = config.sizes(*keys, rotary=True)
    theta = _saved_theta(config) or config.number("rotary_emb_base", default=1000.0)
    layer = LayerSpec(
        **sizes,
        activation="silu" if published else config.activation("hidden_act", "silu"),
        gate="last",
        rotary=Rotary(theta),
    )
    return EncoderSpec(
        family="nomic_bert",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("n_layer", "num_hidden_layers"),
        max_positions=config.length("n_positions", "max_position_embeddings"),
        position_table=False,
        type_vocab_size=config.size("type_vocab_size", least=0, default=2),
        norm_eps=config.number(
            "layer_norm_epsilon" if published else "layer_norm_eps", default=1e-12
        ),
    )


def _jina_spec(config: Config) -> EncoderSpec:
    config.require(
        {
            "position_embedding_type": ("rotary", "absolute", None),
            "rotary_emb_interleaved": (False, None),
        }
    )
    saved = config.model_type == "jina_embeddings_v3"
    hidden, sizes = config.sizes(
        "hidden_size", "num_attention_heads", "intermediate_size", rotary=True
    )
    theta = _saved_theta(config) or config.number(
        "rotary_emb_base", default=20_000.0 if saved else 10_000.0
    )
    layer = LayerSpec(
        **sizes, activation=config.activation("hidden_act", "gelu"), rotary=Rotary(theta)
    )
    return EncoderSpec(
        family="jina_embeddings_v3",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("num_hidden_layers"),
        max_positions=config.length("max_position_embeddings"),
        position_table=False,
        type_vocab_size=config.size("type_vocab_size", least=0, default=1),
        norm_eps=config.number("layer_norm_eps", default=1e-5),
    )


def _weights(
    names: LayerNames, norm: str, spec: EncoderSpec, named: NamedTensors
) -> EncoderWeights:
    hidden, types = spec.hidden_size, spec.type_vocab_size
    token_type = None
    if types:
        token_type = named.take("embeddings.token_type_embeddings.weight", types, hidden)
    return EncoderWeights(
        word=named.take("embeddings.word_embeddings.weight", spec.vocab_size, hidden),
        position=None,
        token_type=token_type,
        embedding_norm=take_norm(named, norm, hidden),
        layers=tuple(names.layer(spec, named, i) for i in range(len(spec.layers))),
    )


def _gte_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    saved = "layers.0.mlp.up_proj.weight" in named
    return _weights(_SAVED if saved else _GTE, "embeddings.LayerNorm", spec, named)


def _nomic_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    if "layers.0.mlp.up_proj.weight" in named:
        return _weights(_SAVED_NOMIC, "embeddings.LayerNorm", spec, named)
    return _weights(_NOMIC, "emb_ln", spec, named)


def _jina_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    if "layers.0.self_attn.q_proj.weight" in named:
        return _weights(_SAVED_JINA, "embeddings.LayerNorm", spec, named)
    return _weights(_JINA, "emb_ln", spec, named)


def _gte_split(spec: EncoderSpec, tensors: Tensors) -> Tensors:
    # "new" is the published code's own name, and that code reads the published names.
    return _GTE.renamed(tensors, _SAVED) if spec.model_type == "gte" else tensors


def _nomic_split(spec: EncoderSpec, tensors: Tensors) -> Tensors:
    split = _NOMIC.renamed(tensors, _SAVED_NOMIC)
    return {
        re.sub(r"(^|\.)emb_ln\.", r"\1embeddings.LayerNorm.", name): tensor
        for name, tensor in split.items()
    }


GTE = Family(_gte_spec, _gte_weights, pooler_classifier, split=_gte_split)
JINA_V3 = Family(_jina_spec, _jina_weights, projection_classifier)
NOMIC_BERT = Family(_nomic_spec, _nomic_weights, pooler_classifier, split=_nomic_split)
