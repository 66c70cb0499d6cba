"""Decoders as encoders of text: Llama, Mistral, Qwen2, Qwen3, EuroBERT and Gemma 3.

RMSNorm before each half of a layer, grouped queries, rotary positions and a gate. What differs is in
the configuration: biases, norms of heads, windows, and whether a token sees those after it.

Source:
    The modeling files of these families in transformers 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights, LayersOnDemand, LayerWeights
from quaver.models.families.config import Config
from quaver.models.families.family import ClassifierSpec, Family, LayerNames, rms_norm
from quaver.models.files import Rope
from quaver.models.geometry import EncoderSpec, LayerSpec, Llama3Scaling, Rotary, YarnScaling
from quaver.models.head import DenseStep
from quaver.models.tensors import NamedTensors

WORD_TABLE = "embed_tokens.weight"
_FULL, _SLIDING = "full_attention", "sliding_attention"
_THETA = 10_000.0
_GEMMA_THETAS = {_FULL: 1_000_000.0, _SLIDING: 10_000.0}
_GEMMA_PATTERN = 6
_WINDOW = 4096
Spec = Callable[[Config], EncoderSpec]
_SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")

_LAYER = LayerNames(
    layers="layers",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    attention_norm="input_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    output_norm="post_attention_layernorm",
    qkv_bias=False,
    out_bias=False,
    up_bias=False,
    down_bias=False,
    norm_bias=False,
)
_QWEN2 = replace(_LAYER, qkv_bias=True)
_QWEN3 = replace(_LAYER, head_norms=("self_attn.q_norm", "self_attn.k_norm"))
_GEMMA = replace(
    _QWEN3,
    attention_post_norm="post_attention_layernorm",
    output_norm="pre_feedforward_layernorm",
    output_post_norm="post_feedforward_layernorm",
    norm_offset=1.0,
)


# --- Geometry -------------------------------------------------------------------------------------
def _spec(
    config: Config,
    family: str,
    *,
    head_size: int | None = None,
    rms_eps: float = 1e-6,
    positions: int | None = None,
) -> EncoderSpec:
    """Read what all decoders share; every layer sees all tokens before it, or all where it is bidirectional."""
    config.require({"partial_rotary_factor": (1.0, None), "num_experts": (None,)})
    hidden, sizes = config.grouped_sizes(head_size)
    layer = LayerSpec(
        **sizes,
        activation=config.activation("hidden_act", "silu"),
        gate="first",
        norm="rms",
        norm_places="before",
        causal=family != "eurobert" and _causal(config),
        rotary=_rotary(config, config.file.rope_parameters, _THETA),
    )
    return EncoderSpec(
        family=family,
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=(layer,) * config.size("num_hidden_layers"),
        max_positions=config.length("max_position_embeddings", default=positions),
        position_table=False,
        type_vocab_size=0,
        norm_eps=config.number("rms_norm_eps", default=rms_eps),
        biases=_biases(config),
    )


def _causal(config: Config) -> bool:
    stated = config.file.is_causal
    own = config.values.get("auto_map")
    if stated is None and isinstance(own, dict) and "AutoModel" in own:
        raise UnsupportedArchitectureError(
            f"config.json of this {config.model_type} names code of its own (auto_map), which is never "
            "run, and does not say whether a token sees those after it; look it up in the model's card "
            'and add "is_causal": true or false to config.json'
        )
    return stated is not False


def _biases(config: Config) -> tuple[str, ...]:
    """Return the linear layers with a bias that only the configuration decides."""
    names: tuple[str, ...] = ()
    if config.flag("attention_bias", False):
        names += ("qkv", "out")
    if config.flag("mlp_bias", False):
        names += ("up", "down")
    return names


def _llama_spec(config: Config) -> EncoderSpec:
    config.require({"pretraining_tp": (1, None)})
    return _spec(config, "llama", positions=2048)


def _eurobert_spec(config: Config) -> EncoderSpec:
    return _spec(config, "eurobert", rms_eps=1e-5, positions=8192)


def _mistral_spec(config: Config) -> EncoderSpec:
    spec = _spec(config, "mistral", positions=131_072)
    stated = "sliding_window" not in config.values or config.values["sliding_window"] is not None
    if not stated:
        return spec
    return spec.with_layers(window=_window(config, spec.layers[0], _WINDOW))


def _both_ways(family: str, spec: Spec) -> Spec:
    """Return a family whose own model type says that every token sees all others."""

    def both(config: Config) -> EncoderSpec:
        return replace(spec(Config({**config.values, "is_causal": False})), family=family)

    return both


def _qwen2_spec(config: Config) -> EncoderSpec:
    return _with_windows(config, _spec(config, "qwen2", positions=32_768))


def _qwen3_spec(config: Config) -> EncoderSpec:
    spec = _spec(config, "qwen3", head_size=128, positions=32_768)
    return _with_windows(config, spec.with_layers(head_norms=True))


def _with_windows(config: Config, spec: EncoderSpec) -> EncoderSpec:
    """Give the layers a window that have one: by layer_types, else from max_window_layers on."""
    windowed = config.flag("use_sliding_window", False)
    count = len(spec.layers)
    first = config.size("max_window_layers", least=0, default=28) if windowed else count
    kinds = _kinds(config, count) or [_SLIDING if i >= first else _FULL for i in range(count)]
    if not windowed and _SLIDING in kinds:
        raise ModelFolderError(
            "config.json must have use_sliding_window=true where layer_types has sliding_attention: "
            f"got {config.values.get('use_sliding_window')!r}"
        )
    if _SLIDING not in kinds:
        return spec
    sliding = replace(spec.layers[0], window=_window(config, spec.layers[0], _WINDOW))
    layers = tuple(sliding if kind == _SLIDING else spec.layers[0] for kind in kinds)
    return replace(spec, layers=layers)


def _window(config: Config, layer: LayerSpec, default: int) -> int:
    """Return how far a token sees.

    A causal window counts the token itself, one in both directions does not.
    """
    size = config.size("sliding_window", default=default)
    return size - 1 if layer.causal else size


def _kinds(config: Config, layers: int) -> list[str] | None:
    kinds = config.file.layer_types
    if kinds is not None and (len(kinds) != layers or set(kinds) - {_FULL, _SLIDING}):
        raise ModelFolderError(
            f"config.json must have layer_types, one of {_FULL}, {_SLIDING} for each of {layers} "
            f"layers: got {kinds!r}"
        )
    return kinds


def _gemma3_spec(config: Config) -> EncoderSpec:
    config.require(
        {
            "attn_logit_softcapping": (None,),
            "is_causal": (None,),
            "use_bidirectional_attention": (True, False, None),
        }
    )
    both = config.values.get("use_bidirectional_attention") is True
    hidden, sizes = config.grouped_sizes(256, kv_heads=4)
    full = LayerSpec(
        **sizes,
        activation=config.activation("hidden_activation", "gelu_pytorch_tanh"),
        gate="first",
        norm="rms",
        norm_places="both",
        head_norms=True,
        causal=not both,
        rotary=_gemma_rotary(config, _FULL),
        attention_scale=config.number("query_pre_attn_scalar", default=256.0) ** -0.5,
    )
    size = config.size("sliding_window", default=_WINDOW)
    # In both directions half of the stated window on each side.
    sliding = replace(
        full, window=size // 2 if both else size - 1, rotary=_gemma_rotary(config, _SLIDING)
    )
    count = config.size("num_hidden_layers")
    every = config.size("sliding_window_pattern", default=_GEMMA_PATTERN)
    kinds = _kinds(config, count) or [_SLIDING if (i + 1) % every else _FULL for i in range(count)]
    return EncoderSpec(
        family="gemma3_text",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=tuple(sliding if kind == _SLIDING else full for kind in kinds),
        max_positions=config.length("max_position_embeddings", default=131_072),
        position_table=False,
        type_vocab_size=0,
        norm_eps=config.number("rms_norm_eps", default=1e-6),
        embedding_scale=math.sqrt(hidden),
        biases=_biases(config),
    )


# --- Rotary positions -----------------------------------------------------------------------------
def _gemma_rotary(config: Config, kind: str) -> Rotary:
    parameters = config.file.rope_parameters or Rope()
    described = getattr(parameters, kind)
    old = {_FULL: "rope_theta", _SLIDING: "rope_local_base_freq"}[kind]
    theta = config.number(old, default=_GEMMA_THETAS[kind])
    scaling = config.file.rope_scaling if kind == _FULL else None
    return _scaled(config, described or scaling or Rope(), theta)


def _rotary(config: Config, parameters: Rope | None, theta: float) -> Rotary:
    # An old rope_scaling has priority in transformers, too.
    described = config.file.rope_scaling or parameters or Rope()
    theta = (parameters and parameters.rope_theta) or config.number("rope_theta", default=theta)
    return _scaled(config, described, theta)


def _scaled(config: Config, rope: Rope, theta: float) -> Rotary:
    kind = rope.rope_type or rope.type or "default"
    if kind not in _SCALINGS or rope.partial_rotary_factor not in (None, 1.0):
        key = "rope_parameters" if config.file.rope_scaling is None else "rope_scaling"
        raise UnsupportedArchitectureError(
            f"config.json has {key}={config.values.get(key)!r}; {config.model_type} is supported with "
            f"rope_type one of {', '.join(_SCALINGS)}, on whole heads"
        )
    theta = rope.rope_theta or theta
    if theta <= 1:
        raise ModelFolderError(f"config.json must have rope_theta above 1: got {theta}")
    # Dynamic scaling starts after max_position_embeddings, where texts are cut.
    if kind in ("default", "dynamic"):
        return Rotary(theta)
    positions = config.size("max_position_embeddings")
    original = config.file.original_max_position_embeddings
    original = original or rope.original_max_position_embeddings or positions
    factor = rope.factor
    if factor is None and kind == "yarn":
        factor = positions / original
    if factor is None or factor < 1:
        raise ModelFolderError(
            f"config.json must have a factor from 1 for rope_type={kind!r}: got {rope.factor}"
        )
    if kind == "linear":
        return Rotary(theta, factor)
    if kind == "llama3":
        low, high = rope.low_freq_factor, rope.high_freq_factor
        if low is None or high is None or low >= high:
            raise ModelFolderError(
                "config.json must have low_freq_factor below high_freq_factor for rope_type='llama3': "
                f"got {low} and {high}"
            )
        return Rotary(theta, scaling=Llama3Scaling(factor, low, high, original))
    return Rotary(theta, scaling=_yarn(rope, factor, original))


def _yarn(rope: Rope, factor: float, original: int) -> YarnScaling:
    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    attention = rope.attention_factor
    if attention is None:
        attention = magnitude(1.0)
        if rope.mscale and rope.mscale_all_dim:
            attention = magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return YarnScaling(
        factor=factor,
        magnitude=attention,
        fast=rope.beta_fast or 32.0,
        slow=rope.beta_slow or 1.0,
        original=original,
        whole=rope.truncate is not False,
    )


# --- Weights --------------------------------------------------------------------------------------
def _weights_under(names: LayerNames) -> Callable[[EncoderSpec, NamedTensors], EncoderWeights]:
    def weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
        hidden = spec.hidden_size
        layer = names.with_biases(spec.biases)

        def take(i: int) -> LayerWeights:
            taken = layer.layer(spec, named, i)
            named.require_all_taken(f"layers.{i}.", f"a layer of a {spec.model_type}")
            return taken

        return EncoderWeights(
            word=named.table(WORD_TABLE, spec.vocab_size, hidden),
            position=None,
            token_type=None,
            embedding_norm=None,
            layers=LayersOnDemand(len(spec.layers), take),
            final_norm=rms_norm(named, "norm", hidden, names.norm_offset),
        )

    return weights


# --- Heads ----------------------------------------------------------------------------------------
def _last_token_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    """Return score(h), h the last state of the last token."""
    return ClassifierSpec(
        "lasttoken", (DenseStep("score", config.labels(), "none", has_bias=False),)
    )


def _eurobert_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    """Return classifier(gelu(dense(h))), h the state of the first token or the mean of all."""
    config.require({"classifier_pooling": ("bos", "mean")})
    pooling = "cls" if config.values["classifier_pooling"] == "bos" else "mean"
    return ClassifierSpec(
        pooling,
        (
            DenseStep("dense", spec.hidden_size, "gelu"),
            DenseStep("classifier", config.labels(), "none"),
        ),
    )


LLAMA = Family(_llama_spec, _weights_under(_LAYER), _last_token_classifier, anchor=WORD_TABLE)
LLAMA_BIDIRECTIONAL = replace(LLAMA, spec=_both_ways("llama_bidirec", _llama_spec))
EUROBERT = Family(_eurobert_spec, _weights_under(_LAYER), _eurobert_classifier, anchor=WORD_TABLE)
MISTRAL = Family(_mistral_spec, _weights_under(_LAYER), _last_token_classifier, anchor=WORD_TABLE)
QWEN2 = Family(_qwen2_spec, _weights_under(_QWEN2), _last_token_classifier, anchor=WORD_TABLE)
QWEN3 = Family(_qwen3_spec, _weights_under(_QWEN3), _last_token_classifier, anchor=WORD_TABLE)
QWEN3_BIDIRECTIONAL = replace(QWEN3, spec=_both_ways("bidirectional_pplx_qwen3", _qwen3_spec))
GEMMA3 = Family(_gemma3_spec, _weights_under(_GEMMA), _last_token_classifier, anchor=WORD_TABLE)
