"""Reranking: order hits with a second, more precise model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.documents import embedded_text
from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.reranker import BiEncoderRanker, Ranked, Ranker
from quaver.store import Hit, VectorStore


class SupportsRank(Protocol):
    """Anything that puts texts in order for a question; `CrossEncoder` is one."""

    def rank(
        self, query: str, documents: Iterable[str], *, top_k: int | None = None
    ) -> list[Ranked]:
        """Return the best `top_k` documents, best first."""
        ...


def rerank(
    query: str, hits: Sequence[Hit], ranker: SupportsRank, *, k: int, store: VectorStore, space: str
) -> list[Hit]:
    """Rerank hits.

    A bi-encoder with the store's own model gets the stored vectors and embeds only the question.

    Args:
        query: the question.
        hits: what a search found.
        ranker: the ranker; it reads heading and text.
        k: maximum number of hits to return.
        store: the store that the hits come from.
        space: fingerprint of the vectors in the store.

    Returns:
        the best hits, best first, with the ranker's scores.

    Raises:
        InputError: the ranker has no method `rank`.
    """
    if isinstance(ranker, type) or not callable(getattr(ranker, "rank", None)):
        raise InputError(
            f"ranker must have a method rank, like a CrossEncoder: got {ranker!r:.80}; "
            "quaver.Ranker.from_pretrained(name) loads one"
        )
    texts = [embedded_text(hit.heading, hit.text) for hit in hits]
    if isinstance(ranker, BiEncoderRanker) and ranker.embedder.fingerprint == space:
        vectors = _stored_vectors(hits, store)
        ranked = ranker.rank(query, texts, top_k=k, embeddings=vectors)
    else:
        ranked = ranker.rank(query, texts, top_k=k)
    return [replace(hits[one.index], score=one.score) for one in ranked]


def load_ranker(
    name_or_path: str | Path, embedder: Embedder | None = None, *, threads: int | None = None
) -> Ranker:
    """Load a model that reranks, or rank with the index's own model.

    Args:
        name_or_path: model folder or hub id.
        embedder: the index's own model; reused when `name_or_path` names it.
        threads: threads of the ranker; None uses those of `embedder`, or all cores.

    Returns:
        the ranker.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: the model cannot rerank.
    """
    if embedder is not None and _same_model(name_or_path, embedder):
        return BiEncoderRanker(embedder)
    if threads is None and embedder is not None:
        threads = embedder.threads
    return Ranker.from_pretrained(name_or_path, threads=threads)


def _same_model(name_or_path: str | Path, embedder: Embedder) -> bool:
    return embedder.source in (str(name_or_path), str(Path(name_or_path).expanduser().resolve()))


def _stored_vectors(hits: Sequence[Hit], store: VectorStore) -> NDArray[np.float32] | None:
    """Return the vectors of the hits, or None if one is missing."""
    found = store.vectors([hit.id for hit in hits])
    if not hits or len(found) < len(hits):
        return None
    return np.stack([found[hit.id] for hit in hits])
