"""What an index with late chunking must hold: vectors that are pooled from whole documents."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.index import Index
from quaver.store import StoredPassage


def by_document(index: Index, root: object = None) -> dict[tuple[str, str], list[StoredPassage]]:
    found: dict[tuple[str, str], list[StoredPassage]] = defaultdict(list)
    for one in index.store.scan({"root": str(root)} if root else None, with_vectors=True):
        source = one.passage.source or one.passage.id
        found[one.passage.root, source].append(one)
    for rows in found.values():
        rows.sort(key=lambda one: one.passage.start)
    return found


def spans_of(embedder: Embedder, texts: list[str]) -> NDArray[Any]:
    """Return what `encode_spans` makes of the texts as one document."""
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)]).tolist()
    spans = [(start, start + len(text)) for start, text in zip(starts, texts, strict=False)]
    return embedder.encode_spans("\n".join(texts), spans)


def require_right(index: Index, root: object = None) -> None:
    """Every passage has the vector of its part of the document that is stored now."""
    for key, rows in by_document(index, root).items():
        expected = spans_of(index.embedder, [one.passage.embedded_text for one in rows])
        for one, vector in zip(rows, expected, strict=True):
            assert one.vector is not None
            np.testing.assert_allclose(one.vector, vector, atol=1e-6, err_msg=str(key))
