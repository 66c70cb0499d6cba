"""BERT and those that differ from it in embeddings and heads: RoBERTa, ELECTRA, DistilBERT, MPNet."""

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
    lm_head_masked_lm,
    pooler_classifier,
    projection_classifier,
    take_norm,
    transform_masked_lm,
)
from quaver.models.geometry import EncoderSpec, LayerSpec
from quaver.models.head import DenseStep, NormStep, WordHead
from quaver.models.positions import alibi_bias, relative_bias
from quaver.models.tensors import NamedTensors

_BERT = LayerNames(
    layers="encoder.layer",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    output_norm="output.LayerNorm",
)
_JINA = replace(
    _BERT, up=("mlp.gated_layers",), up_bias=False, down="mlp.wo", output_norm="mlp.layernorm"
)
_MPNET = replace(
    _BERT,
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
_DISTILBERT = LayerNames(
    layers="transformer.layer",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up=("ffn.lin1",),
    down="ffn.lin2",
    output_norm="output_layer_norm",
)


def _bert_spec(config: Config) -> EncoderSpec:
    config.require({"position_embedding_type": ("absolute", None)})
    return _absolute(config, "bert")


def _absolute(config: Config, family: str) -> EncoderSpec:
    hidden, sizes = config.sizes("hidden_size", "num_attention_heads", "intermediate_size")
    layer = LayerSpec(**sizes, activation=config.activation("hidden_act"))
    return EncoderSpec(
        family=family,
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("num_hidden_layers"),
        max_positions=config.size("max_position_embeddings"),
        type_vocab_size=config.size("type_vocab_size"),
        norm_eps=config.number("layer_norm_eps"),
    )


def _roberta_spec(config: Config) -> EncoderSpec:
    # Positions count from after the padding id, which has a row of its own.
    offset = config.size("pad_token_id", least=0, default=1) + 1
    spec = replace(_bert_spec(config), family="roberta", position_offset=offset)
    if spec.max_length < 1:
        raise ModelFolderError(
            f"config.json must have more max_position_embeddings than pad_token_id + 1 ({offset}): "
            f"got {spec.max_positions}"
        )
    return spec


def _electra_spec(config: Config) -> EncoderSpec:
    spec = _bert_spec(config)
    config.require({"embedding_size": (spec.hidden_size, None)})
    return replace(spec, family="electra")


def _jina_spec(config: Config) -> EncoderSpec:
    config.require({"position_embedding_type": ("alibi",), "feed_forward_type": ("geglu", "reglu")})
    # The gate's activation is in its name; hidden_act is not read.
    reglu = config.values["feed_forward_type"] == "reglu"
    spec = replace(
        _absolute(Config({**config.values, "hidden_act": "gelu"}), "jina_bert"),
        max_positions=config.length("max_position_embeddings"),
        position_table=False,
        bias="alibi",
    )
    return spec.with_layers(gate="first", activation="relu" if reglu else "gelu")


def _mpnet_spec(config: Config) -> EncoderSpec:
    config.require({"relative_attention_num_buckets": (32, None)})
    values = {**config.values, "type_vocab_size": 1, "pad_token_id": 1}
    return replace(
        _roberta_spec(Config(values)), family="mpnet", type_vocab_size=0, bias="relative"
    )


def _distilbert_spec(config: Config) -> EncoderSpec:
    hidden, sizes = config.sizes("dim", "n_heads", "hidden_dim")
    layer = LayerSpec(**sizes, activation=config.activation("activation"))
    return EncoderSpec(
        family="distilbert",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("n_layers"),
        max_positions=config.size("max_position_embeddings"),
        type_vocab_size=0,
        norm_eps=1e-12,
    )


def _weights(names: LayerNames, spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    """Take everything under the names that BERT gave it, the layers under their own."""
    hidden, types = spec.hidden_size, spec.type_vocab_size
    position = token_type = bias = None
    word = named.take("embeddings.word_embeddings.weight", spec.vocab_size, hidden)
    if spec.position_table:
        name = "embeddings.position_embeddings.weight"
        position = named.take(name, spec.max_positions, hidden)
    if types:
        token_type = named.take("embeddings.token_type_embeddings.weight", types, hidden)
    if spec.bias == "alibi":
        bias = alibi_bias(spec.layers[0].heads, spec.max_length)
    if spec.bias == "relative":
        heads = spec.layers[0].heads
        table = named.take("encoder.relative_attention_bias.weight", 32, heads)
        bias = relative_bias(table, spec.max_length)
    return EncoderWeights(
        word=word,
        position=position,
        token_type=token_type,
        embedding_norm=take_norm(named, "embeddings.LayerNorm", hidden),
        layers=tuple(names.layer(spec, named, i) for i in range(len(spec.layers))),
        distance_bias=bias,
    )


def _bert_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    return _weights(_BERT, spec, named)


def _jina_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    if "encoder.layer.0.attention.self.layer_norm_q.weight" in named:
        raise UnsupportedArchitectureError(
            "the weights have norms of query and key (layer_norm_q), as jina-embeddings-v2-base-code "
            "has; of Jina's second generation the models without them are supported, such as "
            "jina-embeddings-v2-base-en"
        )
    return _weights(_JINA, spec, named)


def _mpnet_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    return _weights(_MPNET, spec, named)


def _distilbert_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    return _weights(_DISTILBERT, spec, named)


def _electra_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    head = projection_classifier(config, spec).head
    dense, out = head
    assert isinstance(dense, DenseStep)
    return ClassifierSpec("cls", (replace(dense, activation="gelu"), out))


def _distilbert_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    return ClassifierSpec(
        "cls",
        (
            DenseStep("pre_classifier", spec.hidden_size, "relu"),
            DenseStep("classifier", config.labels(), "none"),
        ),
    )


def _distilbert_masked_lm(config: Config, spec: EncoderSpec) -> MaskedLmSpec:
    return MaskedLmSpec(
        (
            DenseStep("vocab_transform", spec.hidden_size, spec.layers[0].activation),
            NormStep("vocab_layer_norm", spec.norm_eps),
        ),
        WordHead("vocab_projector", ("vocab_projector.bias",)),
    )


BERT = Family(_bert_spec, _bert_weights, pooler_classifier, transform_masked_lm)
ROBERTA = Family(_roberta_spec, _bert_weights, projection_classifier, lm_head_masked_lm)
ELECTRA = Family(_electra_spec, _bert_weights, _electra_classifier)
DISTILBERT = Family(
    _distilbert_spec, _distilbert_weights, _distilbert_classifier, _distilbert_masked_lm
)
MPNET = Family(_mpnet_spec, _mpnet_weights, projection_classifier, lm_head_masked_lm)
JINA_BERT = Family(_jina_spec, _jina_weights, pooler_classifier)
