"""Find the rows of a key in a column: sorted keys, and a dictionary for those added since."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_UNSORTED = 1 << 16
"""Maximum keys in the dictionary before all are sorted again, unless a quarter of the sorted is more."""


class Lookup:
    """Finds the rows of keys; a key may occur in several rows."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        """Sort keys.

        Args:
            keys: uint64 (rows,).
        """
        self._order = np.argsort(keys, kind="stable").astype(np.uint32)
        self._sorted = keys[self._order]
        self._loose: dict[int, list[int]] = {}
        self._since = 0

    @property
    def is_loose(self) -> bool:
        """Whether the keys should be sorted again."""
        return self._since > max(MAX_UNSORTED, len(self._sorted) // 4)

    def add(self, first: int, keys: Sequence[int]) -> None:
        """Add the keys of further rows.

        Args:
            first: the row of the first key.
            keys: the keys.
        """
        for row, key in enumerate(keys, start=first):
            self._loose.setdefault(key, []).append(row)
        self._since += len(keys)

    def find(self, keys: Sequence[int]) -> list[list[int]]:
        """Return the rows of each key, ascending."""
        wanted = np.array(keys, np.uint64)
        first = np.searchsorted(self._sorted, wanted, "left").tolist()
        last = np.searchsorted(self._sorted, wanted, "right").tolist()
        return [
            [*self._order[a:b].tolist(), *self._loose.get(key, ())]
            for key, a, b in zip(keys, first, last, strict=True)
        ]
