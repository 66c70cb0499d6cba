"""The int8 linear layer: near the float one, and exact in its sums."""

from __future__ import annotations

import numpy as np
import pytest

from quaver.models.linear import LinearWeights, quantize_weight
from quaver.reference import quantized_linear

SIZES = (1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 384)


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
    got = quantized_linear(x, quantize_weight(LinearWeights(weight, np.zeros(2, np.float32))))
    assert got.tolist() == [[255 * 127 * 2048, -255 * 127 * 2048]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_hold_wide_inputs_apart(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 200)).astype(np.float32)
    x[:, :64] *= 100
    linear = LinearWeights(
        rng.standard_normal((11, 200)).astype(np.float32) / 10, np.ones(11, np.float32)
    )
    truth = x @ linear.weight.T + linear.bias

    def error(groups: tuple[int, ...]) -> float:
        weights = quantize_weight(linear, symmetric=symmetric, groups=groups)
        return float(np.square(quantized_linear(x, weights) - truth).mean())

    assert error((64, 200)) < error(()) / 1.2
    # What is left is the rounding of the wide inputs and their weights.
    wide = quantize_weight(LinearWeights(linear.weight[:, :64], linear.bias), symmetric=symmetric)
    alone = np.square(
        quantized_linear(x[:, :64], wide) - x[:, :64] @ linear.weight[:, :64].T - linear.bias
    ).mean()
    assert error((64, 200)) < alone * 1.05
