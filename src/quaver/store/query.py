"""Check the arguments of searches and upserts, and fuse rankings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError
from quaver.store.protocol import Mode

RRF_K = 60
"""The constant of reciprocal rank fusion; a larger one gives lower ranks more weight."""

Identity = TypeVar("Identity", str, int)
"""The id of a point: a UUID as text or as a number; both sort alike."""

CANDIDATES = 100
"""Number of hits of each ranking that are fused; k if that is more."""


def checked_mode(
    vector: NDArray[np.float32] | None, text: str | None, mode: Mode | None, *, dimension: int
) -> Mode:
    """Check that the mode's inputs are given.

    Args:
        vector: the question as a vector, or None.
        text: the question as text, or None.
        mode: the mode; None selects it from the inputs.
        dimension: length of a vector.

    Returns:
        the mode.

    Raises:
        InputError: an input is missing or has the wrong form.
    """
    if mode is None:
        mode = "hybrid" if text is not None and vector is not None else "dense"
        mode = "bm25" if vector is None and text is not None else mode
    if mode not in get_args(Mode):
        raise InputError(f"mode must be one of {', '.join(get_args(Mode))}: got {mode!r}")
    if mode != "bm25":
        if vector is None:
            raise InputError(f"mode {mode!r} needs a query vector: got none")
        if vector.shape != (dimension,):
            raise InputError(f"a query vector must have shape ({dimension},): got {vector.shape}")
        if not np.isfinite(vector).all():
            raise InputError("a query vector must be finite: got NaN or infinity")
    if mode != "dense" and not isinstance(text, str):
        raise InputError(f"mode {mode!r} needs the question as text: got {text!r}")
    if mode != "dense":
        _check_unicode(text)
    return mode


def _check_unicode(text: str | None) -> None:
    """Check that a question is valid Unicode: JSON may contain half of a surrogate pair."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"a question must be valid Unicode: it has half of a surrogate pair at character "
            f"{error.start}; replace it, for example with text.encode('utf-8', 'replace').decode()"
        ) from error


def check_upsert(ids: list[str], vectors: NDArray[np.float32] | None, *, dimension: int) -> None:
    """Check that vectors fit their passages and the store.

    Args:
        ids: the passages' ids.
        vectors: their vectors, or None.
        dimension: length of a vector.

    Raises:
        InputError: they do not fit, an id is not a str, or an id occurs twice.
    """
    expected = (len(ids), dimension)
    if vectors is not None and vectors.shape != expected:
        raise InputError(
            f"vectors must have one row per passage: got shape {vectors.shape}, expected {expected}"
        )
    if vectors is not None and not np.isfinite(vectors).all():
        raise InputError("vectors must be finite: got NaN or infinity")
    for identity in ids:
        if not isinstance(identity, str) or not identity:
            raise InputError(f"a passage's id must be a str that is not empty: got {identity!r}")
    if len(set(ids)) < len(ids):
        twice = next(identity for i, identity in enumerate(ids) if identity in ids[:i])
        raise InputError(f"a passage's id must stand once in a call: got {twice!r} twice")


def fused(rankings: Sequence[Sequence[Identity]]) -> dict[Identity, float]:
    """Fuse rankings by reciprocal rank.

    Formula:
        score(d) = sum over the rankings of 1 / (RRF_K + rank of d), ranks from 1

    Why not the stores' own fusion: it leaves the order of equal scores, which are common in keyword
    search, to chance, so the same search would return different hits in different stores.

    Args:
        rankings: ids, best first.

    Returns:
        the scores by id.

    Source:
        Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual
        Rank Learning Methods", SIGIR 2009.
    """
    scores: dict[Identity, float] = defaultdict(float)
    for ranking in rankings:
        for rank, identity in enumerate(ranking, start=1):
            scores[identity] += 1.0 / (RRF_K + rank)
    return dict(scores)


def best(
    scores: Mapping[Identity, float] | Iterable[tuple[Identity, float]], k: int
) -> list[tuple[Identity, float]]:
    """Return the k highest scores with their ids, best first; equal scores in the order of ids."""
    items = scores.items() if isinstance(scores, Mapping) else scores
    return sorted(items, key=lambda item: (-item[1], item[0]))[:k]
