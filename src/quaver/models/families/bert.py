"""BERT and those that differ from it in embeddings and heads: RoBERTa, ELECTRA, ALBERT, Ernie, DistilBERT, MPNet."""

from __future__ import annotations

from dataclasses import replace

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights, LayerWeights
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
from quaver.models.files import MAX_LAYERS
from quaver.models.geometry import EncoderSpec, LayerSpec
from quaver.models.head import DenseStep, NormStep, WordHead
from quaver.models.linear import LinearWeights, dequantized
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
_ALBERT = LayerNames(
    layers="encoder.albert_layer_groups",
    qkv=("attention.query", "attention.key", "attention.value"),
    out="attention.dense",
    attention_norm="attention.LayerNorm",
    up=("ffn",),
    down="ffn_output",
    output_norm="full_layer_layer_norm",
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


def _ernie_spec(config: Config) -> EncoderSpec:
    return replace(_bert_spec(config), family="ernie")


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
    size = config.size("embedding_size", default=spec.hidden_size)
    return replace(
        spec, family="electra", embedding_size=None if size == spec.hidden_size else size
    )


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


def _weights(
    names: LayerNames,
    spec: EncoderSpec,
    named: NamedTensors,
    layers: tuple[LayerWeights, ...] = (),
) -> EncoderWeights:
    """Take everything under the names that BERT gave it, the layers under their own or as they are given."""
    types = spec.type_vocab_size
    position = token_type = bias = None
    word = named.take("embeddings.word_embeddings.weight", spec.vocab_size, spec.table_width)
    if spec.position_table:
        name = "embeddings.position_embeddings.weight"
        position = named.take(name, spec.max_positions, spec.table_width)
    if types:
        name = "embeddings.token_type_embeddings.weight"
        token_type = named.take(name, types, spec.table_width)
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
        embedding_norm=take_norm(named, "embeddings.LayerNorm", spec.table_width),
        layers=layers or tuple(names.layer(spec, named, i) for i in range(len(spec.layers))),
        distance_bias=bias,
    )


def _bert_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    return _weights(_BERT, spec, named)


def _ernie_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    """Add the embedding of task 0, which every token has, to the token types."""
    weights = _weights(_BERT, spec, named)
    assert weights.token_type is not None
    name = "embeddings.task_type_embeddings.weight"
    tasks = named.take(name, max(1, named.rows(name)), spec.hidden_size)
    return replace(weights, token_type=weights.token_type + tasks[:1])


def _jina_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    if "encoder.layer.0.attention.self.layer_norm_q.weight" in named:
        raise UnsupportedArchitectureError(
            "the weights have norms of query and key (layer_norm_q), as jina-embeddings-v2-base-code "
            "has; of Jina's second generation the models without them are supported, such as "
            "jina-embeddings-v2-base-en"
        )
    return _weights(_JINA, spec, named)


def _electra_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    weights = _weights(_BERT, spec, named)
    if spec.embedding_size is None:
        return weights
    return replace(weights, projection=_projection(spec, named, "embeddings_project"))


def _projection(spec: EncoderSpec, named: NamedTensors, name: str) -> LinearWeights:
    return dequantized(named.linear(name, spec.hidden_size, spec.table_width))


def _albert_spec(config: Config) -> EncoderSpec:
    config.require({"position_embedding_type": ("absolute", None)})
    spec = _absolute(
        Config({"hidden_act": "gelu_new", "layer_norm_eps": 1e-12, **config.values}), "albert"
    )
    inner = config.size("inner_group_num", default=1)
    layers = spec.layers * inner
    if len(layers) > MAX_LAYERS:
        raise ModelFolderError(
            f"a model has at most {MAX_LAYERS} layers: config.json has {len(spec.layers)} times "
            f"inner_group_num={inner}"
        )
    groups = config.size("num_hidden_groups", default=1)
    if len(spec.layers) < groups:
        raise ModelFolderError(
            f"config.json must have at least as many num_hidden_layers as num_hidden_groups: got "
            f"{len(spec.layers)} and {groups}"
        )
    return replace(
        spec,
        layers=layers,
        embedding_size=config.size("embedding_size", default=128),
        shared_layers=(groups, inner),
    )


def _albert_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    """Take each layer once: those of a group are the same ones again and again."""
    groups, inner = spec.shared_layers
    made = [
        [
            replace(_ALBERT, layers=f"{_ALBERT.layers}.{group}.albert_layers").layer(spec, named, i)
            for i in range(inner)
        ]
        for group in range(groups)
    ]
    rounds = len(spec.layers) // inner
    layers = [layer for i in range(rounds) for layer in made[int(i / (rounds / groups))]]
    weights = _weights(_ALBERT, spec, named, tuple(layers))
    return replace(
        weights, projection=_projection(spec, named, "encoder.embedding_hidden_mapping_in")
    )


def _albert_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    return ClassifierSpec(
        "cls",
        (
            DenseStep("pooler", spec.hidden_size, "tanh"),
            DenseStep("classifier", config.labels(), "none"),
        ),
    )


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
# With embeddings of tasks; an Ernie without them is a BERT.
ERNIE = Family(_ernie_spec, _ernie_weights, pooler_classifier, transform_masked_lm)
ROBERTA = Family(_roberta_spec, _bert_weights, projection_classifier, lm_head_masked_lm)
ELECTRA = Family(_electra_spec, _electra_weights, _electra_classifier)
ALBERT = Family(_albert_spec, _albert_weights, _albert_classifier)
DISTILBERT = Family(
    _distilbert_spec, _distilbert_weights, _distilbert_classifier, _distilbert_masked_lm
)
MPNET = Family(_mpnet_spec, _mpnet_weights, projection_classifier, lm_head_masked_lm)
JINA_BERT = Family(_jina_spec, _jina_weights, pooler_classifier)
