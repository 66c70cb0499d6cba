"""A judged corpus in a temporary index, to measure the whole search: embed, store, find, rerank."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from quaver.documents import Passage
from quaver.embedder import Embedder
from quaver.index.index import Index
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.store import Mode


class CorpusIndex:
    """Documents under their own ids in a temporary index.

    Attributes:
        index: the index that is searched.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        mode: Mode = "hybrid",
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> None:
        """Make an empty index in a temporary folder.

        Args:
            embedder: the model.
            mode: search mode, as for `Index.search`.
            sparse: the model of the sparse vectors, for modes that compare them.
            multi: the model of token vectors, by which hits are reranked; None does not rerank.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="quaver-")
        self._mode = mode
        self._maxsim = multi is not None
        self.index = Index.create(
            Path(self._folder.name) / "store", embedder, sparse=sparse, multi=multi
        )

    def add(self, documents: Iterable[tuple[str, str]]) -> None:
        """Store documents.

        Args:
            documents: id and text; the vector of a long text covers only what the model reads of it.
        """
        self.index.add(
            [
                Passage(key, text, source="", heading="", start=0, end=len(text))
                for key, text in documents
            ]
        )

    def search(self, query: str, k: int) -> dict[str, float]:
        """Return the k best documents of a query: id to a score that falls with the rank.

        Args:
            query: the text.
            k: how many at most.

        Returns:
            1 for the first, 1/2 for the second, and so on: fused and reranked scores have different
            scales, so only the order counts.
        """
        if not query.strip():
            return {}
        hits = self.index.search(query, k=k, mode=self._mode, maxsim=self._maxsim)
        return {hit.id: 1 / rank for rank, hit in enumerate(hits, start=1)}

    def close(self) -> None:
        """Drop the index and its folder."""
        self.index.close()
        self._folder.cleanup()

    def __enter__(self) -> CorpusIndex:
        """Return the index itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Drop the index."""
        self.close()
