"""The nearest vectors: by their signs first, then in float32.

Of each component of a vector the sign is one bit: its sketch. The angle between two vectors grows
with the number of bits in which their sketches differ, and counting these for all vectors of a
store takes less time than a search graph needs for its first hundred: 2.5 MB at 50,000 vectors of
384 dimensions, against 77 MB. Those with the fewest differences are compared again in float32,
which gives their exact cosines. There is nothing to build and nothing to keep in step: a vector is
found as soon as it is written.

Source:
    Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EXACT_ROWS = 4096
"""Stores with at most this many vectors compare all of them in float32."""

MIN_RESCORED = 1000
"""Vectors that are compared again in float32, at least; more if more hits are requested."""

RESCORED_SHARE = 100
"""One in this many vectors is compared again, at least: a larger store has more similar sketches."""

_BLOCK = 1 << 16
_ROWS = 256
"""Vectors that are compared at a time: few enough to stay in the cache."""
_COUNTS = np.array([i.bit_count() for i in range(1 << 16)], np.uint8)


def words_of(dimension: int) -> int:
    """Return the uint64 words of a sketch."""
    return -(-dimension // 64)


def sketches(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the sketches of vectors.

    Args:
        vectors: float32 (N, D).

    Returns:
        uint64 (N, words_of(D)); bits after the last component are 0.
    """
    count, dimension = vectors.shape
    packed = np.zeros((count, 8 * words_of(dimension)), np.uint8)
    packed[:, : -(-dimension // 8)] = np.packbits(vectors > 0, axis=1)
    return packed.view(np.uint64)


class Sketches:
    """The sketches of a store's rows in memory, a word of all rows after the other."""

    def __init__(self, dimension: int) -> None:
        """Hold none yet.

        Args:
            dimension: length of a vector.
        """
        self._words = np.empty((words_of(dimension), 0), np.uint64)
        self.rows = 0

    def extend(self, more: NDArray[np.uint64]) -> None:
        """Take the sketches of further rows.

        Args:
            more: uint64 (N, words).
        """
        needed = self.rows + len(more)
        if needed > self._words.shape[1]:
            grown = np.empty((len(self._words), max(needed, needed * 5 // 4)), np.uint64)
            grown[:, : self.rows] = self._words[:, : self.rows]
            self._words = grown  # searches that run go on with the old one
        self._words[:, self.rows : needed] = more.T
        self.rows = needed

    def all(self) -> NDArray[np.uint64]:
        """Return uint64 (words, rows)."""
        return self._words[:, : self.rows]


def nearest(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    among: NDArray[np.bool_],
    sketched: NDArray[np.uint64] | None,
    k: int,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Find the rows whose vectors are nearest to a query.

    Args:
        query: float32 (D,), not all zeros.
        vectors: float32 (rows, D) of unit length.
        among: bool (rows,): which rows count.
        sketched: uint64 (words, rows); None compares every row that counts in float32.
        k: the minimum number of rows, if there are so many.

    Returns:
        rows in ascending order and their cosines; at least the k nearest are among them, with a
        probability that `benchmarks/index/search_speed.py` measures.
    """
    rows = np.flatnonzero(among)
    wanted = max(MIN_RESCORED, 20 * k, len(rows) // RESCORED_SHARE)
    if sketched is not None and len(rows) > max(EXACT_ROWS, wanted):
        apart = differences(sketches(query[None, :])[0], sketched)
        if len(rows) < len(among):
            apart = apart[rows]
        # All that differ in as few bits, so that it is not the order of rows that decides.
        most = int(np.searchsorted(np.cumsum(np.bincount(apart)), wanted))
        rows = rows[apart <= most]
    length = float(np.sqrt(np.einsum("i,i", query, query, dtype=np.float64))) or 1.0
    unit = (query / length).astype(np.float32)
    cosines = np.empty(len(rows), np.float64)
    for first in range(0, len(rows), _ROWS):
        part = slice(first, first + _ROWS)
        # Not a product of matrices: that gives equal rows unequal sums, and starts threads.
        cosines[part] = np.einsum("ij,j->i", vectors[rows[part]], unit)
    return rows, cosines


def differences(query: NDArray[np.uint64], sketched: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Return in how many bits each sketch differs from the query's.

    Args:
        query: uint64 (words,).
        sketched: uint64 (words, rows).
    """
    apart = np.zeros(sketched.shape[1], np.uint16)
    for first in range(0, len(apart), _BLOCK):
        part = apart[first : first + _BLOCK]
        for word, row in zip(query, sketched[:, first : first + _BLOCK], strict=True):
            part += _bits(row ^ word)
    return apart


def _bits(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        counted: NDArray[np.uint8] = np.bitwise_count(words)
    else:  # NumPy before 2.0
        quarters = _COUNTS[words.view(np.uint16)].reshape(-1, 4)
        counted = quarters.sum(axis=1, dtype=np.uint8)
    return counted
