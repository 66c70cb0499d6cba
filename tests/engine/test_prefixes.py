"""What texts begin with, computed once: the bits are the same; and word embeddings as they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from quaver import _native
from quaver.engine.engine import Engine
from quaver.errors import EngineError, InputError
from quaver.models import EncoderSpec, EncoderWeights, ModelFolder, StoredTable, TokenBatch
from quaver.models.families.registry import encoder_weights
from tiny_model import write_tiny_decoder

ISAS = [name for name, available in _native.instruction_sets() if available]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderSpec, EncoderWeights]:
    folder = write_tiny_decoder(tmp_path_factory.mktemp("decoder"))
    spec = ModelFolder.open(folder).encoder_spec()
    return spec, encoder_weights(spec, load_file(Path(folder) / "model.safetensors"))


def batch_of(texts: list[list[int]], splits: list[int] | None = None) -> TokenBatch:
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int32)
    made = None if splits is None else np.array(splits, np.int32)
    return TokenBatch(np.concatenate(texts).astype(np.int32), offsets, None, 0, splits=made)


def texts() -> tuple[list[list[int]], list[int]]:
    """Return texts of two queries, one of a third, and one that shares nothing."""
    rng = np.random.default_rng(0)
    queries = [rng.integers(5, 90, n).tolist() for n in (12, 3, 7)]
    found, splits = [], []
    for i, length in ((0, 5), (1, 20), (0, 1), (2, 9), (0, 30), (1, 2)):
        found.append(queries[i] + rng.integers(5, 90, length).tolist())
        splits.append(len(queries[i]))
    return [*found, rng.integers(5, 90, 6).tolist()], [*splits, 0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_text_has_the_same_bits_alone(
    model: tuple[EncoderSpec, EncoderWeights], isa: str, precision: str
) -> None:
    engine = Engine(*model, precision=precision, isa=isa, threads=2)  # type: ignore[arg-type]
    rows, splits = texts()
    together = engine.encode(batch_of(rows, splits))
    for i, (row, split) in enumerate(zip(rows, splits, strict=True)):
        assert np.array_equal(engine.encode(batch_of([row], [split]))[0], together[i])
    whole = engine.encode(batch_of(rows))
    if precision == "float32":
        np.testing.assert_allclose(together, whole, atol=2e-6)
    assert np.sum(together * whole, axis=1).min() > 0.999


def test_a_prefix_is_computed_once(
    model: tuple[EncoderSpec, EncoderWeights], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(*model)
    computed: list[int] = []

    class Counting:
        def __init__(self, encoder: _native.Encoder) -> None:
            self.encoder = encoder

        def prefix(self, ids: np.ndarray, threads: int) -> _native.Prefix:
            computed.append(len(ids))
            return self.encoder.prefix(ids, threads)

        def encode(self, ids: np.ndarray, *rest: object, **more: object) -> int | None:
            computed.append(len(ids))
            return self.encoder.encode(ids, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_encoder", Counting(engine._encoder))
    engine.encode(batch_of(*texts()))
    # Two texts alone; then each query that several texts share, and these texts without it.
    assert computed == [16 + 6, 12, 5 + 1 + 30, 3, 20 + 2]


def test_splits_that_do_not_fit(model: tuple[EncoderSpec, EncoderWeights]) -> None:
    engine = Engine(*model)
    for splits in ([3], [-1], [3, 1]):
        with pytest.raises(InputError):
            engine.encode(batch_of([[5, 6, 7]], splits))


def test_a_model_that_sees_what_follows_ignores_them(
    model: tuple[EncoderSpec, EncoderWeights],
) -> None:
    spec, weights = model
    rows, splits = texts()
    for other in (spec.with_layers(causal=False), replace(spec, pooling="mean")):
        engine = Engine(other, weights)
        assert np.array_equal(engine.encode(batch_of(rows, splits)), engine.encode(batch_of(rows)))


def test_the_position_of_a_broken_text(model: tuple[EncoderSpec, EncoderWeights]) -> None:
    spec, weights = model
    word = np.array(weights.word[:])
    word[91] = np.inf
    engine = Engine(spec, replace(weights, word=word))
    rows, splits = texts()
    rows[4][-1] = 91
    with pytest.raises(EngineError, match="text 4 came out"):
        engine.encode(batch_of(rows, splits))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
def test_word_embeddings_as_they_are_stored(
    model: tuple[EncoderSpec, EncoderWeights], kind: str
) -> None:
    spec, weights = model
    word, scale = np.array(weights.word[:]), None
    if kind == "float16":
        rows = word.astype(np.float16)
        rows[5, :3] = 6e-8, -3e-5, 65504  # subnormal numbers, and the largest
    elif kind == "bfloat16":
        rows = (word.view(np.uint32) >> 16).astype(np.uint16)
    else:
        scale = np.abs(word).max(axis=1) / np.float32(127)
        rows = np.rint(word / scale[:, None]).astype(np.int8)
    table = StoredTable(rows, kind, scale)  # type: ignore[arg-type]
    batch = batch_of(texts()[0])
    for copied in (False, True):
        stored = Engine(spec, replace(weights, word=table), copy_tables=copied).encode(batch)
        widened = Engine(spec, replace(weights, word=table[:])).encode(batch)
        assert np.array_equal(stored, widened)
