"""Geometries of decoders and of encoders made from them, on random weights, against the reference in float64.

Each case is a model family's layer in small: what tells it from BERT, all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quaver import reference
from quaver.engine.engine import Engine
from quaver.engine.forward import run_layers
from quaver.engine.instruction_sets import bfloat16_sets, instruction_sets
from quaver.engine.native_model import PRECISIONS, Precision
from quaver.errors import WeightsError
from quaver.models.encoder_weights import EncoderWeights, LayerWeights, NormWeights
from quaver.models.geometry import EncoderSpec, LayerSpec, NormKind, Rotary
from quaver.models.linear import (
    Linear,
    LinearWeights,
    dequantized,
    equal_groups,
    quantize_weight,
)
from quaver.models.tokenizer import TokenBatch

ISAS = [name for name, available in instruction_sets().items() if available]
QWEN3 = LayerSpec(
    heads=4,
    kv_heads=2,
    head_size=32,
    intermediate_size=96,
    activation="silu",
    gate="first",
    norm="rms",
    norm_places="before",
    head_norms=True,
    causal=True,
    rotary=Rotary(1e6),
)
MISTRAL = replace(QWEN3, heads=2, head_norms=False, window=9, rotary=Rotary(1e4))
GEMMA3 = replace(
    QWEN3,
    heads=3,
    kv_heads=1,
    head_size=64,
    activation="gelu_tanh",
    norm_places="both",
    causal=False,
    attention_scale=1 / 8,
    rotary=Rotary(1e4),
    window=16,
)
GEMMA3_FULL = replace(GEMMA3, window=None, rotary=Rotary(1e6))
# Heads of a size of their own in the layers that see everything, norms of values, inputs of the layers' own.
EMBEDDING_GEMMA2 = replace(
    GEMMA3, heads=4, kv_heads=2, head_size=24, value_norm=True, input_size=40
)
EMBEDDING_GEMMA2_FULL = replace(
    EMBEDDING_GEMMA2, kv_heads=1, head_size=48, window=None, rotary=Rotary(1e6)
)
PLAIN = LayerSpec(heads=4, kv_heads=4, head_size=16, intermediate_size=128, activation="gelu")


def spec_of(
    *layers: LayerSpec,
    hidden: int = 64,
    pooling: str = "mean",
    scale: float = 1.0,
    output: int | None = None,
) -> EncoderSpec:
    return EncoderSpec(
        family="bert",
        model_type="bert",
        vocab_size=60,
        hidden_size=hidden,
        layers=layers,
        max_positions=150,
        type_vocab_size=0,
        norm_eps=1e-6,
        position_table=False,
        embedding_scale=scale,
        output_size=output,
        pooling=pooling,
        normalize=True,
    )


CASES = {
    "qwen3": spec_of(QWEN3, QWEN3, pooling="lasttoken"),
    "mistral": spec_of(MISTRAL, MISTRAL, pooling="lasttoken", hidden=40),
    "gemma3": spec_of(GEMMA3, GEMMA3_FULL, scale=8.0),
    "embeddinggemma2": spec_of(EMBEDDING_GEMMA2, EMBEDDING_GEMMA2_FULL, scale=8.0, output=80),
    "embeddinggemma2, last token": spec_of(
        EMBEDDING_GEMMA2, EMBEDDING_GEMMA2_FULL, scale=8.0, output=80, pooling="lasttoken"
    ),
    "grouped queries over panels": spec_of(*[replace(PLAIN, kv_heads=2, head_size=32)] * 2),
    "heads wider than a panel": spec_of(*[replace(PLAIN, head_size=128)] * 2, pooling="cls"),
    "causal BERT": spec_of(*[replace(PLAIN, causal=True)] * 2),
    "first layer causal": spec_of(replace(PLAIN, causal=True), PLAIN, pooling="cls"),
}
LINEARS = ("qkv", "out", "up", "down", "input", "input_gate", "input_out")
LENGTHS = (1, 2, 5, 16, 17, 33, 64, 65, 100, 130)

every_isa = pytest.mark.parametrize("isa", ISAS)
every_case = pytest.mark.parametrize("spec", CASES.values(), ids=CASES)
every_kind = pytest.mark.parametrize(
    ("isa", "precision"),
    [
        (isa, precision)
        for isa in ISAS
        for precision in PRECISIONS
        if precision != "bfloat16" or isa in bfloat16_sets()
    ],
)


def drawn_weights(spec: EncoderSpec, seed: int = 0) -> EncoderWeights:
    """Draw the weights of any geometry: what no family has yet can be run as well."""
    rng = np.random.default_rng(seed)
    hidden = spec.hidden_size

    def linear(outputs: int, inputs: int) -> LinearWeights:
        weight = rng.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
        return LinearWeights(weight, rng.standard_normal(outputs, np.float32) * np.float32(0.1))

    def norm(size: int, kind: NormKind) -> NormWeights:
        gamma = 1 + np.float32(0.2) * rng.standard_normal(size, np.float32)
        return NormWeights(gamma, rng.standard_normal(size, np.float32) * np.float32(0.1), kind)

    def layer(of: LayerSpec) -> LayerWeights:
        both, heads = of.norm_places == "both", of.head_norms
        own: dict[str, Any] = {}
        if of.input_size:
            own = {
                "input": LinearWeights(
                    linear(of.input_size, hidden).weight, np.zeros(of.input_size, np.float32)
                ),
                "input_norm": norm(of.input_size, of.norm),
                "input_gate": linear(of.input_size, hidden),
                "input_out": linear(hidden, of.input_size),
                "input_post_norm": norm(hidden, of.norm),
                "scale": 0.75,
            }
        return LayerWeights(
            qkv=linear(of.query_width + 2 * of.kv_width, hidden),
            out=linear(hidden, of.query_width),
            attention_norm=norm(hidden, of.norm),
            up=linear(of.up_width, hidden),
            down=linear(hidden, of.intermediate_size),
            output_norm=norm(hidden, of.norm),
            attention_post_norm=norm(hidden, of.norm) if both else None,
            output_post_norm=norm(hidden, of.norm) if both else None,
            query_norm=norm(of.head_size, of.norm) if heads else None,
            key_norm=norm(of.head_size, of.norm) if heads else None,
            value_norm=norm(of.head_size, of.norm) if of.value_norm else None,
            **own,
        )

    last = spec.layers[-1]
    return EncoderWeights(
        word=rng.standard_normal((spec.vocab_size, hidden), np.float32),
        position=None,
        token_type=None,
        embedding_norm=None if last.norm == "rms" else norm(hidden, "layer"),
        layers=tuple(layer(of) for of in spec.layers),
        final_norm=None if last.norm_places == "after" else norm(hidden, last.norm),
        output_projection=None if spec.output_size is None else linear(spec.output_size, hidden),
    )


def batch(*lengths: int) -> TokenBatch:
    ids = np.random.default_rng(1).integers(0, 60, sum(lengths)).astype(np.int32)
    return TokenBatch(ids, np.cumsum([0, *lengths]).astype(np.int32), None, 0)


@every_isa
@every_case
def test_float32_is_the_reference(spec: EncoderSpec, isa: str) -> None:
    weights, texts = drawn_weights(spec), batch(*LENGTHS)
    got = Engine(spec, weights, precision="float32", isa=isa, threads=2).encode(texts)
    # Sums of 24 to 256 float32 products in another order, through two layers.
    np.testing.assert_allclose(got, reference.encode(spec, weights, texts), rtol=0, atol=1e-5)


def with_each(parts: LayerWeights, change: Callable[[Linear], Linear]) -> LayerWeights:
    """Change every linear layer that a layer has."""
    found = {name: getattr(parts, name) for name in LINEARS}
    changed: dict[str, Any] = {
        name: change(linear) for name, linear in found.items() if linear is not None
    }
    return replace(parts, **changed)


def as_bfloat16(weights: EncoderWeights) -> EncoderWeights:
    """Round the linear layers' weights towards zero: they are bfloat16 then."""

    def cut(linear: Linear) -> LinearWeights:
        exact = dequantized(linear)
        bits = exact.weight.view(np.uint32) & np.uint32(0xFFFF0000)
        return replace(exact, weight=bits.view(np.float32))

    return replace(weights, layers=tuple(with_each(parts, cut) for parts in weights.layers))


