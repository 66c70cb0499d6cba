"""config.json to an EncoderSpec, named tensors to EncoderWeights, by the model's family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from quaver.errors import PoolingError, UnsupportedArchitectureError, WeightsError
from quaver.models.encoder_weights import (
    EncoderWeights,
    LayersOnDemand,
    NormWeights,
    StoredTable,
)
from quaver.models.families.bert import (
    ALBERT,
    BERT,
    DISTILBERT,
    ELECTRA,
    ERNIE,
    JINA_BERT,
    MPNET,
    ROBERTA,
)
from quaver.models.families.config import Config
from quaver.models.families.deberta import DEBERTA_V2
from quaver.models.families.decoder import (
    EMBEDDING_GEMMA2,
    EUROBERT,
    GEMMA3,
    LLAMA,
    LLAMA_BIDIRECTIONAL,
    MISTRAL,
    QWEN2,
    QWEN3,
    QWEN3_BIDIRECTIONAL,
)
from quaver.models.families.family import Family, take_norm
from quaver.models.families.modernbert import MODERNBERT
from quaver.models.families.rotary_bert import GTE, JINA_V3, NOMIC_BERT
from quaver.models.families.t5 import T5
from quaver.models.geometry import POOLINGS, EncoderSpec
from quaver.models.head import DenseStep, HeadStep, WordHead
from quaver.models.linear import LinearWeights, dequantized
from quaver.models.quantization_config import is_quantized
from quaver.models.tensors import NamedTensors

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "ernie": ERNIE,
    "roberta": ROBERTA,
    "electra": ELECTRA,
    "albert": ALBERT,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "modernbert": MODERNBERT,
    "gte": GTE,
    "nomic_bert": NOMIC_BERT,
    "jina_bert": JINA_BERT,
    "jina_embeddings_v3": JINA_V3,
    "deberta-v2": DEBERTA_V2,
    "llama": LLAMA,
    "llama_bidirec": LLAMA_BIDIRECTIONAL,
    "eurobert": EUROBERT,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "bidirectional_pplx_qwen3": QWEN3_BIDIRECTIONAL,
    "gemma3_text": GEMMA3,
    "embedding_gemma2": EMBEDDING_GEMMA2,
    "t5": T5,
}
# model_type of config.json to the family.
_MODEL_TYPES = {
    **{name: name for name in FAMILIES},
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "new": "gte",
    "mt5": "t5",
    "embedding_gemma2_text": "embedding_gemma2",
}
SUPPORTED = tuple(_MODEL_TYPES)
_EXPERTS = "a mixture of experts"
_PICTURES = "a model of texts and pictures"
# Relatives of families that are supported, and what they are.
_RELATIVES = {
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "mixtral": _EXPERTS,
    "qwen2_vl": _PICTURES,
    "qwen2_5_vl": _PICTURES,
    "qwen3_vl": _PICTURES,
    "mllama": _PICTURES,
    "mistral3": _PICTURES,
    "gemma3": _PICTURES,
    "qwen3_next": "a hybrid with linear attention",
    "qwen3_5": "a hybrid with linear attention",
    "lfm2": "a hybrid with convolutions",
    "deberta": "DeBERTa of the first version, whose positions have projections of their own",
    "umt5": "a T5 whose layers have a bias of positions each",
    "longt5": "a T5 with attention to blocks of a text",
}


def encoder_spec(config: Mapping[str, Any], *, pooling: str | None, normalize: bool) -> EncoderSpec:
    """Read config.json and refuse what Quaver does not run.

    Args:
        config: config.json of the model.
        pooling: one of `POOLINGS`, or several joined by "+"; from the model folder or from the
            user, never a guess.
        normalize: whether vectors are divided by their length.

    Returns:
        the spec.

    Raises:
        UnsupportedArchitectureError: the model type, or an option, is not supported; both sides are
            named.
        ModelFolderError: a size is missing from config.json or is no positive number.
        PoolingError: pooling is None.
    """
    is_quantized(config)  # refuses layouts that Quaver does not read
    read = Config(config)
    spec = FAMILIES[_family(read)].spec(read)
    causal = any(layer.causal for layer in spec.layers)
    pooling = _pooling(pooling, read.file.architectures or (), "lasttoken" if causal else "cls")
    if spec.output_size is not None and "max" in pooling.split("+"):
        others = ", ".join(name for name in POOLINGS if name != "max")
        raise UnsupportedArchitectureError(
            f"a {spec.model_type} is projected after its pooling, which must be linear: got "
            f"pooling={pooling!r}; supported: {others}"
        )
    return replace(spec, pooling=pooling, normalize=normalize)


STATES_CAUSAL = ("qwen3", "qwen2", "mistral", "llama")
"""Model types whose tokens may see those after them or not, as config.json or the caller says."""

# How a reranker that generates words is recognized.
_WORDS_NEED = (
    "if it is a Qwen3-Reranker, give its folder that name (Qwen3-Reranker-0.6B, -4B or -8B), or a modules.json "
    "with Transformer and LogitScore"
)


def classifier_spec(config: Mapping[str, Any]) -> EncoderSpec:
    """Read config.json of a cross-encoder: an encoder with a classification head.

    Args:
        config: config.json of the model.

    Returns:
        the spec; `outputs` is the number of labels.

    Raises:
        UnsupportedArchitectureError: the model type, an option or the head is not supported.
        ModelFolderError: a size is missing from config.json or is no positive number.
    """
    read = Config(config)
    family = FAMILIES[_family(read)]
    classes = read.file.architectures or []
    if classes and not any("SequenceClassification" in name for name in classes):
        words = ""
        if any(name.endswith("ForCausalLM") for name in classes):
            words = f"; {_WORDS_NEED}"
        raise UnsupportedArchitectureError(
            "a cross-encoder has a classification head (architectures: "
            f"...ForSequenceClassification): config.json lists {', '.join(classes)}{words}; "
            "if it is an embedding model, rank with BiEncoderRanker(Embedder.from_pretrained(...))"
        )
    spec = family.spec(read)
    classifier = family.classifier(read, spec)
    return replace(spec, pooling=classifier.pooling, head=classifier.head)


def masked_lm_spec(
    config: Mapping[str, Any], *, pooling: str, logarithms: int, normalize: bool = False
) -> EncoderSpec:
    """Read config.json of a masked language model whose logits become weights of words.

    Args:
        config: config.json of the model.
        pooling: "max" or "sum" over the tokens.
        logarithms: 1 or 2, see `WordHead`.
        normalize: whether vectors are divided by their length.

    Returns:
        the spec; `outputs` is the size of the vocabulary.

    Raises:
        UnsupportedArchitectureError: the model type or an option is not supported, or Quaver has no
            masked-language-model head for the family.
        ModelFolderError: a size is missing from config.json or is no positive number.
    """
    is_quantized(config)
    read = Config(config)
    name = _family(read)
    family = FAMILIES[name]
    spec = family.spec(read)
    if family.masked_lm is None:
        having = ", ".join(key for key, value in FAMILIES.items() if value.masked_lm is not None)
        raise UnsupportedArchitectureError(
            f"sparse encoders are supported with the masked-language-model heads of {having}: got "
            f"model_type {read.model_type!r}"
        )
    head = family.masked_lm(read, spec)
    tied = read.file.tie_word_embeddings is not False
    words = replace(head.words, sum=pooling == "sum", logarithms=logarithms, tied=tied)
    return replace(spec, pooling="cls", normalize=normalize, head=head.steps, words=words)


def _family(config: Config) -> str:
    model_type = config.file.model_type
    # Jina's models call themselves a BERT and an XLM-RoBERTa; their positions tell them from those.
    if model_type == "bert" and config.file.position_embedding_type == "alibi":
        return "jina_bert"
    if model_type == "xlm-roberta" and config.file.position_embedding_type == "rotary":
        return "jina_embeddings_v3"
    if model_type == "ernie" and not config.flag("use_task_id", False):
        return "bert"
    if model_type in _RELATIVES:
        raise UnsupportedArchitectureError(
            f"model_type {model_type!r} is {_RELATIVES[model_type]}, which is not supported; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    if model_type not in _MODEL_TYPES:
        remote = "; its own code (auto_map) is never run" if config.values.get("auto_map") else ""
        raise UnsupportedArchitectureError(
            f"model_type {model_type!r} is not supported{remote}; supported: {', '.join(SUPPORTED)}"
        )
    return _MODEL_TYPES[model_type]


def _pooling(pooling: str | None, architectures: Sequence[str], usual: str) -> str:
    generates = [name for name in architectures if name.endswith("ForCausalLM")]
    if pooling is None and generates:
        raise PoolingError(
            f"{generates[0]} (architectures in config.json) generates text, and no modules.json says how its "
            "states become a vector; take an embedding model that was trained from it, or, if this is one, look "
            "its pooling up in the model's card and pass pooling='lasttoken' or pooling='mean'; "
            f"{_WORDS_NEED}, and open it with CrossEncoder.from_pretrained(...)"
        )
    if pooling is None:
        masked = any("ForMaskedLM" in name for name in architectures)
        sparse = "; if it is a sparse encoder, open it with SparseEncoder.from_pretrained(...)"
        raise PoolingError(
            "the model folder does not say how to pool (it has no modules.json), and with the "
            "wrong pooling the vectors look "
            f"healthy and are useless; look it up in the model's card and pass pooling={usual!r} or "
            f"pooling='mean'{sparse if masked else ''}"
        )
    names = pooling.split("+")
    if len(set(names)) < len(names):
        raise UnsupportedArchitectureError(f"a pooling may be named once: got {pooling[:200]!r}")
    for name in names:
        if name not in POOLINGS:
            raise UnsupportedArchitectureError(
                f"pooling {name!r} is not supported; supported: {', '.join(POOLINGS)}"
            )
    return pooling


def encoder_weights(spec: EncoderSpec, tensors: Mapping[str, NDArray[Any]]) -> EncoderWeights:
    """Pick the encoder's tensors by name; check shape, dtype and that every value is finite.

    A prefix such as "bert." is found and left out, old names (LayerNorm.gamma) are understood,
    tensors that the spec has no use for (poolers, other heads) ignored.

    Args:
        spec: the encoder.
        tensors: tensors by name, from the model folder.

    Returns:
        the weights; arrays are C-contiguous, views where possible; linear layers in float32 or
        int8, as the file has them.

    Raises:
        WeightsError: a tensor is missing, unexpected, has the wrong shape or dtype, or holds NaN or
            infinity; it is named.
    """
    family = FAMILIES[spec.family]
    named = NamedTensors(tensors, anchor=family.anchor)
    weights = family.weights(spec, named)
    owner = f"a {spec.model_type} of {len(spec.layers)} layers"
    if isinstance(weights.layers, LayersOnDemand):  # each is checked when it is taken
        named.require_layers("layers.", len(weights.layers), owner)
    else:
        for part in ("encoder.", "layers.", "transformer."):
            named.require_all_taken(part, owner)
    words = None
    if spec.words is not None:
        _require_words_head(named, spec)
        words = _words(named, spec, spec.words, weights)
    return replace(weights, head=_head(named, spec), words=words)


def split_tensors(
    spec: EncoderSpec, tensors: Mapping[str, NDArray[Any]]
) -> Mapping[str, NDArray[Any]]:
    """Return the tensors under the names of transformers' own class, which has no fused layers.

    transformers takes fused layers of a published file apart while loading, but not their scales.

    Args:
        spec: the encoder.
        tensors: tensors by name, in floats.

    Returns:
        tensors that `encoder_weights` reads as well; those that were taken apart are views.
    """
    split = FAMILIES[spec.family].split
    return tensors if split is None else split(spec, tensors)


def _head(named: NamedTensors, spec: EncoderSpec) -> tuple[LinearWeights | NormWeights, ...]:
    inputs, taken = spec.pooled_size, []
    for step in spec.head:
        taken.append(_step(named, step, inputs))
        inputs = step.outputs if isinstance(step, DenseStep) else inputs
    return tuple(taken)


def _require_words_head(named: NamedTensors, spec: EncoderSpec) -> None:
    first = next(step.name for step in spec.head if isinstance(step, DenseStep))
    if not named.has(f"{first}.weight"):
        raise WeightsError(
            f"a sparse encoder needs its masked-language-model head, but the weights lack {first}.weight; "
            "save the model as ...ForMaskedLM, or open an embedding model with "
            "Embedder.from_pretrained(...)"
        )


def _words(
    named: NamedTensors, spec: EncoderSpec, words: WordHead, weights: EncoderWeights
) -> LinearWeights:
    bias = next((name for name in words.biases if named.has(name)), words.biases[0])
    added = named.take(bias, spec.vocab_size)
    inputs = spec.hidden_size
    if not named.has(f"{words.name}.weight"):
        if not words.tied:
            raise WeightsError(
                f"a sparse encoder needs {words.name}.weight, because config.json says tie_word_embeddings=false: the "
                "weights lack it; download the model again"
            )
        word = weights.word[:] if isinstance(weights.word, StoredTable) else weights.word
        return LinearWeights(word, added)
    linear = dequantized(named.linear(words.name, spec.vocab_size, inputs, bias=False))
    return replace(linear, bias=added)


def _step(named: NamedTensors, step: HeadStep, inputs: int) -> LinearWeights | NormWeights:
    if isinstance(step, DenseStep):
        return dequantized(named.linear(step.name, step.outputs, inputs, bias=step.has_bias))
    return take_norm(named, step.name, inputs, bias=step.has_bias)
