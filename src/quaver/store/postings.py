"""The inverted index: postings of terms with their weights, in immutable files.

The passages of a commit become a run: its terms in ascending order, and for each term the rows of
its passages, ascending, with their weights. Runs of similar size are merged as in a log-structured
merge tree, which keeps their number small and the memory for a merge bounded.

    file: T, P            two uint64: terms, postings
          ends            uint64 (T,): where the postings of each term end
          terms           uint32 (T,), ascending
          rows            uint32 (P,)
          weights         float32 (P,), or float16 in an index of sparse vectors
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.errors import StoreError

MAX_POSTINGS = 4 << 20
"""Approximate maximum of postings in a run; a merge takes about 30 bytes for each."""

MERGE_FAN_IN = 8
"""Number of runs of one level that are merged into one of the next."""


Weights = NDArray[np.float32] | NDArray[np.float16]


@dataclass(frozen=True)
class Postings:
    """The postings of some passages.

    Attributes:
        terms: uint32 (T,), ascending, each once.
        ends: uint64 (T,): where the postings of each term end.
        rows: uint32 (P,): rows of passages.
        weights: float32 or float16 (P,).
    """

    terms: NDArray[np.uint32]
    ends: NDArray[np.uint64]
    rows: NDArray[np.uint32]
    weights: Weights

    @classmethod
    def of(
        cls,
        terms: NDArray[np.uint32],
        rows: NDArray[np.uint32],
        weights: Weights,
    ) -> Postings:
        """Order postings.

        Args:
            terms: uint32 (P,): the term of each posting.
            rows: uint32 (P,): the passage of each, ascending for equal terms.
            weights: float32 or float16 (P,).
        """
        order = np.argsort(terms, kind="stable")
        ordered = terms[order]
        ends_here = np.ones(len(ordered), np.bool_)
        ends_here[:-1] = ordered[1:] != ordered[:-1]
        last = np.flatnonzero(ends_here)
        return cls(ordered[last], (last + 1).astype(np.uint64), rows[order], weights[order])

    @classmethod
    def read(
        cls, data: memoryview, path: object, weights: type[np.floating[Any]] = np.float32
    ) -> Postings:
        """Read a file; the arrays are views of its bytes.

        Args:
            data: the file's bytes.
            path: the file, for messages.
            weights: type of the weights.

        Raises:
            StoreError: it is broken.
        """
        if len(data) >= 16:
            count, postings = (int(n) for n in np.frombuffer(data[:16], np.uint64))
            size = 4 + np.dtype(weights).itemsize
            if len(data) == 16 + 12 * count + size * postings:
                cuts = [16, *(16 + 8 * count, 16 + 12 * count, 16 + 12 * count + 4 * postings)]
                parts = [data[a:b] for a, b in pairwise([*cuts, len(data)])]
                return cls(
                    terms=np.frombuffer(parts[1], np.uint32),
                    ends=np.frombuffer(parts[0], np.uint64),
                    rows=np.frombuffer(parts[2], np.uint32),
                    weights=np.frombuffer(parts[3], weights),
                )
        raise StoreError(f"{path} is broken; `quaver check --repair` rebuilds it")

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        head = np.array([len(self.terms), len(self.rows)], np.uint64)
        return b"".join(
            part.tobytes() for part in (head, self.ends, self.terms, self.rows, self.weights)
        )

    def of_term(self, term: int) -> tuple[NDArray[np.uint32], Weights]:
        """Return the rows of the passages with a term, and the weights."""
        at = int(np.searchsorted(self.terms, np.uint32(term)))
        if at == len(self.terms) or self.terms[at] != term:
            return self.rows[:0], self.weights[:0]
        first = int(self.ends[at - 1]) if at else 0
        last = int(self.ends[at])
        return self.rows[first:last], self.weights[first:last]

    def counts(self) -> NDArray[np.int64]:
        """Return the number of postings of each term, int64 (T,)."""
        ends = self.ends.astype(np.int64)
        first = np.zeros_like(ends)
        first[1:] = ends[:-1]
        counted: NDArray[np.int64] = ends - first
        return counted

    def is_sound(self, rows: int) -> bool:
        """Return whether the parts are consistent and fit a store with this many rows."""
        ends = self.ends.astype(np.int64)
        return (
            bool((np.diff(self.terms.astype(np.int64)) > 0).all())
            and bool((self.counts() > 0).all())
            and (int(ends[-1]) if len(ends) else 0) == len(self.rows)
            and (not len(self.rows) or int(self.rows.max()) < rows)
            and bool(np.isfinite(self.weights).all())
        )


def merged(
    runs: Sequence[Postings], alive: NDArray[np.bool_], renamed: NDArray[np.uint32] | None = None
) -> Postings:
    """Merge runs.

    Args:
        runs: the runs, those with the lower rows first.
        alive: bool (rows,): which passages are still stored; the others are left out.
        renamed: uint32 (rows,): the new number of each row; None keeps the numbers.

    Returns:
        their postings.
    """
    terms = np.concatenate([np.repeat(run.terms, run.counts()) for run in runs])
    rows = np.concatenate([run.rows for run in runs])
    weights = np.concatenate([run.weights for run in runs])
    kept = alive[rows]
    if not kept.all():
        terms, rows, weights = terms[kept], rows[kept], weights[kept]
    return Postings.of(terms, rows if renamed is None else renamed[rows], weights)


def scores(
    runs: Sequence[Postings], terms: Sequence[int], alive: NDArray[np.bool_], passages: int
) -> NDArray[np.float64]:
    """Return the BM25 score of each passage for a question; see `terms`.

    Args:
        runs: all runs of the store.
        terms: the question's terms, each once.
        alive: bool (rows,): which passages are stored.
        passages: how many of them are.

    Returns:
        float64 (rows,); 0 for passages without a term.

    Raises:
        StoreError: a run refers to a row that does not exist.
    """
    total = np.zeros(len(alive), np.float64)
    everything = bool(alive.all())
    for term in terms:
        found = [
            (rows, weights) for rows, weights in (run.of_term(term) for run in runs) if len(rows)
        ]
        if any(int(rows.max()) >= len(alive) for rows, _ in found):
            raise StoreError(
                "the words of the store are broken; `quaver check --repair` repairs them"
            )
        holding = sum(
            len(rows) if everything else int(np.count_nonzero(alive[rows])) for rows, _ in found
        )
        idf = math.log(1 + (passages - holding + 0.5) / (holding + 0.5))
        for rows, weights in found:
            total[rows] += np.float32(idf) * weights  # a row occurs once in a run
    if not everything:
        total[~alive] = 0
    return total


def products(
    runs: Sequence[Postings],
    words: NDArray[np.int32],
    weights: NDArray[np.float32],
    alive: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the product of each passage's weights with those of a question.

    Args:
        runs: all runs of the sparse index.
        words: int32 (n,): the question's words, each once.
        weights: float32 (n,): their weights.
        alive: bool (rows,): which passages are stored.

    Returns:
        float64 (rows,); 0 for passages without any of the words.

    Raises:
        StoreError: a run refers to a row that does not exist.
    """
    total = np.zeros(len(alive), np.float64)
    for word, weight in zip(words.tolist(), weights, strict=True):
        for run in runs:
            rows, held = run.of_term(word)
            if len(rows) and int(rows.max()) >= len(alive):
                raise StoreError(
                    "the sparse vectors of the store are broken; `quaver check --repair` repairs them"
                )
            total[rows] += weight * held.astype(np.float32)  # a row occurs once in a run
    total[~alive] = 0
    return total