@every_isa
@every_case
def test_weights_that_are_bfloat16_stay_the_same(spec: EncoderSpec, isa: str) -> None:
    weights, texts = drawn_weights(spec), batch(*LENGTHS)
    kept = as_bfloat16(weights)
    got = Engine(spec, kept, precision="bfloat16-weights", isa=isa, threads=2).encode(texts)
    # As in float32: the scale of scores is not rounded with the queries' weights.
    np.testing.assert_allclose(got, reference.encode(spec, kept, texts), rtol=0, atol=1e-5)
    # Others lose 8 of 24 bits.
    rounded = Engine(spec, weights, precision="bfloat16-weights", isa=isa).encode(texts)
    cosines = (rounded * reference.encode(spec, weights, texts)).sum(axis=1)
    assert 0.9999 < cosines.min() < 0.9999999


def test_bfloat16_takes_half_the_memory() -> None:
    spec = spec_of(PLAIN, PLAIN, hidden=256)

    def weight_bytes(precision: Precision, isa: str | None = None) -> int:
        engine = Engine(spec, drawn_weights(spec), precision=precision, isa=isa)
        return engine._encoder.weight_bytes

    half = weight_bytes("bfloat16-weights")
    assert half < 0.52 * weight_bytes("float32")  # biases and scales are float32
    for isa in bfloat16_sets():
        assert weight_bytes("bfloat16", isa) == half


