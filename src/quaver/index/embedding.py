"""Batches of passages, tokenized and embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.embedder import Embedder, encode_tokenized, tokenize_documents
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


@dataclass(frozen=True)
class Batch:
    """Tokenized passages, ready for the engine.

    Attributes:
        passages: the passages.
        tokens: the tokens of their texts; equal texts occur once.
        rows: for each passage, the index of its text in `tokens`.
    """

    passages: Sequence[Passage]
    tokens: TokenBatch
    rows: list[int]


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


def embed(embedder: Embedder, batch: Batch) -> NDArray[np.float32]:
    """Embed a tokenized batch.

    Args:
        embedder: the model.
        batch: from `tokenize_passages`.

    Returns:
        the vectors, float32 (N, D), in the order of the passages.
    """
    return encode_tokenized(embedder, batch.tokens)[batch.rows]


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
