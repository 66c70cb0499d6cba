"""The kinds of models: what an engine gets, what it returns, and how near that is to float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver import ModelFolder
from quaver_bench.inputs import (
    LATENCY_LENGTHS,
    RAGGED,
    THROUGHPUT_BATCHES,
    THROUGHPUT_LENGTH,
    Ids,
    PaddedBatch,
    PairSource,
    TextSource,
)

Rows = NDArray[np.float32]
"""float32 (R, W): a row for each text or pair, or for each token, in the order of the texts."""
Output = Any
"""What an engine returns, in its own form; `Kind.plain` turns it into rows."""
Computed = Sequence[tuple[PaddedBatch, NDArray[Any]]]
"""Padded batches with what was computed of them."""


@dataclass(frozen=True)
class Kind:
    """What the study has to know about a kind of model.

    Attributes:
        name: of `ModelFolder.kind`.
        title: in words.
        source: cuts the inputs.
        from_text: whether calls start from text; else from token ids.
        parts: some of `quaver_bench.result.PARTS`.
        cases: the default cases of a comparison.
        quick: those of `--quick`.
        own: those of a model alone.
        joined: makes one output of padded batches: their number of texts, the batches, and ids of
            tokens without an output.
        plain: turns an output into rows.
        figure: which figure of a row compares it with float32.
        fidelity: that figure of some rows, given those of float32.
        head_products: multiply-adds of the head for a folder and a number of tokens, where they count.
    """

    name: str
    title: str
    source: type[TextSource]
    from_text: bool
    parts: tuple[str, ...]
    cases: tuple[str, ...]
    quick: tuple[str, ...]
    own: tuple[str, ...]
    joined: Callable[[int, Computed, Ids], Output]
    plain: Callable[[Output], Rows]
    figure: Literal["cosine", "score_difference"]
    fidelity: Callable[[Rows, Rows], float]
    head_products: Callable[[ModelFolder, int], float] = lambda folder, tokens: 0.0


# --- Outputs ----------------------------------------------------------------------------------------
def in_order(count: int, computed: Computed, skipped: Ids) -> Rows:
    """Return the rows of padded batches, one for each text."""
    if len(computed) == 1 and count == 1:
        return computed[0][1]
    rows = np.empty((count, *computed[0][1].shape[1:]), np.float32)
    for batch, part in computed:
        rows[batch.rows] = part
    return rows


def token_rows(count: int, computed: Computed, skipped: Ids) -> Rows:
    """Return the rows of the tokens of padded batches, text by text, without padding and `skipped`."""
    found: list[Any] = [None] * count
    for batch, part in computed:
        kept = batch.mask.astype(bool)
        if len(skipped):
            kept &= ~np.isin(batch.ids, skipped)
        for text, row, mine in zip(batch.rows, part, kept, strict=True):
            found[text] = row[mine]
    return np.concatenate(found)


def _scores(output: Output) -> Rows:
    return np.asarray(output, np.float32).reshape(len(output), -1)


def _dense(output: Output) -> Rows:
    """Return the weights of all words, from a sparse form of Quaver's or torch's, or as they are."""
    return np.asarray(output.to_dense() if hasattr(output, "to_dense") else output, np.float32)


def _tokens(output: Output) -> Rows:
    """Return the vectors of all tokens: Quaver's, a list with an array for each text, or as they are."""
    found = getattr(output, "vectors", output)
    return np.concatenate(found) if isinstance(found, list) else np.asarray(found, np.float32)


# --- Fidelity ---------------------------------------------------------------------------------------
def mean_cosine(rows: Rows, truth: Rows) -> float:
    """Return the mean cosine between rows (R, W) and the true ones.

    Rows of zeros are equal to each other, and at a right angle to all others. Other shapes than the
    true ones give nan: such an engine computes something else.
    """
    if rows.shape != truth.shape:
        return float("nan")
    products = (rows * truth).sum(1, dtype=np.float64)
    lengths = np.sqrt(_squares(rows) * _squares(truth))
    same = (lengths == 0) & (_squares(rows) == _squares(truth))
    return float(np.where(same, 1.0, products / np.where(lengths == 0, 1.0, lengths)).mean())


def _squares(rows: Rows) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (rows * rows).sum(1, dtype=np.float64)
    return found


def mean_difference(rows: Rows, truth: Rows) -> float:
    """Return the mean absolute difference between scores and the true ones; nan as in `mean_cosine`."""
    if rows.shape != truth.shape:
        return float("nan")
    return float(np.abs(rows.astype(np.float64) - truth).mean())


# --- The kinds --------------------------------------------------------------------------------------
def _words_products(folder: ModelFolder, tokens: int) -> float:
    """Count a masked language model's head: a layer of H, then the words of the vocabulary."""
    hidden = int(folder.config.get("hidden_size", folder.config.get("dim", 0)))
    return tokens * hidden * (hidden + float(folder.config["vocab_size"]))


_CALLS = ("latency", "throughput")
EMBEDDER = Kind(
    name="embedder",
    title="an embedding model",
    source=TextSource,
    from_text=False,
    parts=(*_CALLS, "text", "concurrency", "start"),
    cases=(
        *(f"1x{length}" for length in LATENCY_LENGTHS),
        *(f"{count}x{THROUGHPUT_LENGTH}" for count in THROUGHPUT_BATCHES),
        RAGGED,
    ),
    quick=("1x16", "1x128", "1x512", "8x256", "32x256"),
    own=("1x16", "1x128", "1x512", "32x256", "ragged64"),
    joined=in_order,
    plain=np.asarray,
    figure="cosine",
    fidelity=mean_cosine,
)
_PAIRS, _SPARSE, _MULTI = ("1x128", "50x128"), ("1x16", "1x128", "32x128"), ("1x32", "32x128")
KINDS = {
    kind.name: kind
    for kind in (
        EMBEDDER,
        Kind(
            name="cross-encoder",
            title="a cross-encoder",
            source=PairSource,
            from_text=True,
            parts=_CALLS,
            cases=_PAIRS,
            quick=_PAIRS,
            own=_PAIRS,
            joined=in_order,
            plain=_scores,
            figure="score_difference",
            fidelity=mean_difference,
        ),
        Kind(
            name="sparse",
            title="a sparse encoder",
            source=TextSource,
            from_text=True,
            parts=_CALLS,
            cases=_SPARSE,
            quick=_SPARSE,
            own=_SPARSE,
            joined=in_order,
            plain=_dense,
            figure="cosine",
            fidelity=mean_cosine,
            head_products=_words_products,
        ),
        Kind(
            name="multi-vector",
            title="a multi-vector model",
            source=TextSource,
            from_text=True,
            parts=_CALLS,
            cases=_MULTI,
            quick=_MULTI,
            own=_MULTI,
            joined=token_rows,
            plain=_tokens,
            figure="cosine",
            fidelity=mean_cosine,
        ),
    )
}
"""Name to kind."""
