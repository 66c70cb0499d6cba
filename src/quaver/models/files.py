"""The JSON files of a model folder: read within bounds and checked against a schema.

Folders are untrusted. Every key that Quaver reads is listed here with its type and range; other
keys are ignored.

Why msgspec: its types are strict (no text becomes a number, no true becomes 1), and it loads in 12 ms
of CPU time; pydantic takes 130 ms for the same.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct

from quaver.errors import ModelFolderError

MAX_JSON_BYTES = 8 << 20
MAX_DEPTH = 64
# Limits far above every published encoder: a larger value is damage or an attack.
MAX_LAYERS = 1024
MAX_HEADS = 512

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "|": "or",
}
_POINTER = b"version https://git-lfs.github.com/spec/"
# A bracket, or a whole string. Its closing quote is optional, so that no start is tried twice.
_BRACKET = re.compile(r'[][{}]|"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)

File = TypeVar("File")
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Whole = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Layers = Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
Heads = Annotated[int, Meta(ge=1, le=MAX_HEADS)]
Base = Annotated[float, Meta(gt=0, le=1e15)]
Factor = Annotated[float, Meta(gt=0, le=1e6)]
Epsilon = Annotated[float, Meta(gt=0, lt=1)]
Length = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1)]


# --- quantization_config of config.json -----------------------------------------------------------
class Scheme(Struct, frozen=True):
    """How the weights or inputs of a group are quantized, in the format of compressed-tensors."""

    num_bits: int | None = None
    type: str | None = None
    symmetric: bool | None = None
    strategy: str | None = None
    group_size: int | None = None
    dynamic: bool | str | None = None


class Group(Struct, frozen=True):
    """Layers that are quantized the same way."""

    targets: list[str] | None = None
    weights: Scheme | None = None
    input_activations: Scheme | None = None
    output_activations: Any = None


class QuantizationFile(Struct, frozen=True):
    """quantization_config of config.json."""

    quant_method: str | None = None
    format: str | None = None
    config_groups: dict[str, Group] | None = None
    ignore: list[str] | None = None


class OwnSection(Struct, frozen=True):
    """What config.json of a model in int8 says to Quaver alone."""

    wide_features: Annotated[list[Whole], Meta(max_length=65536)] | None = None


# --- config.json ----------------------------------------------------------------------------------
class Rope(Struct, frozen=True):
    """Rotary positions: rope_parameters of transformers 5, or rope_scaling before it.

    For all layers, or for each kind of layer.
    """

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Base | None = None
    full_attention: Rope | None = None
    sliding_attention: Rope | None = None
    partial_rotary_factor: Factor | None = None
    factor: Factor | None = None
    mixed_b: Any = None
    original_max_position_embeddings: Count | None = None
    low_freq_factor: Factor | None = None
    high_freq_factor: Factor | None = None
    attention_factor: Factor | None = None
    beta_fast: Factor | None = None
    beta_slow: Factor | None = None
    mscale: Factor | None = None
    mscale_all_dim: Factor | None = None
    truncate: bool | None = None


class InnerSettings(Struct, frozen=True):
    """The section that sentence-transformers adds to config.json of a cross-encoder."""

    activation_fn: str | None = None


class ConfigFile(Struct, frozen=True):
    """config.json of any family.

    Options of which a family supports a single value are not listed: `Config.require` checks them.
    """

    model_type: str | None = None
    architectures: list[str] | None = None
    tokenizer_class: str | None = None
    position_embedding_type: str | None = None
    quantization_config: QuantizationFile | None = None

    vocab_size: Count | None = None
    type_vocab_size: Whole | None = None
    hidden_size: Count | None = None
    n_embd: Count | None = None
    dim: Count | None = None
    intermediate_size: Count | None = None
    n_inner: Count | None = None
    hidden_dim: Count | None = None
    num_hidden_layers: Layers | None = None
    n_layer: Layers | None = None
    n_layers: Layers | None = None
    num_attention_heads: Heads | None = None
    num_key_value_heads: Heads | None = None
    head_dim: Count | None = None
    n_head: Heads | None = None
    n_heads: Heads | None = None
    d_model: Count | None = None
    d_kv: Count | None = None
    d_ff: Count | None = None
    num_layers: Layers | None = None
    num_heads: Heads | None = None
    max_position_embeddings: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    n_positions: Count | None = None
    pad_token_id: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None

    hidden_act: str | None = None
    hidden_activation: str | None = None
    activation: str | None = None
    feed_forward_proj: str | None = None
    embedding_size: Count | None = None
    num_hidden_groups: Layers | None = None
    inner_group_num: Layers | None = None
    use_task_id: bool | None = None
    pooler_hidden_act: str | None = None
    classifier_activation: str | None = None
    classifier_pooling: str | None = None
    classifier_bias: bool | None = None
    layer_norm_eps: Epsilon | None = None
    layer_norm_epsilon: Epsilon | None = None
    norm_eps: Epsilon | None = None
    rms_norm_eps: Epsilon | None = None

    local_attention: Count | None = None
    global_attn_every_n_layers: Count | None = None
    layer_types: Annotated[list[str], Meta(max_length=MAX_LAYERS)] | None = None
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    rope_theta: Base | None = None
    global_rope_theta: Base | None = None
    local_rope_theta: Base | None = None
    rope_local_base_freq: Base | None = None
    original_max_position_embeddings: Count | None = None
    rotary_emb_base: Base | None = None

    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    is_causal: bool | None = None
    tie_word_embeddings: bool | None = None
    use_sliding_window: bool | None = None
    sliding_window: Count | None = None
    sliding_window_pattern: Count | None = None
    max_window_layers: Whole | None = None
    per_layer_config: dict[str, dict[str, Any]] | None = None
    global_head_dim: Count | None = None
    num_global_key_value_heads: Heads | None = None
    hidden_size_per_layer_input: Count | None = None
    embedding_dim: Count | None = None
    query_pre_attn_scalar: Base | None = None

    relative_attention_num_buckets: Annotated[int, Meta(ge=1, le=65536)] | None = None
    relative_attention_max_distance: Count | None = None
    position_biased_input: bool | None = None
    position_buckets: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    max_relative_positions: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    pos_att_type: str | list[str] | None = None

    lora_adaptations: Annotated[list[str], Meta(max_length=64)] | None = None
    lora_rank: Count | None = None
    lora_alpha: Factor | None = None
    task_instructions: dict[str, str] | None = None

    # Of model2vec.
    normalize: bool | None = None
    max_length: Length | None = None

    id2label: dict[str, str | int | float | None] | None = None
    num_labels: Whole | None = None
    sentence_transformers: InnerSettings | None = None
    sbert_ce_default_activation_function: str | None = None


# --- sentence-transformers ------------------------------------------------------------------------
class ModuleEntry(Struct, frozen=True):
    """One module of modules.json: its class, and its folder inside the model's."""

    type: str
    path: str


