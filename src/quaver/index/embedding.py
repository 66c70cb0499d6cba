"""Batches of passages, tokenized and embedded."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.embedder import (
    Embedder,
    WindowTokens,
    encode_tokenized,
    finish_vectors,
    pool_parts,
    require_parts,
    tokenize_documents,
    window_batches,
    windows_of_texts,
)
from quaver.engine import MAX_BATCH_TOKENS, Matrix
from quaver.errors import InputError
from quaver.models import TokenBatch

T = TypeVar("T")

PASSAGES_PER_BATCH = 64
"""Passages embedded and stored in one call. Large enough for the engine (about 10,000 tokens), small
enough that a slow machine shows progress within seconds."""


_MAX_STATIC = 512
"""Tokens per passage of a static model, which may read texts of any length: the mean over a whole book
is near to everything."""


def passage_budget(embedder: Embedder) -> int:
    """Return how many tokens of a passage the model reads, without special tokens and prompt.

    Args:
        embedder: the model.

    Returns:
        tokens per passage.
    """
    most = embedder.max_seq_length
    return (
        (min(most, _MAX_STATIC) if embedder.spec.family == "static" else most)
        - embedder.tokenizer.special_tokens
        - embedder.tokenizer.count(embedder.document_prompt)
    )


_LATE_PASSAGES = 4
"""Passages that fill the model's window, by default: with late chunking, one as long as the window would see
nothing around it."""

_LATE_TOKENS = 256
"""Tokens of a passage at most, by default, with late chunking, however long the window is."""


def late_passage_tokens(embedder: Embedder) -> int:
    """Return how many tokens a passage has by default with late chunking, and check that the model can do it.

    Args:
        embedder: the model.

    Raises:
        InputError: it pools one token, or has no layers in which tokens read each other.
    """
    require_parts(embedder)
    if embedder.spec.family == "static":
        raise InputError(
            f"late chunking needs a model whose tokens read the text around them: {embedder.name} is "
            "static, and gives a passage the same vector in any document; leave late_chunking out"
        )
    return min(passage_budget(embedder) // _LATE_PASSAGES, _LATE_TOKENS)


@dataclass(frozen=True)
class Batch:
    """Tokenized passages, ready for the engine.

    Attributes:
        passages: the passages.
        tokens: the tokens of their texts, of which equal ones occur once; or windows of documents.
        rows: for each passage, the index of its text in `tokens`, or of its part in `parts`.
        parts: int32 (S, 2), what `pool_parts` pools of windows of documents; None for texts.
    """

    passages: Sequence[Passage]
    tokens: TokenBatch
    rows: list[int]
    parts: NDArray[np.int32] | None = None


def tokenize_passages(embedder: Embedder, passages: Sequence[Passage]) -> Batch:
    """Tokenize passages, each with its heading, as documents.

    Args:
        embedder: the model.
        passages: the passages to embed.

    Returns:
        a batch for `embed`.
    """
    texts = [embedded_text(passage.heading, passage.text) for passage in passages]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return Batch(passages, tokenize_documents(embedder, list(rows)), [rows[t] for t in texts])


def tokenize_whole(
    embedder: Embedder,
    documents: Sequence[Sequence[Passage]],
    *,
    wanted: Container[str] | None = None,
) -> Iterator[Batch]:
    """Tokenize whole documents, for vectors that know the text around a passage (late chunking).

    What the model reads of a document are its passages, one after the other, each with its heading; a
    document that is longer than the model is read in windows, as `Embedder.encode_spans` does.

    Args:
        embedder: the model.
        documents: the passages of each document, in order, with distinct ids.
        wanted: ids of the passages that need vectors; None for all.

    Yields:
        batches for `embed` of about `PASSAGES_PER_BATCH` passages.
    """
    passages: list[Passage] = []
    windows: list[WindowTokens] = []
    cut = 0
    for document in documents:
        texts = [passage.embedded_text for passage in document]
        found, truncated = windows_of_texts(
            embedder, texts, embedder.document_prompt, skip_empty=True
        )
        cut += truncated
        for window in found:
            kept = [
                i
                for i, place in enumerate(window.places)
                if wanted is None or document[place].id in wanted
            ]
            if kept:
                first = len(passages)
                passages += [document[window.places[i]] for i in kept]
                places = list(range(first, len(passages)))
                windows.append(WindowTokens(window.ids, places, window.parts[kept]))
    for tokens, parts, places in window_batches(windows, MAX_BATCH_TOKENS, PASSAGES_PER_BATCH):
        rows = list(range(len(places)))
        batch = replace(tokens, truncated=cut)
        yield Batch([passages[place] for place in places], batch, rows, parts)
        cut = 0
    # What has no token, such as a passage of control characters, has special tokens alone.
    done = {passage.id for passage in passages}
    empty = [
        passage
        for document in documents
        for passage in document
        if passage.id not in done and (wanted is None or passage.id in wanted)
    ]
    for some in batches(empty):
        yield tokenize_passages(embedder, some)


def embed(embedder: Embedder, batch: Batch) -> NDArray[np.float32]:
    """Embed a tokenized batch.

    Args:
        embedder: the model.
        batch: from `tokenize_passages` or `tokenize_whole`.

    Returns:
        the vectors, float32 (N, D), in the order of the passages.
    """
    if batch.parts is None:
        return encode_tokenized(embedder, batch.tokens)[batch.rows]
    pooled = pool_parts(embedder, batch.tokens, batch.parts)
    return cast("Matrix", finish_vectors(embedder, pooled))[batch.rows]


def batches(passages: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield passages, or their ids, in batches of about `PASSAGES_PER_BATCH`, all of nearly the same size.

    Batches of exactly `PASSAGES_PER_BATCH` would leave small remainders: 66 passages as 64 and 2 would cost an
    engine call and a store write for the last two.
    """
    pieces = max(1, round(len(passages) / PASSAGES_PER_BATCH))
    cuts = [len(passages) * i // pieces for i in range(pieces + 1)]
    for first, last in pairwise(cuts):
        if first < last:
            yield passages[first:last]
