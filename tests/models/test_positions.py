"""Slopes of ALiBi and frequencies of NTK scaling against their formulas, written another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quaver import reference
from quaver.engine import forward
from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.families.registry import encoder_spec
from quaver.models.geometry import Rotary
from quaver.models.positions import alibi_bias, rotary_tables

THETA, HEAD_SIZE = 500_000.0, 64
GTE: dict[str, Any] = {
    "model_type": "new",
    "vocab_size": 50,
    "hidden_size": 2 * HEAD_SIZE,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 8192,
    "rope_theta": THETA,
}


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (16, [0.5 * h for h in range(1, 17)]),
    ],
)
def test_alibi_falls_by_the_slope_of_the_head(heads: int, exponents: list[float]) -> None:
    bias = alibi_bias(heads, 5)
    assert bias.shape == (heads, 9)
    for row, exponent in zip(bias, exponents, strict=True):
        slope = 0.5**exponent
        expected = [-slope * distance for distance in (4, 3, 2, 1, 0, 1, 2, 3, 4)]
        np.testing.assert_allclose(row, expected, rtol=1e-6)  # one rounding of a power


def frequencies(factor: float) -> np.ndarray:
    """Read off what a spec turns from one token to the next, float64 (D / 2,)."""
    scaling = {"rope_scaling": {"type": "ntk", "factor": factor}}
    spec = encoder_spec({**GTE, **scaling}, pooling="cls", normalize=False)
    rotary = spec.layers[0].rotary
    assert rotary is not None
    cosine, sine = (table.astype(np.float64) for table in rotary_tables(rotary, 2, HEAD_SIZE))
    return np.arctan2(sine[1], cosine[1])


@pytest.mark.parametrize("factor", [1.0, 2.0, 8.0])
def test_ntk_scaling_slows_every_pair_by_its_share(factor: float) -> None:
    plain = np.array([THETA ** (-2 * i / HEAD_SIZE) for i in range(HEAD_SIZE // 2)])
    # Of D/2 = 32 pairs the first is slowed by factor^(1/32), the next by factor^(2/32), the last by
    # the factor itself, so that it turns over factor times the text as it did over the text.
    shares = np.array([factor ** (-(i + 1) / 32) for i in range(32)])
    got = frequencies(factor)
    # Exponents and powers in float32.
    np.testing.assert_allclose(got, plain * shares, rtol=3e-6)
    assert got[-1] == pytest.approx(plain[-1] / factor, rel=3e-6)


def test_a_rotation_is_a_product_of_complex_numbers() -> None:
    rng = np.random.default_rng(0)
    heads = rng.standard_normal((3, 5, 2, 4)).astype(np.float32)  # heads, T, half, D / 2
    angles = rng.uniform(-3, 3, (5, 4))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    got = forward.rotate(heads.reshape(3, 5, 8), cosine, sine).reshape(heads.shape)
    numbers = (heads[:, :, 0] + 1j * heads[:, :, 1]) * np.exp(1j * angles)
    np.testing.assert_allclose(got[:, :, 0], numbers.real, atol=1e-6)
    np.testing.assert_allclose(got[:, :, 1], numbers.imag, atol=1e-6)


def test_the_reference_turns_a_head_by_the_angles_of_its_places() -> None:
    rows = np.random.default_rng(6).standard_normal((5, 8))
    angles = np.arange(5)[:, None] * (100.0 ** (-np.arange(4) / 4) / 2)
    numbers = (rows[:, :4] + 1j * rows[:, 4:]) * np.exp(1j * angles)
    got = reference.rotate(rows, Rotary(100.0, 2.0))
    np.testing.assert_allclose(got, np.hstack([numbers.real, numbers.imag]), atol=1e-12)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 2.0},
        {"factor": 2.0},
        {"type": "ntk", "factor": 2.0, "mixed_b": 0.3},
    ],
)
def test_another_scaling_is_refused(scaling: object) -> None:
    with pytest.raises(UnsupportedArchitectureError) as caught:
        encoder_spec({**GTE, "rope_scaling": scaling}, pooling="cls", normalize=False)
    assert f"rope_scaling={scaling!r}" in str(caught.value)


@pytest.mark.parametrize("scaling", ["ntk", ["ntk"]])
def test_a_scaling_is_an_object(scaling: object) -> None:
    with pytest.raises(ModelFolderError, match="rope_scaling must be an object"):
        encoder_spec({**GTE, "rope_scaling": scaling}, pooling="cls", normalize=False)


@pytest.mark.parametrize("factor", [None, 0, -2.0, "2", True, 0.5])
def test_a_factor_that_lengthens_nothing(factor: object) -> None:
    scaling = {"rope_scaling": {"type": "ntk", "factor": factor}}
    with pytest.raises(ModelFolderError, match="factor"):
        encoder_spec({**GTE, **scaling}, pooling="cls", normalize=False)