class PoolingFile(Struct, frozen=True):
    """config.json of a Pooling module."""

    pooling_mode: str | Annotated[list[str], Meta(max_length=16)] | None = None
    pooling_mode_cls_token: bool | None = None
    pooling_mode_max_tokens: bool | None = None
    pooling_mode_mean_tokens: bool | None = None
    pooling_mode_mean_sqrt_len_tokens: bool | None = None
    pooling_mode_weightedmean_tokens: bool | None = None
    pooling_mode_lasttoken: bool | None = None
    include_prompt: bool | None = None


class ModuleFile(Struct, frozen=True):
    """config.json of a module other than Transformer, Pooling and Router."""

    out_features: Count | None = None
    activation_function: str | None = None
    bias: bool | None = None
    module_input_name: str | None = None
    module_output_name: str | None = None
    true_token_id: Whole | None = None
    false_token_id: Whole | None = None
    use_residual: bool | None = None
    # Of sparse encoders.
    pooling_strategy: str | None = None
    # Of multi-vector models.
    skiplist_words: list[str] | None = None
    skiplist_tasks: str | list[str] | None = None
    keep_only_token_ids: list[int] | None = None
    pool_factor: Annotated[float, Meta(ge=1, le=1e6)] | None = None
    num_protected_tokens: Whole | None = None
    normalize_embeddings: bool | None = None
    tasks: str | list[str] | None = None


class RouterFile(Struct, frozen=True):
    """router_config.json of a Router: its modules by their folders, and the folders of each route."""

    types: dict[str, str] | None = None
    structure: dict[str, list[str]] | None = None


