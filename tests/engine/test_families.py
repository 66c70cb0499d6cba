"""Every family against transformers in float32: models, tokens and answers of tests/golden/families.

The files hold tiny random models with outlier channels, their weights rounded to half precision, and
what transformers made of them (tools/families.py --golden). GTE v1.5 with NTK scaling and Jina v2 are
in no package: their answers are of tools/published_forms.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver import _native, reference
from quaver.engine.engine import Engine
from quaver.engine.footprint import layer_bytes, table_bytes
from quaver.engine.instruction_sets import bfloat16_sets, choose_isa
from quaver.engine.native_model import PRECISIONS, Precision
from quaver.errors import UnsupportedArchitectureError
from quaver.models.families.registry import classifier_spec, encoder_spec, encoder_weights
from quaver.models.geometry import POOLINGS
from quaver.models.tokenizer import TokenBatch

GOLDEN = Path(__file__).parents[1] / "golden" / "families"
ISAS = [name for name, available in _native.instruction_sets() if available]
FAMILIES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
# Both sides sum in float32, in other orders, through three layers that outliers make steep.
TOLERANCE = 1e-4


class Golden:
    """One file: configs, tensors, tokens and answers."""

    def __init__(self, name: str) -> None:
        """Read the file of a family."""
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            self.arrays: dict[str, NDArray[Any]] = dict(arrays)
        self.configs = json.loads(self.arrays["configs"].tobytes())
        self.batch = TokenBatch(self.arrays["ids"], self.arrays["offsets"], None, 0)
        states = sorted(name for name in self.arrays if name.startswith("state"))
        self.states = [self.arrays[name] for name in states]

    @cache  # noqa: B019 - the files are kept to the end
    def tensors(self, kind: str) -> dict[str, NDArray[Any]]:
        start = f"{kind}/"
        return {
            name.removeprefix(start): array.astype(np.float32)
            for name, array in self.arrays.items()
            if name.startswith(start)
        }


@cache
def golden_of(name: str) -> Golden:
    """Read a family's file once; nobody changes its arrays."""
    return Golden(name)


@pytest.fixture(params=FAMILIES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return golden_of(request.param)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def relative(got: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.abs(got - truth).max() / np.abs(truth).max())


def test_every_family_is_there() -> None:
    assert FAMILIES == [
        "albert",
        "bert",
        "camembert",
        "debertav2",
        "distilbert",
        "electra",
        "electrasmall",
        "embeddinggemma2text",
        "ernie",
        "eurobert",
        "gemma3text",
        "gemma3textboth",
        "gte",
        "gtev15",
        "jinaembeddingsv3",
        "jinav2",
        "llama",
        "llamalinear",
        "llamayarn",
        "mistral",
        "modernbert",
        "mpnet",
        "nomicbert",
        "qwen2",
        "qwen2both",
        "qwen3",
        "qwen3both",
        "roberta",
        "t5",
        "t5gated",
        "xlmroberta",
    ]


def test_the_reference_is_transformers_layer_by_layer(golden: Golden) -> None:
    spec = encoder_spec(golden.configs["encoder"], pooling="cls", normalize=False)
    weights = encoder_weights(spec, golden.tensors("encoder"))
    states = reference.hidden_states(spec, weights, golden.batch)
    assert len(states) == len(golden.states)
    for layer, (got, truth) in enumerate(zip(states, golden.states, strict=True)):
        assert relative(got, truth) < TOLERANCE, f"layer {layer}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bytes_of_an_engine_are_known_before_it_is_packed(
    golden: Golden, precision: Precision
) -> None:
    if precision == "bfloat16" and choose_isa() not in bfloat16_sets():
        pytest.skip("bfloat16 is not multiplied here")
    spec = encoder_spec(golden.configs["encoder"], pooling="cls", normalize=False)
    weights = encoder_weights(spec, golden.tensors("encoder"))
    engine = Engine(spec, weights, precision=precision, threads=1)
    assert layer_bytes(spec, weights, precision) == engine._encoder.weight_bytes
    tables = table_bytes(spec, weights, precision)
    assert tables >= 2 * spec.vocab_size * spec.table_width
    assert engine.nbytes == engine._encoder.weight_bytes + tables


