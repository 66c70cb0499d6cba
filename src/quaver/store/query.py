"""Check the arguments of searches and upserts, and fuse rankings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError, check_range
from quaver.sparse_encoder import SparseVector
from quaver.store.manifest import Manifest, TokenKind, TokenModel
from quaver.store.protocol import Mode, PassageTokens

RRF_K = 60
"""The constant of reciprocal rank fusion; a larger one gives lower ranks more weight."""

Identity = TypeVar("Identity", str, int)
"""The id of a point: a UUID as text or as a number; both sort alike."""

_MOST_PRODUCTS = 1 << 18
"""Multiplications of one product of matrices: as many as OpenBLAS computes in one thread."""

MAX_WEIGHT = float(np.finfo(np.float16).max)
"""Largest weight of a word: a folder stores float16."""

Ranking = Literal["dense", "bm25", "sparse"]
"""One way to rank."""

RANKINGS: dict[Mode, tuple[Ranking, ...]] = {
    "dense": ("dense",),
    "bm25": ("bm25",),
    "sparse": ("sparse",),
    "hybrid": ("dense", "bm25"),
    "dense+sparse": ("dense", "sparse"),
    "dense+bm25+sparse": ("dense", "bm25", "sparse"),
}
"""The rankings that each mode fuses."""


def checked_rankings(
    manifest: Manifest,
    where: object,
    mode: Mode | None,
    *,
    vector: NDArray[np.float32] | None,
    text: str | None,
    sparse: SparseVector | None,
    multi: NDArray[np.float32] | None,
    candidates: int,
) -> tuple[Ranking, ...]:
    """Check the arguments of a search, and return the rankings that it fuses.

    Args:
        manifest: the store's manifest.
        where: the store, for messages.
        mode: the mode; None selects it from the inputs.
        vector: the question as a vector, or None.
        text: the question as text, or None.
        sparse: the question as weights, or None.
        multi: the vectors of the question's tokens, or None.
        candidates: how many passages are reranked.

    Returns:
        the rankings.

    Raises:
        InputError: an input is missing or has the wrong form.
        StoreMismatchError: the store lacks the vectors that the mode compares.
    """
    check_range("candidates", candidates)
    if mode is None:
        given = {"dense": vector, "bm25": text, "sparse": sparse}
        names = tuple(name for name, value in given.items() if value is not None) or ("dense",)
        mode = next(
            (m for m, rankings in RANKINGS.items() if rankings == names), "dense+bm25+sparse"
        )
    if mode not in get_args(Mode):
        raise InputError(f"mode must be one of {', '.join(get_args(Mode))}: got {mode!r}")
    assert mode is not None
    rankings = RANKINGS[mode]
    _check_tokens_of_query(manifest, where, mode, sparse, multi)
    if "dense" in rankings:
        dimension = manifest.dimension
        if vector is None:
            raise InputError(f"mode {mode!r} needs a query vector: got none")
        if vector.shape != (dimension,):
            raise InputError(f"a query vector must have shape ({dimension},): got {vector.shape}")
        if not np.isfinite(vector).all():
            raise InputError("a query vector must be finite: got NaN or infinity")
    if "bm25" in rankings:
        if not isinstance(text, str):
            raise InputError(f"mode {mode!r} needs the question as text: got {text!r}")
        _check_unicode(text)
    return rankings


def _check_tokens_of_query(
    manifest: Manifest,
    where: object,
    mode: Mode,
    sparse: SparseVector | None,
    multi: NDArray[np.float32] | None,
) -> None:
    """Check the question's weights and token vectors against the store's models."""
    if "sparse" in RANKINGS[mode]:
        words = manifest.token_model("sparse", where).dimension
        if sparse is None:
            raise InputError(f"mode {mode!r} needs the question's weights of words: got none")
        if sparse.size != words:
            raise InputError(
                f"a question's weights must be of the store's {words} words: got {sparse.size}"
            )
        if not np.isfinite(sparse.values).all():
            raise InputError("a question's weights must be finite: got NaN or infinity")
    if multi is not None:
        length = manifest.token_model("multi", where).dimension
        if multi.ndim != 2 or multi.shape[1] != length:
            raise InputError(
                f"a question's token vectors must have shape (T, {length}): got {multi.shape}"
            )
        if not np.isfinite(multi).all():
            raise InputError("a question's token vectors must be finite: got NaN or infinity")


def _check_unicode(text: str | None) -> None:
    """Check that a question is valid Unicode: JSON may contain half of a surrogate pair."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"a question must be valid Unicode: it has half of a surrogate pair at character "
            f"{error.start}; replace it, for example with text.encode('utf-8', 'replace').decode()"
        ) from error


