"""The NumPy encoder against formulas written out once more, value by value."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from quaver import reference
from quaver.models.encoder_weights import NormWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import Activation
from quaver.models.tokenizer import TokenBatch
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
    assert vectors.dtype == states[-1].dtype == np.float32
    # Rounding of 64 squares in float32.
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_text_alone_is_the_text_in_a_batch(pooling: str) -> None:
    spec = encoder_spec(CONFIG, pooling=pooling, normalize=False)
    texts = batch(5, 1, 17, 2, types=True)
    together = reference.encode(spec, WEIGHTS, texts)
    alone = [reference.encode(spec, WEIGHTS, texts.select(i, i + 1)) for i in range(4)]
    # BLAS sums a matrix of another height in another order.
    assert np.allclose(together, np.concatenate(alone), atol=1e-5)


def test_no_texts() -> None:
    for pooling in ("cls", "mean"):
        spec = encoder_spec(CONFIG, pooling=pooling, normalize=True)
        assert reference.encode(spec, WEIGHTS, batch()).shape == (0, 64)


def test_embed_sums_word_position_and_type() -> None:
    texts = batch(2, 3, types=True)
    assert texts.type_ids is not None
    embedded = reference.embed(SPEC, WEIGHTS, texts)
    for token, position in enumerate([0, 1, 0, 1, 2]):
        row = (
            WEIGHTS.word[texts.ids[token]]
            + WEIGHTS.position[position]
            + WEIGHTS.token_type[texts.type_ids[token]]
        ).astype(np.float64)
        norm = (row - row.mean()) / math.sqrt(row.var() + SPEC.norm_eps)
        expected = norm * WEIGHTS.embedding_norm.gamma + WEIGHTS.embedding_norm.beta
        assert np.allclose(embedded[token], expected, atol=1e-5)


def test_attention_stays_inside_its_sequence() -> None:
    heads, size = 4, 16
    qkv = RNG.standard_normal((5, 3 * heads * size)).astype(np.float32)
    offsets = np.array([0, 2, 5], np.int32)
    context = reference.attention(qkv, offsets, heads)
    q, k, v = (part.astype(np.float64) for part in np.split(qkv, 3, axis=1))
    for begin, end in ((0, 2), (2, 5)):
        for token in range(begin, end):
            for head in range(heads):
                one = slice(head * size, (head + 1) * size)
                scores = [q[token, one] @ k[j, one] / math.sqrt(size) for j in range(begin, end)]
                powers = [math.exp(score) for score in scores]
                expected = sum(
                    p / sum(powers) * v[j, one]
                    for p, j in zip(powers, range(begin, end), strict=True)
                )
                assert np.allclose(context[token, one], expected, atol=1e-5)


def test_attention_survives_large_scores() -> None:
    qkv = np.full((3, 12), 1e4, np.float32)
    assert np.allclose(reference.attention(qkv, np.array([0, 3]), 2), 1e4)


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
    x = np.linspace(-12, 12, 97, dtype=np.float32).reshape(1, -1)
    result = reference.activate(x, activation)
    assert result.dtype == np.float32
    assert callable(formula)
    assert np.allclose(result[0], [formula(float(value)) for value in x[0]], atol=2e-6)


def test_extreme_values_do_not_overflow() -> None:
    x = np.array([[-1e4, 1e4]], np.float32)
    for activation in ("gelu", "gelu_tanh", "relu", "silu"):
        assert np.allclose(reference.activate(x, activation), [[0, 1e4]])


def test_layer_norm_of_a_constant_row_is_beta() -> None:
    norm = NormWeights(np.full(4, 2, np.float32), np.arange(4, dtype=np.float32))
    row = np.full((1, 4), 3, np.float32)
    assert np.allclose(reference.layer_norm(row, norm, 1e-12), [[0, 1, 2, 3]])


def test_pooling() -> None:
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    offsets = np.array([0, 2, 5], np.int32)
    cls = reference.pool(replace(SPEC, pooling="cls"), x, offsets)
    mean = reference.pool(replace(SPEC, pooling="mean"), x, offsets)
    assert cls.tolist() == [[0, 1], [4, 5]]
    assert mean.tolist() == [[1, 2], [6, 7]]


def test_normalized_leaves_zeros() -> None:
    rows = np.array([[3, 4], [0, 0]], np.float32)
    assert np.allclose(reference.normalized(rows), [[0.6, 0.8], [0, 0]])
