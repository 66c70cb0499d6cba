"""Vectors of parts of texts: spans, tokens, and tokens that others do not attend to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quaver.engine import Engine, token_spans
from quaver.errors import InputError
from quaver.models import TokenBatch, encoder_spec, encoder_weights
from tiny_model import tiny_config, tiny_tensors

CONFIG = tiny_config(max_positions=300)
WEIGHTS = tiny_tensors(CONFIG)


def engine(pooling: str = "mean", precision: str = "float32", **options: bool) -> Engine:
    spec = encoder_spec(CONFIG, pooling=pooling, normalize=options.get("normalize", False))
    return Engine(spec, encoder_weights(spec, WEIGHTS), precision=precision, threads=2)  # type: ignore[arg-type]


def batch_of(*lengths: int, keys: list[int] | None = None) -> TokenBatch:
    rng = np.random.default_rng(sum(lengths))
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    ids = rng.integers(0, CONFIG["vocab_size"], offsets[-1]).astype(np.int32)
    counts = None if keys is None else np.array(keys, np.int32)
    return TokenBatch(ids, offsets, None, 0, counts)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_span_is_pooled_as_a_text(precision: str) -> None:
    batch = batch_of(9, 40, 3, 120)
    whole = np.stack([batch.offsets[:-1], batch.offsets[1:]], axis=1)
    for pooling in ("mean", "cls", "max", "lasttoken", "cls+mean"):
        model = engine(pooling, precision)
        assert np.array_equal(model.encode(batch, spans=whole), model.encode(batch))


def test_the_mean_of_a_span_is_that_of_its_tokens() -> None:
    batch = batch_of(9, 40, 3)
    model = engine()
    tokens = model.encode(batch, spans=token_spans(batch))
    assert tokens.shape == (52, CONFIG["hidden_size"])
    spans = np.array([[0, 4], [2, 9], [9, 49], [30, 31], [50, 52]], np.int32)
    means = np.stack([tokens[a:b].mean(axis=0) for a, b in spans.tolist()])
    np.testing.assert_allclose(model.encode(batch, spans=spans), means, atol=1e-5)
    kept = np.zeros(52, bool)
    kept[[0, 8, 9, 51]] = True
    assert np.array_equal(model.encode(batch, spans=token_spans(batch, kept)), tokens[kept])
    unit = engine(normalize=True).encode(batch, spans=spans)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert model.encode(batch, spans=np.zeros((0, 2), np.int32)).shape == (0, 64)


def test_wrong_spans_are_refused() -> None:
    batch = batch_of(9, 40)
    for wrong in ([[3, 3]], [[8, 10]], [[-1, 3]], [[48, 50]], [[49, 50]], [[20, 21], [0, 2]]):
        with pytest.raises(InputError, match="spans must have at least one token"):
            engine().encode(batch, spans=np.array(wrong, np.int32))
    for shape in (np.zeros((2, 3), np.int32), np.zeros(4, np.int32), np.zeros((2, 2))):
        with pytest.raises(InputError, match=r"spans must be int32 \(S, 2\)"):
            engine().encode(batch, spans=shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_tokens_that_are_no_keys_change_nothing_for_the_others(precision: str) -> None:
    batch = batch_of(32, 12, keys=[20, 12])
    model = engine(precision=precision)
    tokens = model.encode(batch, spans=token_spans(batch))
    first = TokenBatch(batch.ids[:20], np.array([0, 20], np.int32), None, 0)
    assert np.array_equal(tokens[:20], model.encode(first, spans=token_spans(first)))
    everything = replace(batch, keys=None)
    assert not np.allclose(tokens, model.encode(everything, spans=token_spans(batch)), atol=1e-3)
    for wrong in ([0, 12], [33, 12], [20]):
        with pytest.raises(InputError, match="keys must have a count for each text"):
            model.encode(batch_of(32, 12, keys=wrong))
