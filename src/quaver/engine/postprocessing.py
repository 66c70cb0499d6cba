"""Vectors after the model: length, truncation, output type, similarity."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError

Output = Literal["float32", "int8", "binary"]
Vectors = NDArray[Any]
Vector = np.ndarray[tuple[int], np.dtype[np.float32]]
"""One vector, (D,)."""
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
"""A vector a row, (N, D)."""
ShortVector = np.ndarray[tuple[int], np.dtype[np.int8 | np.uint8]]
"""One vector of output "int8" or "binary"."""
ShortMatrix = np.ndarray[tuple[int, int], np.dtype[np.int8 | np.uint8]]
"""Vectors of output "int8" or "binary"."""


def convert(pooled: NDArray[np.float32], *, normalize: bool, output: Output) -> Vectors:
    """Normalize pooled vectors and convert them to the output type.

    Formula:
        float32: v / |v| if normalize else v
        int8:    round(127 * v / |v|), symmetric, so the dot product of two is 127^2 times their
            cosine
        binary:  bit i is v_i > 0, eight to a byte, the first component in the highest bit

    Args:
        pooled: float32 (N, D).
        normalize: divide by the length; int8 always does.
        output: "float32", "int8" or "binary".

    Returns:
        float32 (N, D), int8 (N, D) in [-127, 127], or uint8 (N, ceil(D / 8)); C-contiguous.

    Raises:
        InputError: output is another value.
    """
    if output == "float32":
        return np.ascontiguousarray(normalized(pooled) if normalize else pooled)
    if output == "int8":
        return np.rint(normalized(pooled) * 127).astype(np.int8)
    if output == "binary":
        return np.packbits(pooled > 0, axis=1)
    raise InputError(f"output must be 'float32', 'int8' or 'binary': got {output!r}")


def shortened(
    pooled: NDArray[np.float32], dimension: int | None, family: str
) -> NDArray[np.float32]:
    """Keep the leading components of vectors, as their model was trained for it (Matryoshka).

    Formula:
        v[:dimension]; of Nomic's models ((v - mean v) / sqrt(var v + 1e-5))[:dimension]

    Args:
        pooled: float32 (N, D).
        dimension: components to keep; None keeps all, and leaves the vectors as they are.
        family: the model's, a key of `quaver.models.families.FAMILIES`.

    Returns:
        float32 (N, dimension), not normalised.

    Source:
        Kusupati et al., Matryoshka Representation Learning (arXiv 2205.13147); the layer norm is in
        the model card of nomic-ai/nomic-embed-text-v1.5.
    """
    if dimension is None:
        return pooled
    if family == "nomic_bert":
        centred = pooled - pooled.mean(axis=1, keepdims=True)
        pooled = centred / np.sqrt(
            np.square(centred).mean(axis=1, keepdims=True) + np.float32(1e-5)
        )
    return pooled[:, :dimension]


def similarity(a: Vectors, b: Vectors, *, metric: str) -> NDArray[np.float32]:
    """Compare every vector of a with every vector of b.

    Formula:
        dot: a_i . b_j;  cosine: a_i . b_j / (|a_i| |b_j|), 0 for a vector of zeros;
        euclidean: -|a_i - b_j|;  manhattan: -sum_d |a_id - b_jd|

    Args:
        a: float32 or int8, (D,) or (N, D).
        b: float32 or int8, (D,) or (M, D).
        metric: "cosine", "dot", "euclidean" or "manhattan".

    Returns:
        float32 (N, M); a single vector drops its axis: (D,) with (M, D) returns (M,).

    Raises:
        InputError: the vectors have other shapes, different dimensions, or are binary.
    """
    left, right = _rows("a", a), _rows("b", b)
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"vectors must have the same dimension: got {left.shape[1]} and {right.shape[1]}"
        )
    if metric in _DISTANCES:
        scores = np.empty((len(left), len(right)), np.float32)
        for row, vector in zip(scores, left, strict=True):
            row[:] = -_DISTANCES[metric](right - vector)
    else:
        if metric == "cosine":
            left, right = normalized(left), normalized(right)
        scores = left @ right.T
    return scores.reshape(np.shape(a)[:-1] + np.shape(b)[:-1])


def similarity_pairwise(a: Vectors, b: Vectors, *, metric: str) -> NDArray[np.float32]:
    """Compare each vector of a with the vector of b in the same row.

    Formula:
        dot: a_i . b_i;  cosine: a_i . b_i / (|a_i| |b_i|), 0 for a vector of zeros;
        euclidean: -|a_i - b_i|;  manhattan: -sum_d |a_id - b_id|

    Args:
        a: float32 or int8, (D,) or (N, D).
        b: float32 or int8, of the same shape.
        metric: "cosine", "dot", "euclidean" or "manhattan".

    Returns:
        float32 (N,); () for two single vectors.

    Raises:
        InputError: the shapes differ, or the vectors are binary.
    """
    left, right = _rows("a", a), _rows("b", b)
    if np.shape(a) != np.shape(b):
        raise InputError(
            f"vectors must come in pairs, so a and b need the same shape: got {np.shape(a)} and "
            f"{np.shape(b)}; similarity(a, b) compares all with all"
        )
    if metric in _DISTANCES:
        scores = -_DISTANCES[metric](left - right)
    else:
        if metric == "cosine":
            left, right = normalized(left), normalized(right)
        scores = np.einsum("nd,nd->n", left, right)
    return scores.reshape(np.shape(a)[:-1])


def _lengths(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.sqrt(np.square(differences).sum(axis=1))
    return lengths


def _sums(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    sums: NDArray[np.float32] = np.abs(differences).sum(axis=1)
    return sums


# Similarity is minus the distance, so that more is nearer everywhere.
_DISTANCES = {"euclidean": _lengths, "manhattan": _sums}


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row by its length; a row of zeros stays as it is. float32 (N, D)."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = vectors / lengths
    return unit


def _rows(name: str, vectors: Vectors) -> NDArray[np.float32]:
    array = np.asarray(vectors)
    if array.ndim not in (1, 2) or array.dtype.kind not in "fi":
        raise InputError(
            f"{name} must be float or int8 vectors, (D,) or (N, D): got {array.dtype} {array.shape}"
        )
    return np.atleast_2d(array).astype(np.float32)