class ExpansionFile(Struct, frozen=True):
    """query_expansion of a multi-vector model."""

    strategy: str | None = None
    attend: bool | None = None
    token: str | None = None
    length: Count | None = None


class ColbertMetadataFile(Struct, frozen=True):
    """artifact.metadata of Stanford's ColBERT."""

    query_token_id: str | None = None
    doc_token_id: str | None = None
    query_maxlen: Count | None = None
    doc_maxlen: Count | None = None
    attend_to_mask_tokens: bool | None = None
    mask_punctuation: bool | None = None


class SentenceTransformersFile(Struct, frozen=True):
    """config_sentence_transformers.json."""

    model_type: str | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    activation_fn: str | None = None
    truncate_dim: Count | None = None
    max_active_dims: Count | None = None
    # PyLate's.
    query_prefix: str | None = None
    document_prefix: str | None = None
    query_length: Count | None = None
    document_length: Count | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    skiplist_words: list[str] | None = None


class ModalityOutput(Struct, frozen=True):
    """What a Transformer module takes from its model, for one kind of input."""

    method: str | None = None
    method_output_name: str | list[str | int] | None = None
    format: str | None = None


class SentenceBertFile(Struct, frozen=True):
    """sentence_bert_config.json."""

    max_seq_length: Length | None = None
    do_lower_case: bool | None = None
    transformer_task: str | None = None
    modality_config: dict[str, ModalityOutput] | None = None
    processing_kwargs: dict[str, dict[str, Any] | None] | None = None
    query_length: Count | None = None
    document_length: Count | None = None
    query_expansion: ExpansionFile | None = None


# --- Tokenizer and weights ------------------------------------------------------------------------
class AddedTokenEntry(Struct, frozen=True):
    """An added token, as tokenizer_config.json describes it."""

    content: str
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    single_word: bool = False
    special: bool | None = None


class TokenizerConfigFile(Struct, frozen=True):
    """tokenizer_config.json."""

    tokenizer_class: str | None = None
    model_max_length: Length | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    chat_template: str | list[Any] | None = None
    add_prefix_space: bool | None = None
    add_eos_token: bool | None = None
    keep_accents: bool | None = None
    extra_ids: Annotated[int, Meta(ge=0, le=65536)] | None = None
    split_by_punct: bool | None = None
    added_tokens_decoder: dict[str, AddedTokenEntry] | None = None
    additional_special_tokens: list[str | AddedTokenEntry] | None = None
    extra_special_tokens: list[str | AddedTokenEntry] | dict[str, str | AddedTokenEntry] | None = (
        None
    )
    bos_token: str | AddedTokenEntry | None = None
    eos_token: str | AddedTokenEntry | None = None
    unk_token: str | AddedTokenEntry | None = None
    sep_token: str | AddedTokenEntry | None = None
    pad_token: str | AddedTokenEntry | None = None
    cls_token: str | AddedTokenEntry | None = None
    mask_token: str | AddedTokenEntry | None = None


class AdapterFile(Struct, frozen=True):
    """adapter_config.json of PEFT."""

    peft_type: str | None = None
    r: Count | None = None
    lora_alpha: Factor | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    bias: str | None = None
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool | None = None


class SpecialTokensFile(Struct, frozen=True):
    """special_tokens_map.json."""

    extra_special_tokens: list[str | AddedTokenEntry] | dict[str, str | AddedTokenEntry] | None = (
        None
    )
    additional_special_tokens: list[str | AddedTokenEntry] | None = None
    bos_token: str | AddedTokenEntry | None = None
    eos_token: str | AddedTokenEntry | None = None
    unk_token: str | AddedTokenEntry | None = None
    sep_token: str | AddedTokenEntry | None = None
    pad_token: str | AddedTokenEntry | None = None
    cls_token: str | AddedTokenEntry | None = None
    mask_token: str | AddedTokenEntry | None = None


class WeightsIndex(Struct, frozen=True):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]


