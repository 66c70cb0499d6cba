"""Passages through the model: how much fits, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quaver.embedder import Embedder, EncodeReport
from quaver.passages import Passage, embedded_text

BATCH = 64
"""Passages that are embedded in one call and made durable together. Enough for the engine (some
10,000 tokens), few enough that a slow machine shows progress and a killed run has something to show
after seconds."""


def passage_budget(embedder: Embedder) -> int:
    """Returns how many tokens the model reads beside its special tokens and prompt.

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


def embed_passages(embedder: Embedder, passages: Sequence[Passage]) -> EncodeReport:
    """Embeds passages with their headings as documents.

    Args:
        embedder: The model.
        passages: What to embed.

    Returns:
        The vectors, float32 (N, D), and how many texts were truncated.
    """
    texts = [embedded_text(passage.heading, passage.text) for passage in passages]
    return embedder.encode_with_report(texts, prompt=embedder.document_prompt)


def batches(passages: Sequence[Passage]) -> Iterator[Sequence[Passage]]:
    """Yields the passages in pieces of a size that the engine likes."""
    for first in range(0, len(passages), BATCH):
        yield passages[first : first + BATCH]
