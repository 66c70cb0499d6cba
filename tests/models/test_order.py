"""Features in another order inside a model: the same vectors, on every instruction set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver import reference
from quaver.engine.engine import Engine
from quaver.engine.instruction_sets import instruction_sets
from quaver.errors import InputError
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import EncoderSpec
from quaver.models.linear import LinearWeights, quantize_weight
from quaver.models.order import reordered
from quaver.models.tokenizer import TokenBatch
from tiny_model import tiny_config, tiny_tensors

ISAS = [name for name, available in instruction_sets().items() if available]
CONFIG = tiny_config(hidden=128, heads=4)
TENSORS = tiny_tensors(CONFIG)
LENGTHS = (1, 5, 17, 64, 33)
RNG = np.random.default_rng(0)
HIDDEN = RNG.permutation(128).astype(np.int32)
INNER = [RNG.permutation(CONFIG["intermediate_size"]).astype(np.int32) for _ in range(2)]


def model(pooling: str = "mean", **layers: Any) -> tuple[EncoderSpec, EncoderWeights]:
    spec = encoder_spec(CONFIG, pooling=pooling, normalize=True)
    weights = encoder_weights(spec, TENSORS)
    return spec.with_layers(**layers), weights


def batch(spec: EncoderSpec) -> TokenBatch:
    ids = np.random.default_rng(1).integers(0, spec.vocab_size, sum(LENGTHS)).astype(np.int32)
    types = (np.arange(len(ids)) % 2).astype(np.int32)
    return TokenBatch(ids, np.cumsum([0, *LENGTHS]).astype(np.int32), types, 0)


def encoded(
    spec: EncoderSpec, weights: EncoderWeights, isa: str, precision: Any, threads: int = 2
) -> NDArray[np.float32]:
    engine = Engine(spec, weights, precision=precision, isa=isa, threads=threads)
    return engine.encode(batch(spec))


def quantized(w: EncoderWeights) -> EncoderWeights:
    def one(linear: Any) -> Any:
        return quantize_weight(linear, symmetric=False)

    layers = (
        replace(p, qkv=one(p.qkv), out=one(p.out), up=one(p.up), down=one(p.down)) for p in w.layers
    )
    return replace(w, layers=tuple(layers))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "cls+max"])
def test_vectors_come_out_in_the_natural_order(isa: str, pooling: str) -> None:
    spec, weights = model(pooling)
    other = reordered(spec, weights, hidden=HIDDEN, inner=INNER)
    got, truth = (encoded(spec, w, isa, "float32") for w in (other, weights))
    # The same sums of 128 to 256 float32 products, in another order.
    np.testing.assert_allclose(got, truth, rtol=0, atol=1e-6)
    assert not np.array_equal(got, truth)
    exact = reference.encode(spec, other, batch(spec))
    np.testing.assert_allclose(exact, reference.encode(spec, weights, batch(spec)), atol=1e-7)


@pytest.mark.parametrize("isa", ISAS)
def test_with_a_gate_and_norms_first(isa: str) -> None:
    spec, weights = model(gate="first", norm_places="before")
    wide = np.random.default_rng(2).standard_normal((1024, 128), np.float32) / 12
    layers = tuple(
        replace(p, up=LinearWeights(wide, np.zeros(1024, np.float32))) for p in weights.layers
    )
    weights = replace(weights, layers=layers, final_norm=weights.layers[0].output_norm)
    other = reordered(spec, weights, hidden=HIDDEN, inner=INNER)
    got, truth = (encoded(spec, w, isa, "float32") for w in (other, weights))
    np.testing.assert_allclose(got, truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_tables_narrower_than_the_layers_keep_their_order(precision: str) -> None:
    """As of Electra small and ALBERT, whose norm of the embeddings is before the projection."""
    config = {**CONFIG, "model_type": "electra", "embedding_size": 48}
    random = np.random.default_rng(3)
    tensors = {
        name: t[..., :48] if name.startswith("embeddings.") else t for name, t in TENSORS.items()
    }
    tensors["embeddings_project.weight"] = random.standard_normal((128, 48), np.float32) / 7
    tensors["embeddings_project.bias"] = random.standard_normal(128, np.float32) / 10
    spec = encoder_spec(config, pooling="mean", normalize=True)
    weights = encoder_weights(spec, tensors)
    truth = encoded(spec, weights, "scalar", "float32")
    other = reordered(spec, weights, hidden=HIDDEN, inner=INNER)
    got = encoded(spec, other, "scalar", "float32")
    np.testing.assert_allclose(got, truth, rtol=0, atol=1e-6)
    # The engine gives wide features an order of its own in int8.
    loaded = encoded(spec, weights, "scalar", precision)
    assert (loaded * truth).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_natural_order_is_the_same_bits(isa: str, precision: str) -> None:
    spec, weights = model()
    if precision == "int8":
        weights = quantized(weights)
    same = reordered(
        spec,
        weights,
        hidden=np.arange(128, dtype=np.int32),
        inner=[np.arange(512, dtype=np.int32), None],
    )
    for threads in (1, 2):
        got, truth = (encoded(spec, w, isa, None, threads) for w in (same, weights))
        assert np.array_equal(got, truth)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_in_eight_bits(isa: str) -> None:
    spec, weights = model()
    before = reordered(spec, quantized(weights), hidden=HIDDEN, inner=INNER)
    after = quantized(reordered(spec, weights, hidden=HIDDEN, inner=INNER))
    got, truth = (encoded(spec, w, isa, None) for w in (before, after))
    assert np.array_equal(got, truth)
    plain = encoded(spec, quantized(weights), isa, None)
    # Rounding does not depend on the order; norms before it differ in the last bits.
    assert (got * plain).sum(axis=1).min() > 0.9999


def test_what_is_no_order() -> None:
    spec, weights = model()
    for wrong in (np.zeros(128, np.int32), np.arange(64, dtype=np.int32), np.arange(128)):
        with pytest.raises(InputError, match=r"hidden must have each of 0\.\.127 once"):
            reordered(spec, weights, hidden=wrong)
    with pytest.raises(InputError, match=r"inner must have each of 0\.\.511 once"):
        reordered(spec, weights, inner=[np.zeros(512, np.int32), None])
    with pytest.raises(InputError, match="for each of 2 layers: got 1"):
        reordered(spec, weights, inner=[None])
    other = reordered(spec, weights, hidden=HIDDEN)
    with pytest.raises(InputError, match="reordered once"):
        reordered(spec, other, hidden=HIDDEN)
    grouped = quantize_weight(weights.layers[0].qkv, groups=(64, 128))  # type: ignore[arg-type]
    layers = (replace(weights.layers[0], qkv=grouped), weights.layers[1])
    with pytest.raises(InputError, match="reorder, then quantize"):
        reordered(spec, replace(weights, layers=layers), hidden=HIDDEN)