def check_upsert(
    ids: list[str],
    vectors: NDArray[np.float32] | None,
    tokens: Sequence[PassageTokens] | None = None,
    *,
    manifest: Manifest,
) -> None:
    """Check that vectors fit their passages and the store.

    Args:
        ids: the passages' ids.
        vectors: their vectors, or None.
        tokens: their sparse and token vectors, or None.
        manifest: the store's manifest.

    Raises:
        InputError: they do not fit, an id is not a str, or an id occurs twice.
    """
    expected = (len(ids), manifest.dimension)
    if vectors is not None and vectors.shape != expected:
        raise InputError(
            f"vectors must have one row per passage: got shape {vectors.shape}, expected {expected}"
        )
    if vectors is not None and not np.isfinite(vectors).all():
        raise InputError("vectors must be finite: got NaN or infinity")
    if tokens is not None:
        if len(tokens) != len(ids):
            raise InputError(
                f"tokens must have one entry per passage: got {len(tokens)}, expected {len(ids)}"
            )
        for one in tokens:
            _check_tokens(one, manifest)
    for identity in ids:
        if not isinstance(identity, str) or not identity:
            raise InputError(f"a passage's id must be a str that is not empty: got {identity!r}")
    if len(set(ids)) < len(ids):
        twice = next(identity for i, identity in enumerate(ids) if identity in ids[:i])
        raise InputError(f"a passage's id must stand once in a call: got {twice!r} twice")


def with_models(
    manifest: Manifest, where: object, sparse: TokenModel | None, multi: TokenModel | None
) -> Manifest:
    """Return a manifest with further models.

    Args:
        manifest: the store's manifest.
        where: the store, for the message.
        sparse: the model of the sparse vectors; None leaves them.
        multi: the model of the token vectors; None leaves them.

    Raises:
        StoreMismatchError: the store has vectors of another model.
    """
    made = replace(manifest, sparse=manifest.sparse or sparse, multi=manifest.multi or multi)
    given: dict[TokenKind, TokenModel | None] = {"sparse": sparse, "multi": multi}
    for kind, model in given.items():
        if model is not None:
            made.token_model(kind, where).check(kind, where, model)
    return made


def is_complete(tokens: PassageTokens | None, manifest: Manifest) -> bool:
    """Return whether a passage has the sparse and token vectors of all models in the manifest."""
    found = tokens or PassageTokens()
    return (manifest.sparse is None or found.sparse is not None) and (
        manifest.multi is None or found.multi is not None
    )


def rounded(weights: SparseVector) -> SparseVector:
    """Return weights rounded to float16, as a folder stores them, so that every store ranks alike."""
    return replace(weights, values=weights.values.astype(np.float16).astype(np.float32))


def _check_tokens(tokens: PassageTokens, manifest: Manifest) -> None:
    """Check that sparse and token vectors are those of the store's models."""
    sparse, multi = tokens.sparse, tokens.multi
    words = None if manifest.sparse is None else manifest.sparse.dimension
    if sparse is not None:
        fits = sparse.size == words and len(sparse.indices) == len(sparse.values)
        if not fits or (len(sparse) and not 0 <= int(sparse.indices[0]) < int(words or 0)):
            raise InputError(
                f"a passage's weights must be of the store's {words} words: got {sparse.size}"
            )
        if (np.diff(sparse.indices) <= 0).any() or (
            len(sparse) and int(sparse.indices[-1]) >= sparse.size
        ):
            raise InputError(
                "the words of a passage's weights must rise, each once, below the size"
            )
        if not (np.abs(sparse.values) <= MAX_WEIGHT).all():
            raise InputError(f"a passage's weights must be finite and at most {MAX_WEIGHT:.0f}")
    length = None if manifest.multi is None else manifest.multi.dimension
    if multi is not None and (
        multi.dtype != np.int8 or multi.ndim != 2 or multi.shape[1] != length
    ):
        raise InputError(
            f"a passage's token vectors must be int8 of shape (T, {length}): got {multi.dtype} "
            f"{multi.shape}"
        )


def maxsim(query: NDArray[np.float32], passages: Sequence[NDArray[np.int8]]) -> list[float]:
    """Return the MaxSim of each passage for a question.

    Formula:
        sum over the question's tokens of the largest product with any of the passage's tokens

    Products of matrices for each passage: for all at once, equal passages could get unequal sums. Each is so
    small that OpenBLAS starts no threads for it, which wait actively and are slower on a busy machine.

    Args:
        query: float32 (Q, D), the vectors of the question's tokens.
        passages: int8 (T, D) each, vectors of tokens times 127.

    Returns:
        the scores; 0 for a passage without tokens.
    """
    scaled = np.ascontiguousarray(query.T) / np.float32(127)
    rows = max(1, _MOST_PRODUCTS // max(scaled.size, 1))
    found = []
    for tokens in passages:
        most = np.full(len(query), -np.inf, np.float32)
        for first in range(0, len(tokens), rows):
            products = tokens[first : first + rows].astype(np.float32) @ scaled
            np.maximum(most, products.max(axis=0), out=most)
        found.append(float(most.sum()) if len(tokens) else 0.0)
    return found


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
