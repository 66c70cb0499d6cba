"""The reference encoder against formulas written out value by value."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from quaver import reference
from quaver.engine import forward
from quaver.models.encoder_weights import NormWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import Activation, RelativePositions
from quaver.models.positions import relative_rows
from quaver.models.tokenizer import TokenBatch
from quaver.reference.encoder import relative_row
from tiny_model import tiny_config, tiny_tensors

CONFIG = tiny_config()
SPEC = encoder_spec(CONFIG, pooling="mean", normalize=True)
WEIGHTS = encoder_weights(SPEC, tiny_tensors(CONFIG))
RNG = np.random.default_rng(7)


def batch(*lengths: int, types: bool = False) -> TokenBatch:
    rng = np.random.default_rng(sum(lengths))
    total = sum(lengths)
    ids = rng.integers(0, SPEC.vocab_size, total).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    type_ids = rng.integers(0, 2, total).astype(np.int32) if types else None
    return TokenBatch(ids, offsets, type_ids, 0)


def test_shapes_and_types() -> None:
    states = reference.hidden_states(SPEC, WEIGHTS, batch(3, 1, 64))
    assert [state.shape for state in states] == [(68, 64)] * 3
    vectors = reference.encode(SPEC, WEIGHTS, batch(3, 1, 64))
    assert vectors.shape == (3, 64)
    assert vectors.dtype == np.float32
    # Rounding of 64 squares in float32.
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_texts() -> None:
    for pooling in ("cls", "mean"):
        spec = encoder_spec(CONFIG, pooling=pooling, normalize=True)
        assert reference.encode(spec, WEIGHTS, batch()).shape == (0, 64)


def test_embed_sums_word_position_and_type() -> None:
    texts = batch(3, types=True)
    assert texts.type_ids is not None
    embedded = reference.embed(SPEC, WEIGHTS, texts.ids, texts.type_ids)
    for token in range(3):
        row = (
            WEIGHTS.word[texts.ids[token]]
            + WEIGHTS.position[token]
            + WEIGHTS.token_type[texts.type_ids[token]]
        ).astype(np.float64)
        norm = (row - row.mean()) / math.sqrt(row.var() + SPEC.norm_eps)
        expected = norm * WEIGHTS.embedding_norm.gamma + WEIGHTS.embedding_norm.beta
        assert np.allclose(embedded[token], expected, atol=1e-5)


def test_attention_is_a_softmax_over_the_text() -> None:
    hidden, size = SPEC.hidden_size, SPEC.layers[0].head_size
    qkv = RNG.standard_normal((3, 3 * hidden))
    context = reference.attend(SPEC, WEIGHTS, 0, qkv)
    q, k, v = np.split(qkv, 3, axis=1)
    for token in range(3):
        for head in range(SPEC.layers[0].heads):
            one = slice(head * size, (head + 1) * size)
            powers = [math.exp(q[token, one] @ k[j, one] / math.sqrt(size)) for j in range(3)]
            expected = sum(p / sum(powers) * v[j, one] for j, p in enumerate(powers))
            assert np.allclose(context[token, one], expected, atol=1e-12)


def test_attention_survives_large_scores() -> None:
    qkv = np.full((3, 3 * SPEC.hidden_size), 1e4)
    assert np.allclose(reference.attend(SPEC, WEIGHTS, 0, qkv), 1e4)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("gelu", lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))),
        (
            "gelu_tanh",
            lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
        ("relu", lambda x: max(x, 0.0)),
        ("silu", lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_activations(activation: Activation, formula: object) -> None:
    x = np.linspace(-12, 12, 97).reshape(1, -1)
    assert callable(formula)
    expected = [formula(float(value)) for value in x[0]]
    assert np.allclose(reference.ACTIVATIONS[activation](x)[0], expected, atol=1e-14)
    # The form that calibration runs has its own error function, within 6e-7.
    calibrated = forward.activate(x.astype(np.float32), activation)[0]
    assert np.allclose(calibrated, expected, atol=2e-6)


def test_extreme_values_do_not_overflow() -> None:
    x = np.array([[-1e4, 1e4]])
    for activation in ("gelu", "gelu_tanh", "relu", "silu"):
        assert np.allclose(reference.ACTIVATIONS[activation](x), [[0, 1e4]])


def test_layer_norm_of_a_constant_row_is_beta() -> None:
    norm = NormWeights(np.full(4, 2, np.float32), np.arange(4, dtype=np.float32))
    row = np.full((1, 4), 3.0)
    assert np.allclose(reference.norm(row, norm, 1e-12), [[0, 1, 2, 3]])


def test_pooling() -> None:
    x = np.concatenate([np.full((2, 2), 9.0), np.arange(6.0).reshape(3, 2)])
    offsets = np.array([0, 2, 5], np.int32)
    expected = {
        "cls": [0, 1],
        "lasttoken": [4, 5],
        "mean": [2, 3],
        "max": [4, 5],
        "mean_sqrt_len_tokens": [6 / math.sqrt(3), 9 / math.sqrt(3)],
        "cls+mean": [0, 1, 2, 3],
    }
    for pooling, vector in expected.items():
        spec = replace(SPEC, pooling=pooling, hidden_size=2)
        assert np.allclose(reference.pool(spec, x, offsets)[1], vector)


def test_normalized_leaves_zeros() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert np.allclose(reference.normalized(rows), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize(
    "relative",
    [
        RelativePositions(span=3),
        RelativePositions(span=8, reach=32),
        RelativePositions(span=256, reach=512),
    ],
)
def test_relative_rows_are_those_of_the_engine(relative: RelativePositions) -> None:
    length = 600
    rows = [relative_row(relative, distance) for distance in range(length - 1, -length, -1)]
    assert relative_rows(relative, length).tolist() == rows
