"""Passages and vectors to store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage
from quaver.documents.passage import passage_id

D = 8


def passages(number: int, source: str = "a.txt", root: str = "") -> list[Passage]:
    return [
        Passage(
            id=passage_id(source, "", f"text {i}", 0, root=root),
            text=f"text {i}",
            source=source,
            heading="Top > Sub",
            start=i,
            end=i + 6,
            root=root,
        )
        for i in range(number)
    ]


def unit_rows(number: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((number, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
