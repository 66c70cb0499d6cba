"""Decoders as encoders of text: Llama, Mistral, Qwen2, Qwen3, EuroBERT, Gemma 3 and EmbeddingGemma 2.

RMSNorm before each half of a layer, grouped queries, rotary positions and a gate. What differs is in
the configuration: biases, norms of heads, windows, and whether a token sees those after it.

Source:
    The modeling files of these families in transformers 5.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.encoder_weights import EncoderWeights, LayersOnDemand, LayerWeights, NormWeights
from quaver.models.families.config import Config
from quaver.models.families.family import ClassifierSpec, Family, LayerNames, rms_norm
from quaver.models.files import Rope
from quaver.models.geometry import EncoderSpec, LayerSpec, Llama3Scaling, Rotary, YarnScaling
from quaver.models.head import DenseStep
from quaver.models.linear import LinearWeights, dequantized
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
_EMBEDDING_GEMMA2 = replace(_GEMMA, norm_offset=0.0)
# Of EmbeddingGemma 2: the projection of embeddings, a slice for each layer, and the norm of each slice.
_INPUTS, _INPUT_NORM = "ple.per_layer_model_projection", "ple.per_layer_projection_norm"
_OUTPUT = "embedding_projection"


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
            "run, and does not say whether a token sees those after it; look it up in the model's card and pass "
            "is_causal=True or is_causal=False (quaver quantize: --causal or --no-causal), or "
            'add "is_causal": true or false to config.json'
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


def _embedding_gemma2_spec(config: Config) -> EncoderSpec:
    """Read the text model, which is alone in config.json or beside those of pictures and sounds."""
    text = config.values.get("text_config")
    if config.model_type == "embedding_gemma2":
        if not isinstance(text, dict):
            raise ModelFolderError(
                f"config.json of an embedding_gemma2 must have text_config, an object: got {text!r}"
            )
        inner = Config({**text, "model_type": "embedding_gemma2_text"})
        return replace(_embedding_gemma2_spec(inner), model_type=config.model_type)
    config.require({"use_bidirectional_attention": (True, None), "is_causal": (False, None)})
    count = config.size("num_hidden_layers")
    every = config.size("sliding_window_pattern", default=_GEMMA_PATTERN)
    kinds = _kinds(config, count) or [_SLIDING if (i + 1) % every else _FULL for i in range(count)]
    kinds = [*kinds[:-1], _FULL]
    window = config.size("sliding_window", default=512)
    hidden = config.size("hidden_size")
    rotary = {kind: _gemma_rotary(config, kind) for kind in sorted(set(kinds))}
    layers = tuple(
        LayerSpec(
            **sizes.grouped_sizes(256, kv_heads=2)[1],
            activation=config.activation("hidden_activation", "gelu_pytorch_tanh"),
            gate="first",
            norm="rms",
            norm_places="both",
            head_norms=True,
            value_norm=True,
            window=window if kind == _SLIDING else None,
            rotary=rotary[kind],
            attention_scale=1.0,
            input_size=config.size("hidden_size_per_layer_input", default=512),
        )
        for kind, sizes in zip(kinds, _by_layer(config, kinds), strict=True)
    )
    return EncoderSpec(
        family="embedding_gemma2",
        model_type=config.model_type,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        layers=layers,
        max_positions=config.length("max_position_embeddings", default=262_144),
        position_table=False,
        type_vocab_size=0,
        norm_eps=config.number("rms_norm_eps", default=1e-6),
        embedding_scale=math.sqrt(hidden),
        output_size=config.size("embedding_dim", default=768),
        biases=("qkv", "out") if config.flag("attention_bias", False) else (),
    )


def _by_layer(config: Config, kinds: list[str]) -> list[Config]:
    """Return config.json as each layer sees it: those that see everything have wider heads and fewer."""
    stated = config.file.per_layer_config
    if stated is None:
        wide = {
            "head_dim": config.size("global_head_dim", default=512),
            "num_key_value_heads": config.size("num_global_key_value_heads", default=1),
        }
        stated = {str(i): wide for i, kind in enumerate(kinds) if kind == _FULL}
    changes: dict[int, dict[str, Any]] = {}
    for number, own in stated.items():
        other = [key for key in own if key not in ("head_dim", "num_key_value_heads", "skip")]
        if other or own.get("skip"):
            raise UnsupportedArchitectureError(
                f"config.json has per_layer_config={{{number!r}: {own!r}}}; {config.model_type} is supported with "
                "head_dim and num_key_value_heads in it"
            )
        if not (number.isascii() and number.isdecimal() and int(number) < len(kinds)):
            raise ModelFolderError(
                f"config.json must have per_layer_config by the numbers of {len(kinds)} layers: got {number!r}"
            )
        changes[int(number)] = own
    return [Config({**config.values, **changes.get(i, {})}) for i in range(len(kinds))]


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


def _embedding_gemma2_weights(spec: EncoderSpec, named: NamedTensors) -> EncoderWeights:
    hidden, size = spec.hidden_size, spec.layers[0].input_size
    names = _EMBEDDING_GEMMA2.with_biases(spec.biases)
    inputs = dequantized(named.linear(_INPUTS, len(spec.layers) * size, hidden, bias=False))
    # A part of the weights: the norm behind them adds its epsilon to the squares, so a factor is not lost in it.
    scale = np.float32(hidden**-0.5)
    input_norm = rms_norm(named, _INPUT_NORM, size)

    def take(i: int) -> LayerWeights:
        taken, at = names.layer(spec, named, i), f"layers.{i}"
        gate = named.linear(f"{at}.ple_block.per_layer_input_gate", size, hidden, bias=False)
        out = named.linear(f"{at}.ple_block.per_layer_projection", hidden, size, bias=False)
        own = inputs.weight[i * size : (i + 1) * size] * scale
        head_size = spec.layers[i].head_size
        values = NormWeights(np.ones(head_size, np.float32), np.zeros(head_size, np.float32), "rms")
        post = rms_norm(named, f"{at}.ple_block.post_per_layer_input_norm", hidden)
        factor = float(named.take(f"{at}.layer_scalar", 1)[0])
        named.require_all_taken(f"{at}.", f"a layer of a {spec.model_type}")
        return replace(
            taken,
            value_norm=values,
            input=LinearWeights(own, named.zeros(size)),
            input_norm=input_norm,
            input_gate=gate,
            input_out=out,
            input_post_norm=post,
            scale=factor,
        )

    assert spec.output_size is not None
    return EncoderWeights(
        word=named.table(WORD_TABLE, spec.vocab_size, hidden),
        position=None,
        token_type=None,
        embedding_norm=None,
        layers=LayersOnDemand(len(spec.layers), take),
        final_norm=rms_norm(named, "norm", hidden),
        output_projection=dequantized(named.linear(_OUTPUT, spec.output_size, hidden, bias=False)),
    )


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


def _no_classifier(config: Config, spec: EncoderSpec) -> ClassifierSpec:
    raise UnsupportedArchitectureError(
        f"a {config.model_type} has no classification head; it is an embedding model: open it with "
        "Embedder.from_pretrained(...)"
    )


LLAMA = Family(_llama_spec, _weights_under(_LAYER), _last_token_classifier, anchor=WORD_TABLE)
LLAMA_BIDIRECTIONAL = replace(LLAMA, spec=_both_ways("llama_bidirec", _llama_spec))
EUROBERT = Family(_eurobert_spec, _weights_under(_LAYER), _eurobert_classifier, anchor=WORD_TABLE)
MISTRAL = Family(_mistral_spec, _weights_under(_LAYER), _last_token_classifier, anchor=WORD_TABLE)
QWEN2 = Family(_qwen2_spec, _weights_under(_QWEN2), _last_token_classifier, anchor=WORD_TABLE)
QWEN3 = Family(_qwen3_spec, _weights_under(_QWEN3), _last_token_classifier, anchor=WORD_TABLE)
QWEN3_BIDIRECTIONAL = replace(QWEN3, spec=_both_ways("bidirectional_pplx_qwen3", _qwen3_spec))
GEMMA3 = Family(_gemma3_spec, _weights_under(_GEMMA), _last_token_classifier, anchor=WORD_TABLE)
EMBEDDING_GEMMA2 = Family(
    _embedding_gemma2_spec, _embedding_gemma2_weights, _no_classifier, anchor=WORD_TABLE
)
