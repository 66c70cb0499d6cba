"""Quantization in memory: integers exactly as the formulas say, awkward sizes, extreme values."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from quaver.models.int8 import quantize_rows, quantize_weight, quantized_linear
from quaver.models.linear import LinearWeights

SIZES = (1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 384)
MATRICES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def layer(weight: NDArray[np.float32]) -> LinearWeights:
    return LinearWeights(weight, np.zeros(len(weight), np.float32))


@pytest.mark.parametrize("size", SIZES)
def test_weights_over_awkward_sizes(size: int) -> None:
    weight = np.random.default_rng(size).standard_normal((size, 400 - size)).astype(np.float32)
    quantized = quantize_weight(layer(weight))
    assert (quantized.weight.dtype, quantized.scale.dtype) == (np.int8, np.float32)
    assert quantized.weight.shape == weight.shape
    assert np.array_equal(np.abs(quantized.weight.astype(int)).max(axis=1), np.full(size, 127))
    expected = np.rint(weight / (np.abs(weight).max(axis=1) / np.float32(127))[:, None])
    assert np.array_equal(quantized.weight, expected)
    restored = quantized.weight * quantized.scale[:, None]
    # Half a step, and the rounding of one float32 product.
    assert np.all(np.abs(restored - weight) <= quantized.scale[:, None] * 0.50001)


def test_halves_go_to_even() -> None:
    weight = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -127]], np.float32)
    assert quantize_weight(layer(weight)).weight.tolist() == [[127, 0, 2, 2, 0, -2, -127]]


def test_rows_of_zeros_have_scale_one() -> None:
    weight = np.array([[0, 0], [1, -2]], np.float32)
    quantized = quantize_weight(layer(weight))
    assert quantized.scale.tolist() == [1, np.float32(2) / np.float32(127)]
    assert quantized.weight.tolist() == [[0, 0], [64, -127]]
    q, scale, zero = quantize_rows(np.zeros((2, 3), np.float32))
    assert (q.tolist(), scale.tolist(), zero.tolist()) == ([[0] * 3] * 2, [1, 1], [0, 0])


@given(MATRICES)
def test_weights_stay_in_range(weight: NDArray[np.float32]) -> None:
    quantized = quantize_weight(layer(weight))
    assert np.all(quantized.scale > 0)
    assert quantized.weight.min() >= -127


@given(MATRICES)
def test_rows_come_back_within_one_step(x: NDArray[np.float32]) -> None:
    q, scale, zero = quantize_rows(x)
    assert (q.dtype, scale.dtype, zero.dtype) == (np.uint8, np.float32, np.int32)
    assert np.all((zero >= 0) & (zero <= 255))
    assert np.all(scale > 0)
    restored = (q.astype(np.float64) - zero[:, None]) * scale[:, None]
    assert np.all(np.abs(restored - x) <= scale[:, None] * 1.001)


@pytest.mark.parametrize(
    ("row", "q", "zero"),
    [
        ([0, 255], [0, 255], 0),
        ([-255, 0], [0, 255], 255),
        ([-100, 155], [0, 255], 100),
        ([10, 255], [10, 255], 0),
        ([-255, -10], [0, 245], 255),
    ],
)
def test_the_range_of_a_row_holds_zero(row: list[float], q: list[int], zero: int) -> None:
    got = quantize_rows(np.array([row], np.float32))
    assert (got[0].tolist(), got[1].tolist(), got[2].tolist()) == ([q], [1], [zero])


@pytest.mark.parametrize("size", SIZES)
def test_the_linear_layer_is_near_the_float_one(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.standard_normal((5, size)).astype(np.float32)
    linear = LinearWeights(
        rng.standard_normal((11, size)).astype(np.float32),
        rng.standard_normal(11).astype(np.float32),
    )
    got = quantized_linear(x, quantize_weight(linear))
    assert got.dtype == np.float32
    # Each product errs by at most half a weight step times |x| and a row step times |w|.
    wide, row = np.abs(linear.weight).max(axis=1) / 127, (x.max(1) - x.min(1).clip(max=0)) / 255
    bound = 0.51 * np.abs(x).sum(1)[:, None] * wide + 1.1 * row[:, None] * np.abs(
        linear.weight
    ).sum(1)
    error = np.abs(got - (x @ linear.weight.T + linear.bias))
    assert np.all(error <= bound + 0.51 * size * wide * row[:, None] + 1e-4)


def test_the_sums_of_the_linear_layer_are_exact() -> None:
    x = np.tile(np.array([0, 255], np.float32), (1, 2048))
    weight = np.full((2, 4096), 127, np.float32) * np.array([[1], [-1]], np.float32)
    got = quantized_linear(x, quantize_weight(layer(weight)))
    assert got.tolist() == [[255 * 127 * 2048, -255 * 127 * 2048]]


def test_a_model_of_ten_million_weights_is_quantized_quickly() -> None:
    weight = np.random.default_rng(0).standard_normal((6912, 1536), np.float32)
    begin = time.process_time()
    quantize_weight(layer(weight))
    assert time.process_time() - begin < 0.25