# --- Reading --------------------------------------------------------------------------------------
def read_file(path: Path, max_bytes: int) -> bytes | None:
    """Read a file of a model folder; return None if it does not exist.

    Args:
        path: the file.
        max_bytes: its maximum size in bytes.

    Raises:
        ModelFolderError: it is not a regular file, cannot be read, is too large, or is a git-lfs pointer.
    """
    try:
        # A pipe would block here, and a device might never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFolderError(f"{path} must be a file; download the model again")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ModelFolderError(f"cannot read {path}: {error}; download it again") from error
    if len(content) > max_bytes:
        raise ModelFolderError(
            f"{path} may have at most {max_bytes >> 20} MiB; a file of this kind is far smaller, so this is "
            "no model that Quaver can read"
        )
    refuse_pointer(path, content)
    return content


def refuse_pointer(path: Path, start: bytes) -> None:
    """Check that a file is not a git-lfs pointer.

    Args:
        path: the file, for the message.
        start: its first bytes; 64 are enough.

    Raises:
        ModelFolderError: it is one.
    """
    if start.startswith(_POINTER):
        raise ModelFolderError(
            f"{path} is a git-lfs pointer, not the file: run `git lfs pull` in {path.parent}"
        )


def read_json(path: Path) -> Any:
    """Read a JSON file of a model folder; return None if it does not exist.

    Args:
        path: the file.

    Returns:
        its value; numbers are finite, text is valid Unicode, and no key repeats.

    Raises:
        ModelFolderError: it is larger than `MAX_JSON_BYTES`, nested deeper than `MAX_DEPTH`, or not
            such JSON.
    """
    content = read_file(path, MAX_JSON_BYTES)
    if content is None:
        return None
    try:
        text = content.decode("utf-8")
        _require_shallow(text)
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelFolderError(
            f"{path} has half of a surrogate pair in a string; download it again"
        ) from error
    except ValueError as error:
        raise ModelFolderError(
            f"{path} is not readable JSON: {error}; download it again"
        ) from error
    return value


def _require_shallow(text: str) -> None:
    """Check the depth before parsing, because parsers recurse."""
    depth = 0
    for found in _BRACKET.finditer(text):
        character = text[found.start()]
        depth += (character in "[{") - (character in "]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        left = dict(pairs)
        twice = next(name for name, _ in pairs if left.pop(name, pairs) is pairs)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


def checked(kind: type[File], value: Any, where: object) -> File:
    """Check a JSON value against its schema.

    Args:
        kind: the schema: one of the classes above, or a list of one.
        value: what `read_json` gave.
        where: the file, for the message.

    Returns:
        the value as an instance of the schema.

    Raises:
        ModelFolderError: a key has the wrong type or is out of range; the message has its value.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ModelFolderError(
            f"{where}: {mismatch_in_words(error, value)}; download the model again, or fix the file"
        ) from None


def mismatch_in_words(
    error: msgspec.ValidationError,
    value: Any,
    choices: Iterable[str] = (),
    *,
    whole: str = "the content",
) -> str:
    """Put an error of msgspec into words: the rule, and what was found.

    Args:
        error: the error.
        value: what was converted.
        choices: the values allowed at this place, if it is an enumeration.
        whole: what to call all of it.
    """
    reason, _, place = str(error).partition(" - at ")
    place = place.strip("`") or "$"
    name = place.removeprefix("$").removeprefix(".") or whole
    extra = reason.removeprefix("Object contains unknown field ")
    if extra != reason:
        return f"{name} has the unknown key {extra.strip('`')}: correct or remove it"
    rule = f"be one of {', '.join(choices)}" if choices else _rule(reason)
    return f"{name} must {rule}: got {_shown(value, place)}"


def _rule(reason: str) -> str:
    """Put a message of msgspec into words: "Expected `int | null` <= 1024"."""
    lacking = reason.removeprefix("Object missing required field ")
    if lacking != reason:
        return f"have {lacking.strip('`')}"
    rule = reason.removeprefix("Expected ").partition(", got ")[0].replace("`", "")
    rule = rule.replace(" | null", "").replace("int | float", "float")
    return "be " + " ".join(_WORDS.get(word, word) for word in rule.split())


def _shown(value: Any, place: str) -> str:
    """Return the value at a place such as `$.groups[...].targets[0]`, as far as it exists."""
    for key, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place):
        if index == "...":
            break
        value = (value or {}).get(key) if key else value[int(index)]
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def read_checked(kind: type[File], path: Path) -> File | None:
    """Read and check a JSON file; return None if it does not exist."""
    value = read_json(path)
    return None if value is None else checked(kind, value, path)
