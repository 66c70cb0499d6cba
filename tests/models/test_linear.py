"""Linear layers: integers exactly as the formulas say, awkward sizes, extreme values, stacking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from quaver.errors import WeightsError
from quaver.models.linear import (
    InputRange,
    LinearPart,
    LinearWeights,
    QuantizedLinear,
    dequantized,
    equal_groups,
    quantize_rows,
    quantize_weight,
    rounded_rows,
    stacked,
)

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


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("groups", [(), (64, 100), (64, 128, 384)])
def test_groups_of_inputs_have_scales_of_their_own(
    groups: tuple[int, ...], symmetric: bool
) -> None:
    inputs = groups[-1] if groups else 100
    weight = np.random.default_rng(inputs).standard_normal((9, inputs)).astype(np.float32)
    weight[:, :64] = np.abs(weight[:, :64]) * 50  # wide, and on one side
    quantized = quantize_weight(layer(weight), symmetric=symmetric, groups=groups)
    shape = (9, len(groups)) if groups else (9,)
    assert quantized.scale.shape == shape
    assert (quantized.zero is None) == symmetric
    error = np.abs(dequantized(quantized).weight - weight)
    # Half a step of the scale of its own group, and one float32 product.
    for g, group in enumerate(quantized.slices):
        part = weight[:, group]
        low, high = part.min(axis=1, initial=0), part.max(axis=1, initial=0)
        step = np.maximum(high, -low) / 127 if symmetric else (high - low) / 255
        assert np.all(error[:, group] <= step[:, None] * 0.50001)
        np.testing.assert_allclose(quantized.scale.reshape(9, -1)[:, g], step, rtol=1e-6)


def test_an_asymmetric_row_of_zeros() -> None:
    quantized = quantize_weight(layer(np.zeros((2, 3), np.float32)), symmetric=False)
    assert quantized.scale.tolist() == [1, 1]
    assert not dequantized(quantized).weight.any()


def test_stacked_weights_keep_zeros_and_groups() -> None:
    rng = np.random.default_rng(0)
    a, b = (layer(rng.standard_normal((n, 100)).astype(np.float32)) for n in (2, 3))
    groups = (64, 100)
    parts = [quantize_weight(a, groups=groups), quantize_weight(b, groups=groups, symmetric=False)]
    whole = dequantized(stacked(parts)).weight
    assert np.array_equal(whole, np.concatenate([dequantized(p).weight for p in parts]))
    with pytest.raises(WeightsError, match="same groups of inputs"):
        stacked([parts[0], quantize_weight(b)])


@pytest.mark.parametrize("size", [32, 64, 128])
def test_four_bits(size: int) -> None:
    weight = np.random.default_rng(0).standard_normal((9, 200)).astype(np.float32)
    weight[3, :size] = 0
    groups = equal_groups(200, size)
    assert groups[-1] == 200
    assert len(groups) == -(-200 // size)
    quantized = quantize_weight(layer(weight), groups=groups, bits=4)
    assert (quantized.weight.min(), quantized.weight.max()) == (-7, 7)
    steps = [np.abs(weight[:, group]).max(axis=1) / 7 for group in quantized.slices]
    error = np.abs(dequantized(quantized).weight - weight)
    for step, group in zip(steps, quantized.slices, strict=True):
        assert np.all(error[:, group] <= step[:, None] * 0.50001)
    with pytest.raises(WeightsError, match="same groups of inputs and bits"):
        stacked([quantized, quantize_weight(layer(weight), groups=groups)])


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


def test_a_fixed_range_cuts_what_is_outside() -> None:
    x = np.array([[-300, -1, 0, 2, 300]], np.float32)
    q, scale, zero = quantize_rows(x, InputRange(2.0, 100))
    assert (q.tolist(), scale.tolist(), zero.tolist()) == ([[0, 100, 100, 101, 250]], [2], [100])
    assert rounded_rows(x, InputRange(2.0, 100)).tolist() == [[-200, 0, 0, 2, 300]]


# --- Stacking -------------------------------------------------------------------------------------
def part(name: str, seed: int) -> LinearWeights:
    weight = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    return LinearWeights(weight, np.full(2, seed, np.float32), (LinearPart(name, 2),))


def test_stacked_layers_compute_what_their_parts_do() -> None:
    a, b = part("query", 1), part("key", 2)
    for first, second, kind in (
        (a, b, LinearWeights),
        (quantize_weight(a), quantize_weight(b), QuantizedLinear),
        (a, quantize_weight(b), LinearWeights),
    ):
        whole = stacked([first, second])
        assert isinstance(whole, kind)
        assert [p.name for p in whole.parts] == ["query", "key"]
        expected = np.concatenate([dequantized(first).weight, dequantized(second).weight])
        assert np.array_equal(dequantized(whole).weight, expected)
        assert whole.bias.tolist() == [1, 1, 2, 2]


def test_stacked_layers_share_one_input_range() -> None:
    a, b = quantize_weight(part("query", 1)), quantize_weight(part("key", 2))
    fixed = InputRange(0.5, 3)
    whole = stacked([replace(a, input=fixed), replace(b, input=fixed)])
    assert isinstance(whole, QuantizedLinear)
    assert whole.input == fixed
    with pytest.raises(WeightsError, match="query, key read the same"):
        stacked([replace(a, input=fixed), b])


def test_a_float_layer_is_its_own_dequantized_form() -> None:
    a = part("query", 1)
    assert dequantized(a) is a
