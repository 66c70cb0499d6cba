"""Output types and similarity."""

from __future__ import annotations

import numpy as np
import pytest

from quaver.engine.postprocessing import convert, similarity, similarity_pairwise
from quaver.errors import InputError

VECTORS = np.array([[3, 4, 0], [0, 0, 0], [-1, 0, 1]], np.float32)


def test_float32() -> None:
    assert np.array_equal(convert(VECTORS, normalize=False, output="float32"), VECTORS)
    unit = convert(VECTORS, normalize=True, output="float32")
    assert np.allclose(unit[0], [0.6, 0.8, 0])
    assert unit[1].tolist() == [0, 0, 0]
    assert convert(VECTORS[:, :2], normalize=False, output="float32").flags.c_contiguous


def test_int8_is_127_times_the_unit_vector() -> None:
    quantized = convert(VECTORS, normalize=False, output="int8")
    assert quantized.dtype == np.int8
    assert quantized.tolist() == [[76, 102, 0], [0, 0, 0], [-90, 0, 90]]


def test_binary_packs_signs_first_component_highest() -> None:
    wide = np.zeros((2, 10), np.float32)
    wide[0, [0, 9]] = 1
    wide[1] = -1
    packed = convert(wide, normalize=True, output="binary")
    assert packed.dtype == np.uint8
    assert packed.tolist() == [[0b10000000, 0b01000000], [0, 0]]


def test_an_unknown_output() -> None:
    with pytest.raises(InputError, match="'float32', 'int8' or 'binary': got 'float16'"):
        convert(VECTORS, normalize=True, output="float16")  # type: ignore[arg-type]


def test_cosine_and_dot() -> None:
    assert np.allclose(similarity(VECTORS[0], VECTORS, metric="cosine"), [1, 0, -0.42426407])
    assert similarity(VECTORS[0], VECTORS, metric="dot").tolist() == [25, 0, -3]


def test_distances_are_negative() -> None:
    euclidean = similarity(VECTORS, VECTORS, metric="euclidean")
    assert np.allclose(
        euclidean, [[0, -5, -(33**0.5)], [-5, 0, -(2**0.5)], [-(33**0.5), -(2**0.5), 0]]
    )
    manhattan = similarity(VECTORS[0], VECTORS, metric="manhattan")
    assert manhattan.tolist() == [0, -7, -9]
    for metric in ("euclidean", "manhattan"):
        whole = similarity(VECTORS, VECTORS[::-1], metric=metric)
        pairs = similarity_pairwise(VECTORS, VECTORS[::-1], metric=metric)
        assert np.array_equal(pairs, np.diag(whole))
        assert similarity(VECTORS[0], VECTORS[1], metric=metric).shape == ()
        assert similarity(VECTORS[:0], VECTORS, metric=metric).shape == (0, 3)


def test_single_vectors_drop_their_axis() -> None:
    one, many = VECTORS[0], VECTORS
    shapes = [similarity(a, b, metric="dot").shape for a in (one, many) for b in (one, many)]
    assert shapes == [(), (3,), (3,), (3, 3)]
    assert similarity(many[:0], many, metric="cosine").shape == (0, 3)
    assert similarity(many, many, metric="cosine").dtype == np.float32


def test_int8_vectors_compare_as_their_floats() -> None:
    quantized = convert(VECTORS, normalize=True, output="int8")
    exact = similarity(VECTORS, VECTORS, metric="cosine")
    # Three components rounded to 1/127 each.
    assert np.allclose(similarity(quantized, quantized, metric="cosine"), exact, atol=0.02)


def test_vectors_that_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="same dimension: got 3 and 2"):
        similarity(VECTORS, VECTORS[:, :2], metric="cosine")
    with pytest.raises(InputError, match="a must be float or int8 vectors"):
        similarity(convert(VECTORS, normalize=True, output="binary"), VECTORS, metric="cosine")
    with pytest.raises(InputError, match="b must be float or int8 vectors"):
        similarity(VECTORS, np.float32(3), metric="cosine")