@pytest.mark.parametrize("pooling", [*POOLINGS, "cls+mean+max"])
def test_the_engine_is_transformers(golden: Golden, pooling: str, isa: str) -> None:
    config = golden.configs["encoder"]
    if "max" in pooling and config["model_type"] == "embedding_gemma2_text":
        with pytest.raises(
            UnsupportedArchitectureError, match=f"got pooling='{re.escape(pooling)}'"
        ):
            encoder_spec(config, pooling=pooling, normalize=False)
        return
    spec = encoder_spec(config, pooling=pooling, normalize=False)
    weights = encoder_weights(spec, golden.tensors("encoder"))
    got = Engine(spec, weights, precision="float32", isa=isa).encode(golden.batch)
    truth = reference.pool(spec, golden.states[-1], golden.batch.offsets)
    assert relative(got, truth) < TOLERANCE


def test_the_head_is_transformers(golden: Golden, isa: str) -> None:
    if "classifier" not in golden.configs:
        pytest.skip("the family has no classifier that is run")
    spec = classifier_spec(golden.configs["classifier"])
    weights = encoder_weights(spec, golden.tensors("classifier"))
    for got in (
        reference.encode(spec, weights, golden.batch),
        Engine(spec, weights, precision="float32", isa=isa).encode(golden.batch),
    ):
        assert got.shape == golden.arrays["logits"].shape
        assert relative(got, golden.arrays["logits"]) < TOLERANCE


@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_text_alone_is_the_same_bits(
    golden: Golden, precision: Any, pooling: str, isa: str
) -> None:
    spec = encoder_spec(golden.configs["encoder"], pooling=pooling, normalize=False)
    weights = encoder_weights(spec, golden.tensors("encoder"))
    engine = Engine(spec, weights, precision=precision, isa=isa)
    together = engine.encode(golden.batch)
    for i in range(len(golden.batch)):
        assert np.array_equal(engine.encode(golden.batch.select(i, i + 1))[0], together[i])


def test_int8_stays_near(golden: Golden, isa: str) -> None:
    spec = encoder_spec(golden.configs["encoder"], pooling="mean", normalize=True)
    weights = encoder_weights(spec, golden.tensors("encoder"))
    got = Engine(spec, weights, isa=isa).encode(golden.batch)
    truth = reference.normalized(reference.pool(spec, golden.states[-1], golden.batch.offsets))
    # Sixteen features of which several are outliers: a rough step. What is promised is measured at
    # real shapes (tools/families.py --real); this finds a tensor that is quantized wrongly.
    assert (got * truth).sum(axis=1).mean() > 0.98


def test_bfloat16_is_near(golden: Golden, isa: str) -> None:
    if isa not in bfloat16_sets():
        pytest.skip(f"{isa} does not multiply bfloat16 here")
    spec = encoder_spec(golden.configs["encoder"], pooling="mean", normalize=True)
    weights = encoder_weights(spec, golden.tensors("encoder"))
    got = Engine(spec, weights, precision="bfloat16", isa=isa).encode(golden.batch)
    truth = reference.normalized(reference.pool(spec, golden.states[-1], golden.batch.offsets))
    # An outlier errs in proportion to its own size, and sixteen features average little; see test_int8_stays_near.
    assert (got * truth).sum(axis=1).mean() > 0.998


def test_a_window_is_linear_and_the_same_as_a_mask(isa: str) -> None:
    golden = Golden("modernbert")
    spec = encoder_spec(golden.configs["encoder"], pooling="mean", normalize=False)
    assert {layer.window for layer in spec.layers} == {None, 4}
    longest = replace(spec, max_positions=400)
    rng = np.random.default_rng(3)
    ids = rng.integers(5, spec.vocab_size, 700).astype(np.int32)
    batch = TokenBatch(ids, np.array([0, 300, 700], np.int32), None, 0)
    weights = encoder_weights(longest, golden.tensors("encoder"))
    got = Engine(longest, weights, precision="float32", isa=isa).encode(batch)
    assert relative(got, reference.encode(longest, weights, batch)) < TOLERANCE
