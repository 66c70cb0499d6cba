"""all-MiniLM-L6-v2 against vectors that transformers computed in float32 (tools/make_golden.py).

Texts of kind "english" are ordinary English; the "odd" ones are empty, endless, or full of symbols.
QUAVER_TEST_MODEL names the model folder; `make test` sets it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.engine.instruction_sets import bfloat16_sets, choose_isa
from quaver.engine.native_model import Precision
from quaver.errors import InstructionSetError
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.folder import ModelFolder
from quaver.reference import encode as reference_encode

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = os.environ.get("QUAVER_TEST_MODEL")
pytestmark = pytest.mark.skipif(
    not MODEL, reason="QUAVER_TEST_MODEL names no folder of all-MiniLM-L6-v2; `make test` sets it"
)

ENTRIES = json.loads((GOLDEN / "texts.json").read_text("utf-8"))["texts"]
TEXTS = [entry["text"] for entry in ENTRIES]
ENGLISH = np.array([entry["kind"] == "english" for entry in ENTRIES])


@pytest.fixture(scope="module")
def golden() -> NDArray[np.float32]:
    with np.load(GOLDEN / "all-MiniLM-L6-v2.npz") as file:
        vectors: NDArray[np.float32] = file["vectors"]
    return vectors


def load(precision: Precision) -> Embedder:
    assert MODEL is not None
    return Embedder.from_pretrained(MODEL, precision=precision)


def test_the_reference_is_transformers(golden: NDArray[np.float32]) -> None:
    assert MODEL is not None
    folder = ModelFolder.open(MODEL)
    spec = encoder_spec(folder.config, pooling=folder.pooling, normalize=folder.normalize)
    weights = encoder_weights(spec, folder.tensors())
    batch = load("float32").tokenizer.encode(TEXTS[:8])
    vectors = reference_encode(spec, weights, batch)
    # Components of unit vectors; both sides add up to 1536 float32 products, in other orders.
    assert np.abs(vectors - golden[:8]).max() < 2e-6


def test_float32_agrees(golden: NDArray[np.float32]) -> None:
    report = load("float32").encode_with_report(TEXTS)
    assert np.abs(report.vectors - golden).max() < 1e-5
    assert report.truncated == 4


def test_bfloat16_agrees(golden: NDArray[np.float32]) -> None:
    if choose_isa() not in bfloat16_sets():
        with pytest.raises(InstructionSetError, match="precision='bfloat16' needs"):
            load("bfloat16")
        return
    cosines = (load("bfloat16").encode(TEXTS) * golden).sum(axis=1)
    # Six tenths of the loss are the weights', which are published in float32.
    assert cosines[ENGLISH].mean() >= 0.99998
    assert cosines.min() >= 0.99995, f"text {cosines.argmin()}: {TEXTS[cosines.argmin()][:60]!r}"


def test_int8_agrees(golden: NDArray[np.float32]) -> None:
    cosines = (load("int8").encode(TEXTS) * golden).sum(axis=1)
    assert cosines[ENGLISH].mean() >= 0.9990
    assert cosines.min() >= 0.993, f"text {cosines.argmin()}: {TEXTS[cosines.argmin()][:60]!r}"
