"""Passages through the model: how much fits, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage, embedded_text
from quaver.embedder import Embedder, encode_tokenized, tokenize_documents
from quaver.models import TokenBatch

BATCH = 64
"""Passages that are embedded in one call and made durable together. Enough for the engine (some
10,000 tokens), few enough that a slow machine shows progress and a killed run has something to show
after seconds."""


def passage_budget(embedder: Embedder) -> int:
    """Return how many tokens the model reads beside its special tokens and prompt.

    Args:
        embedder: The model.

    Returns:
        Tokens per passage.
    """
    return (
        embedder.max_seq_length
        - embedder.tokenizer.special_tokens
        - embedder.tokenizer.count(embedder.document_prompt)
    )


@dataclass(frozen=True)
class Batch:
    """Passages that are ready for the engine.

    Attributes:
        passages: The passages.
        tokens: The tokens of their texts, each different text once.
        rows: For each passage the number of its text.
    """

    passages: Sequence[Passage]
    tokens: TokenBatch
    rows: list[int]


def tokenize_passages(embedder: Embedder, passages: Sequence[Passage]) -> Batch:
    """Tokenize passages with their headings as documents.

    Args:
        embedder: The model.
        passages: What to embed.

    Returns:
        What ``embed`` takes.
    """
    texts = [embedded_text(passage.heading, passage.text) for passage in passages]
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return Batch(passages, tokenize_documents(embedder, list(rows)), [rows[t] for t in texts])


def embed(embedder: Embedder, batch: Batch) -> NDArray[np.float32]:
    """Embed what is tokenized.

    Args:
        embedder: The model.
        batch: Of ``tokenize_passages``.

    Returns:
        The vectors, float32 (N, D), in the order of the passages.
    """
    return encode_tokenized(embedder, batch.tokens)[batch.rows]


def batches(passages: Sequence[Passage]) -> Iterator[Sequence[Passage]]:
    """Yield the passages in even pieces of a size that the engine likes.

    Why not pieces of exactly that size: files seldom end with one, and 66 passages in 64 and 2 cost
    the engine a call, and the store a write to disk, for two.
    """
    pieces = max(1, round(len(passages) / BATCH))
    cuts = [len(passages) * i // pieces for i in range(pieces + 1)]
    for first, last in pairwise(cuts):
        if first < last:
            yield passages[first:last]
