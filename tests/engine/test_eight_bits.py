"""Which features of a model get a range of their own in int8, and what the integers become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from quaver import reference
from quaver.engine.eight_bits import EightBits, eight_bits, in_eight_bits
from quaver.engine.engine import Engine
from quaver.engine.instruction_sets import instruction_sets
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import EncoderSpec
from quaver.models.linear import QuantizedLinear, quantize_weight
from quaver.models.order import gathered
from quaver.models.tokenizer import TokenBatch
from tiny_model import tiny_config, tiny_tensors, write_tiny_decoder

ISAS = [name for name, available in instruction_sets().items() if available]
FAMILIES = Path(__file__).parents[1] / "golden" / "families"
WIDE = np.array([3, 64, 65, 200, 255])
LENGTHS = (1, 5, 17, 64, 33)


def model(hidden: int = 256) -> tuple[EncoderSpec, EncoderWeights]:
    """Make a model in which some features are as wide as in trained ones."""
    config = tiny_config(hidden=hidden)
    tensors = tiny_tensors(config)
    if hidden > WIDE.max():
        for name, tensor in tensors.items():
            if "LayerNorm" in name and "layer.1.output.LayerNorm" not in name:
                tensor[WIDE] *= 30
            elif any(part in name for part in (".self.", "intermediate")) and tensor.ndim == 2:
                tensor[:, WIDE] /= 30
    spec = encoder_spec(config, pooling="mean", normalize=True)
    return spec, encoder_weights(spec, tensors)


def batch(spec: EncoderSpec) -> TokenBatch:
    ids = np.random.default_rng(1).integers(0, spec.vocab_size, sum(LENGTHS)).astype(np.int32)
    return TokenBatch(ids, np.cumsum([0, *LENGTHS]).astype(np.int32), None, 0)


def test_wide_features_are_found_without_text() -> None:
    how = eight_bits(*model())
    assert how.wide is not None
    assert len(how.wide) == 64
    assert set(WIDE) <= set(how.wide.tolist())
    assert how.ends == ((256, 512, 768, 1024),) * 2
    assert set(how.power) == {(i, name) for i in (0, 1) for name in ("qkv", "out", "up", "down")}
    strongest = np.argsort(-how.power[1, "up"])[: len(WIDE)]
    assert set(strongest.tolist()) == set(WIDE.tolist())


def test_a_small_model_has_one_range() -> None:
    how = eight_bits(*model(64))
    assert (how.wide, how.ends) == (None, ((), ()))


def test_broken_weights_have_groups_all_the_same() -> None:
    spec, weights = model()
    how = eight_bits(spec, replace(weights, word=np.full_like(weights.word, np.inf)))
    assert how.wide is not None
    assert len(set(how.wide.tolist())) == 64


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_wide_features_apart_lose_less(isa: str, threads: int) -> None:
    spec, weights = model()
    texts = batch(spec)
    truth = reference.encode(spec, weights, texts)

    def loss(made: EncoderWeights) -> float:
        engine = Engine(spec, made, precision=None, isa=isa, threads=threads)
        got = engine.encode(texts)
        for i in range(len(texts)):
            assert np.array_equal(engine.encode(texts.select(i, i + 1))[0], got[i])
        return float(1 - (got.astype(np.float64) * truth).sum(axis=1).mean())

    made = in_eight_bits(spec, weights)
    apart = loss(made)
    assert apart < loss(replace(made, wide=None)) / 1.3
    by_default = Engine(spec, weights, isa=isa, threads=threads).encode(texts)
    assert np.array_equal(by_default, Engine(spec, made, precision=None, isa=isa).encode(texts))


def test_the_groups_of_an_engine_are_next_to_each_other() -> None:
    spec, weights = model()
    made = in_eight_bits(spec, weights)
    packed = gathered(spec, made)
    assert made.wide is not None
    assert packed.order is not None
    assert packed.order[:64].tolist() == made.wide.tolist()
    assert gathered(spec, replace(made, wide=None)).order is None
    first, natural = packed.layers[0], made.layers[0]
    for name in ("qkv", "up"):
        one, before = getattr(first, name), getattr(natural, name)
        assert isinstance(one, QuantizedLinear)
        assert one.groups == (64, 256)
        assert np.array_equal(one.scale[:, 0], before.scale)
        assert np.array_equal(one.scale[:, 1], before.scale)
    assert np.array_equal(first.qkv.weight, natural.qkv.weight[:, packed.order])
    assert (first.down.groups, first.out.groups) == ((256, 512, 768, 1024), ())
    assert (first.out.zero, first.down.zero.shape) == (None, (256, 4))  # type: ignore[union-attr]


def test_calibration_rounds_inputs_as_the_engine_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 256)).astype(np.float32)
    x[:, 64:128] *= 40
    wide = np.arange(64, 128, dtype=np.int32)
    how = EightBits(wide, ((128, 256),), {})
    error = {
        name: np.abs(how.round_inputs(x, (0, name)) - x)[:, :64].max() for name in ("up", "out")
    }
    assert error["up"] < error["out"] / 5
    # The second half of `down` has no wide input.
    assert np.abs(how.round_inputs(x, (0, "down")) - x)[:, 128:].max() < error["out"] / 5


# --- Decoders -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama", "gemma3text", "gemma3textboth"])
def test_factors_move_without_changing_what_a_layer_computes(name: str) -> None:
    with np.load(FAMILIES / f"{name}.npz") as stored:
        config = json.loads(stored["configs"].tobytes())["encoder"]
        tensors = {
            key.partition("/")[2]: stored[key].astype(np.float32)
            for key in stored.files
            if key.startswith("encoder/")
        }
    spec = encoder_spec(config, pooling="mean", normalize=False)
    weights = encoder_weights(spec, tensors)
    how = eight_bits(spec, weights)
    moved = [how.equalized(i, parts) for i, parts in enumerate(weights.layers)]
    assert any(
        not np.array_equal(a.qkv.weight, b.qkv.weight)
        for a, b in zip(moved, weights.layers, strict=True)
    )
    tokens = TokenBatch(np.arange(5, 45, dtype=np.int32), np.array([0, 3, 40], np.int32), None, 0)
    same = replace(weights, layers=tuple(moved))
    exact, other = (
        Engine(spec, made, precision="float32", threads=1).encode(tokens)
        for made in (weights, same)
    )
    np.testing.assert_allclose(other, exact, atol=1e-6 * np.abs(exact).max())
    factors = np.concatenate([f.reshape(-1) for f in how.factors.values()])
    assert np.array_equal(np.exp2(np.rint(np.log2(factors))), factors)


def test_outlier_channels_of_a_decoder_cost_little(tmp_path: Path) -> None:
    folder = write_tiny_decoder(tmp_path, wide=5)
    spec = encoder_spec(
        json.loads((folder / "config.json").read_text()), pooling="lasttoken", normalize=True
    )
    weights = encoder_weights(spec, load_file(folder / "model.safetensors"))
    rng = np.random.default_rng(0)
    tokens = TokenBatch(
        rng.integers(5, 90, 400).astype(np.int32),
        np.arange(0, 401, 20, dtype=np.int32),
        None,
        0,
    )
    exact = Engine(spec, weights, precision="float32").encode(tokens)
    losses = []
    for equalize in (False, True):
        how = eight_bits(spec, weights, equalize=equalize)
        layers = []
        for i, parts in enumerate(weights.layers):
            parts = how.equalized(i, parts)
            layers.append(
                replace(
                    parts,
                    **{
                        name: quantize_weight(getattr(parts, name))
                        for name in ("qkv", "out", "up", "down")
                    },
                )
            )
        got = Engine(spec, replace(weights, layers=tuple(layers)), precision=None).encode(tokens)
        losses.append(1 - float((got * exact).sum(axis=1).mean()))
    assert losses[1] < 0.3 * losses[0]
    whole = Engine(spec, weights).encode(tokens)
    assert 1 - float((whole * exact).sum(axis=1).mean()) < 1e-3