@pytest.mark.parametrize("isa", bfloat16_sets())
@every_case
def test_products_of_bfloat16_are_near_the_reference(spec: EncoderSpec, isa: str) -> None:
    weights, texts = drawn_weights(spec), batch(*LENGTHS)
    expected = reference.encode(spec, weights, texts)
    got = Engine(spec, weights, precision="bfloat16", isa=isa, threads=2).encode(texts)
    cosines = (got * expected).sum(axis=1)
    # Numbers of eight bits, rounded; a last token averages over nothing.
    assert cosines.min() > (0.9995 if spec.pooling == "lasttoken" else 0.9999)
    assert cosines.max() < 0.9999999
    # Weights that are bfloat16 err no more.
    kept = as_bfloat16(weights)
    exact = Engine(spec, kept, precision="bfloat16", isa=isa).encode(texts)
    errors = 1 - (exact * reference.encode(spec, kept, texts)).sum(axis=1)
    assert errors.mean() < 1 - cosines.mean()


@every_isa
@every_case
def test_int8_is_near_the_reference(spec: EncoderSpec, isa: str) -> None:
    weights, texts = drawn_weights(spec), batch(*LENGTHS)
    cosines = (
        Engine(spec, weights, isa=isa).encode(texts) * reference.encode(spec, weights, texts)
    ).sum(axis=1)
    # A last token averages over nothing.
    assert cosines.mean() > (0.98 if spec.pooling == "lasttoken" else 0.99)


@every_kind
@every_case
def test_a_text_alone_is_the_same_bits(spec: EncoderSpec, isa: str, precision: Precision) -> None:
    weights, texts = drawn_weights(spec), batch(*LENGTHS)
    one, two, three = (
        Engine(spec, weights, precision=precision, isa=isa, threads=n) for n in (1, 2, 3)
    )
    together = three.encode(texts)
    for i in range(len(texts)):
        text = texts.select(i, i + 1)
        assert np.array_equal(one.encode(text)[0], together[i])
        assert np.array_equal(two.encode(text)[0], together[i])


@every_kind
def test_a_causal_token_does_not_see_what_follows(isa: str, precision: Precision) -> None:
    spec = replace(CASES["qwen3"], pooling="cls")
    engine = Engine(spec, drawn_weights(spec), precision=precision, isa=isa, threads=1)
    texts = batch(40)
    other = replace(texts, ids=np.concatenate([texts.ids[:1], texts.ids[:0:-1]]))
    assert engine.encode(texts).shape == (1, 64)
    if precision != "int8":
        assert np.array_equal(engine.encode(texts), engine.encode(other))
    else:  # the scale of values in eight bits is that of the whole text
        assert (engine.encode(texts) * engine.encode(other)).sum() > 0.999


@every_case
def test_calibration_runs_the_same_layers(spec: EncoderSpec) -> None:
    weights, texts = drawn_weights(spec), batch(1, 5, 33, 64)
    states = run_layers(
        spec, weights, texts, apply=lambda x, linear: x @ dequantized(linear).weight.T + linear.bias
    )
    weights = replace(weights, final_norm=None, output_projection=None)
    truth = reference.hidden_states(spec, weights, texts)[-1]
    np.testing.assert_allclose(states, truth, rtol=0, atol=2e-4 * np.abs(truth).max())


