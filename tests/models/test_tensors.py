"""A checkpoint's tensors: the prefix, checks of each tensor, int8 layers, and what is left over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver.errors import WeightsError
from quaver.models.linear import InputRange, LinearWeights, QuantizedLinear
from quaver.models.tensors import NamedTensors

ANCHOR = "embeddings.word.weight"
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def named(prefix: str = "bert.", **tensors: NDArray[Any]) -> NamedTensors:
    """Tensors with the word table; keyword a__b is the tensor a.b behind the prefix."""
    inner = {f"{prefix}{name.replace('__', '.')}": tensor for name, tensor in tensors.items()}
    return NamedTensors({f"{prefix}{ANCHOR}": TABLE, **inner}, anchor=ANCHOR)


@pytest.mark.parametrize("prefix", ["", "bert.", "model.encoder."])
def test_a_prefix_is_found_and_added(prefix: str) -> None:
    tensors = named(prefix, norm__bias=np.ones(3, np.float32))
    assert "norm.bias" in tensors
    assert "norm.weight" not in tensors
    assert np.array_equal(tensors.take(ANCHOR, 4, 3), TABLE)
    tensors.take("norm.bias", 3)
    tensors.require_all_taken("", "the family")


def test_a_tensor_beside_the_encoder_has_no_prefix() -> None:
    head = np.ones((1, 3), np.float32)
    tensors = NamedTensors({f"bert.{ANCHOR}": TABLE, "classifier.weight": head}, anchor=ANCHOR)
    linear = tensors.linear("classifier", 1, 3, bias=False)
    assert isinstance(linear, LinearWeights)
    assert np.array_equal(linear.weight, head)
    assert linear.bias.tolist() == [0]
    assert linear.parts[0].stored == "classifier"


@pytest.mark.parametrize("names", [[], [f"a.{ANCHOR}", f"b.{ANCHOR}"], [f"a{ANCHOR}"]])
def test_the_anchor_is_there_exactly_once(names: list[str]) -> None:
    with pytest.raises(WeightsError, match=f"exactly one tensor '{ANCHOR}'"):
        NamedTensors(dict.fromkeys(names, TABLE), anchor=ANCHOR)


def test_a_taken_float_tensor_is_a_view() -> None:
    assert np.shares_memory(named().take(ANCHOR, 4, 3), TABLE)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, "'bert.x' is missing"),
        (np.zeros(4, np.float32), r"shape \(3,\) by config.json: got \(4,\)"),
        (np.zeros(3, np.int64), "must hold floats: got int64"),
        (np.array([1, np.nan, 2], np.float32), "has NaN or infinity"),
        (np.array([1, -np.inf, np.inf], np.float32), "has NaN or infinity"),
    ],
)
def test_a_tensor_outside_its_rule_is_named(tensor: Any, message: str) -> None:
    tensors = named(**({} if tensor is None else {"x": tensor}))
    with pytest.raises(WeightsError, match=message):
        tensors.take("x", 3)


def test_large_finite_values_are_finite() -> None:
    largest = np.full(3, np.finfo(np.float32).max, np.float32)  # their sum is infinite
    assert np.array_equal(named(x=largest).take("x", 3), largest)


def test_a_table_in_int8_is_dequantized() -> None:
    table, scale = np.array([[1, -2], [3, 4]], np.int8), np.array([[0.5], [2]], np.float32)
    taken = named(x=table, x_scale=scale).take("x", 2, 2)
    assert taken.tolist() == [[0.5, -1], [6, 8]]


def test_a_linear_layer_in_int8() -> None:
    weight, bias = np.array([[1, -127], [3, 4]], np.int8), np.array([1, 2], np.float32)
    scale = np.array([[0.5], [2]], np.float32)
    parts: dict[str, Any] = {"q__weight": weight, "q__weight_scale": scale, "q__bias": bias}
    dynamic = named(**parts).linear("q", 2, 2)
    assert isinstance(dynamic, QuantizedLinear)
    assert (dynamic.scale.tolist(), dynamic.input) == ([0.5, 2], None)
    assert np.array_equal(dynamic.weight, weight)
    point = np.array([-28], np.int8)
    parts |= {"q__input_scale": np.array([0.25], np.float32), "q__input_zero_point": point}
    static = named(**parts).linear("q", 2, 2)
    assert isinstance(static, QuantizedLinear)
    assert static.input == InputRange(0.25, 100)  # the file counts from -128, the engine from 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q__weight": np.zeros((2, 2), np.float32)}, "must hold int8: got float32"),
        ({"q__weight_scale": np.zeros((2, 1), np.float32)}, "must hold positive scales"),
        ({"q__input_zero_point": np.array([1], np.int32)}, "must hold int8: got int32"),
    ],
)
def test_a_broken_layer_in_int8(changed: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {
        "q__weight": np.ones((2, 2), np.int8),
        "q__weight_scale": np.ones((2, 1), np.float32),
        "q__input_scale": np.ones(1, np.float32),
        "q__bias": np.zeros(2, np.float32),
    }
    with pytest.raises(WeightsError, match=message):
        named(**{**parts, **changed}).linear("q", 2, 2)


def test_what_is_left_over_is_named() -> None:
    tensors = named(layer__9__weight=TABLE, pooler__weight=TABLE)
    tensors.require_all_taken("embeddings.position", "the family")
    with pytest.raises(
        WeightsError, match=r"1 tensors that bert does not have, first 'bert.layer.9"
    ):
        tensors.require_all_taken("layer.", "bert")
