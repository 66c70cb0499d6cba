"""Where a key stands in a column of keys: sorted once, and what came since in a dictionary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LOOSE = 1 << 16
"""Keys that may lie in the dictionary before all are sorted anew; or a quarter of those sorted."""


class Lookup:
    """Finds the rows of keys; a key may stand in several."""

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
        """Whether it is time to make it anew."""
        return self._since > max(LOOSE, len(self._sorted) // 4)

    def add(self, first: int, keys: Sequence[int]) -> None:
        """Take the keys of further rows.

        Args:
            first: The row of the first key.
            keys: The keys.
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
