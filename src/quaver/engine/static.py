"""Static models: the mean over rows of a table, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quaver.engine.native_model import Precision
from quaver.errors import EngineError, InputError, TokenRangeError
from quaver.models import StaticSpec, StaticWeights, TokenBatch


class StaticEngine:
    """A table of vectors that is run as an `Engine` is.

    Why NumPy, and one thread: it sums three million tokens of 256 features a second, and the next texts
    are tokenized meanwhile.

    A text's vector is the same bits alone and in any batch: rows are summed text by text, in order.

    Attributes:
        spec: the model.
        precision: "int8" if the table is int8, else "float32".
        isa: always "numpy": no kernel runs.
        threads: always 1.
        nbytes: bytes of the table, mapped or not.
    """

    def __init__(self, spec: StaticSpec, weights: StaticWeights) -> None:
        """Take a table.

        Args:
            spec: the model.
            weights: its table, which may be a view of a mapped file and stays alive with the engine.
        """
        self.spec = spec
        self.precision: Precision = "int8" if weights.rows.dtype == np.int8 else "float32"
        self.isa = "numpy"
        self.threads = 1
        self._weights = weights
        arrays = (weights.rows, weights.mapping, weights.weights)
        self.nbytes = sum(array.nbytes for array in arrays if array is not None)

    def encode(
        self,
        batch: TokenBatch,
        *,
        spans: NDArray[np.int32] | None = None,
        position: Callable[[int], int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the mean vectors of a batch, zeros for a text without tokens.

        Formula:
            v = 1 / n sum_t weights[t] rows[mapping[t]], over the n tokens t of a text

        Args:
            batch: ids int32 (T,) in [0, V), offsets int32 (N + 1,); type_ids are not read.
            spans: int32 (S, 2), as of `Engine.encode`: parts of the texts that get a vector instead.
            position: for messages, where the caller has the batch's i-th text; None for i.

        Returns:
            float32 (N, D), or (S, D) for spans.

        Raises:
            InputError: an array is not int32 (n,), or offsets do not go from 0 to T.
            TokenRangeError: an id is outside the table.
            EngineError: a vector came out with NaN or infinity; the text's position is named.
        """
        ids, offsets = self._checked(batch)
        rows, weights = self._weights.rows, self._weights.weights
        places = ids if self._weights.mapping is None else self._weights.mapping[ids]
        parts = list(pairwise(offsets.tolist())) if spans is None else spans.tolist()
        vectors = np.zeros((len(parts), self.spec.outputs), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for vector, (begin, end) in zip(vectors, parts, strict=True):
                if begin == end:
                    continue
                taken = np.take(rows, places[begin:end], axis=0)
                taken = taken.astype(np.float32, copy=False)
                if weights is not None:
                    taken *= weights[ids[begin:end], None]
                np.add.reduce(taken, axis=0, out=vector)
                vector /= np.float32(end - begin)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            if spans is not None:
                bad = int(np.searchsorted(offsets, spans[bad, 0], side="right")) - 1
            at = bad if position is None else position(bad)
            raise EngineError(
                f"every number of a vector must be finite: text {at} came out with NaN or infinity; "
                "the model's table is too large for float32, encode with another model"
            )
        return vectors

    def _checked(self, batch: TokenBatch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        for name in ("ids", "offsets"):
            values = getattr(batch, name)
            if not isinstance(values, np.ndarray) or values.dtype != np.int32 or values.ndim != 1:
                kind = getattr(values, "dtype", type(values).__name__)
                raise InputError(f"{name} must be int32 and one-dimensional: got {kind}")
        ids, offsets = batch.ids, batch.offsets
        if (
            not len(offsets)
            or offsets[0]
            or offsets[-1] != len(ids)
            or (np.diff(offsets) < 0).any()
        ):
            raise InputError(
                f"offsets must rise from 0 to the number of tokens, {len(ids)}: "
                f"got {offsets[:1].tolist()} ... {offsets[-1:].tolist()}"
            )
        size = self.spec.vocab_size
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            wrong = int(np.argmax((ids < 0) | (ids >= size)))
            raise TokenRangeError(
                f"a token id must be in 0..{size - 1} (the tokens of the table): got {int(ids[wrong])} "
                f"at position {wrong}; does the tokenizer belong to this model?"
            )
        return ids, offsets