@every_isa
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_weights_in_groups_of_inputs(isa: str, symmetric: bool, threads: int) -> None:
    spec = spec_of(PLAIN, PLAIN, hidden=128)
    weights, texts = drawn_weights(spec), batch(*LENGTHS)
    # Half of the channels that a layer reads are much wider than the others, and their weights smaller.
    wide = np.ones(128, np.float32)
    wide[:64] = 20

    def widened(norm: NormWeights | None) -> Any:
        assert norm is not None
        return replace(norm, gamma=norm.gamma * wide, beta=norm.beta * wide)

    def reading(linear: Linear) -> LinearWeights:
        return replace(dequantized(linear), weight=dequantized(linear).weight / wide)

    def widened_layer(parts: LayerWeights, *, last: bool) -> LayerWeights:
        return replace(
            parts,
            qkv=reading(parts.qkv),
            up=reading(parts.up),
            attention_norm=widened(parts.attention_norm),
            output_norm=parts.output_norm if last else widened(parts.output_norm),
        )

    first, last = weights.layers
    weights = replace(
        weights,
        embedding_norm=widened(weights.embedding_norm),
        layers=(widened_layer(first, last=False), widened_layer(last, last=True)),
    )

    def quantized(groups: bool) -> EncoderWeights:
        def one(linear: Linear) -> Linear:
            ends = (64, 128) if groups and linear.weight.shape[1] == 128 else ()
            return quantize_weight(dequantized(linear), symmetric=symmetric, groups=ends)

        layers = (
            replace(p, qkv=one(p.qkv), out=one(p.out), up=one(p.up), down=one(p.down))
            for p in weights.layers
        )
        return replace(weights, layers=tuple(layers))

    truth = reference.encode(spec, weights, texts)

    def loss(groups: bool) -> float:
        engine = Engine(spec, quantized(groups), precision=None, isa=isa, threads=threads)
        got = engine.encode(texts)
        for i in range(len(texts)):
            assert np.array_equal(engine.encode(texts.select(i, i + 1))[0], got[i])
        return float(1 - (got * truth).sum(axis=1).mean())

    assert loss(groups=True) < loss(groups=False) / 2


def in_four_bits(weights: EncoderWeights, size: int) -> EncoderWeights:
    def one(linear: Linear) -> Linear:
        exact = dequantized(linear)
        return quantize_weight(exact, groups=equal_groups(exact.weight.shape[1], size), bits=4)

    layers = (
        replace(p, qkv=one(p.qkv), out=one(p.out), up=one(p.up), down=one(p.down))
        for p in weights.layers
    )
    return replace(weights, layers=tuple(layers))


@every_isa
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("case", ["qwen3", "mistral", "heads wider than a panel"])
def test_weights_in_four_bits(case: str, size: int, isa: str) -> None:
    spec, texts = CASES[case], batch(*LENGTHS)
    weights = in_four_bits(drawn_weights(spec), size)
    engines = [Engine(spec, weights, precision=None, isa=isa, threads=n) for n in (1, 2)]
    got = engines[0].encode(texts)
    # Only inputs and attention are rounded: the reference has the same weights.
    truth = reference.encode(spec, weights, texts)
    assert (got * truth).sum(axis=1).mean() > (0.98 if spec.pooling == "lasttoken" else 0.99)
    for i in range(len(texts)):
        for engine in engines:
            assert np.array_equal(engine.encode(texts.select(i, i + 1))[0], got[i])


def test_four_bits_take_half_the_memory() -> None:
    spec = spec_of(PLAIN, PLAIN, hidden=256)
    weights = drawn_weights(spec)
    int4, int8 = (
        Engine(spec, made, precision=precision)._encoder.weight_bytes
        for made, precision in ((in_four_bits(weights, 128), None), (weights, "int8"))
    )
    assert int4 < 0.6 * int8  # a scale for each 128 weights


def test_groups_of_another_size_are_refused() -> None:
    spec = spec_of(PLAIN, hidden=128)
    weights = in_four_bits(drawn_weights(spec), 48)
    with pytest.raises(ValueError, match="32, 64 or 128 inputs"):
        Engine(spec, weights, precision=None)
    uneven = replace(weights.layers[0].qkv, groups=(32, 96, 128))
    weights = replace(weights, layers=(replace(weights.layers[0], qkv=uneven),))
    with pytest.raises(WeightsError, match="all of one size"):
        Engine(spec, weights, precision=None)
