"""A document becomes passages that fit the model."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from quaver.documents.counting import SpanCounter, TokenCounter
from quaver.documents.passage import (
    HEADING_SEPARATOR,
    Document,
    Passage,
    embedded_text,
    passage_id,
)
from quaver.errors import InputError

_UNBROKEN = 4096
"""Characters; what goes on longer without a space or the end of a sentence is cut. The splitter takes
the square of its length, and a tokenizer may call all of it one unknown token."""

_RUN = re.compile(r"[^\s\u3002\uff01\uff1f]+")  # the latter end sentences where no space follows

SMALLEST_BUDGET = 8
"""Fewer tokens than this do not hold a heading and a sentence."""


def split(document: Document, tokenizer: TokenCounter, max_tokens: int) -> list[Passage]:
    """Splits a document on headings, then paragraphs, sentences and, if it must, words.

    Each passage is as long as it can be under one heading: ``count(heading + newline + text) <=
    max_tokens``. A heading path longer than a quarter of ``max_tokens`` loses its outermost
    headings.

    Args:
        document: The document.
        tokenizer: The model's own tokenizer.
        max_tokens: Tokens that the model reads, without special tokens and without its prompt; at
            least 8.

    Returns:
        The passages in the order of the document. White space at their ends is cut off, but for that
        before a block of Markdown, where it means something.

    Raises:
        InputError: ``max_tokens`` is below 8.

    Source:
        semantic-text-splitter, "Method": the largest semantic unit that fits, by Unicode sentences
        and words.
    """
    if max_tokens < SMALLEST_BUDGET:
        raise InputError(
            f"max_tokens must be at least {SMALLEST_BUDGET}: got {max_tokens}; "
            "use a larger max_seq_length"
        )
    seen: Counter[tuple[str, str]] = Counter()
    passages = []
    for section in document.sections:
        heading = _heading(section.headings, tokenizer, max_tokens // 4)
        body = document.text[section.start : section.end]
        found = [
            (begin + offset, text)
            for begin, part in _parts(body)
            for offset, text in _pieces(part, heading, document.markdown, tokenizer, max_tokens)
        ]
        for offset, text in found:
            start = section.start + offset
            source, root, occurrence = document.source, document.root, seen[heading, text]
            seen[heading, text] += 1
            identity = passage_id(source, heading, text, occurrence, root=root)
            metadata = {**document.metadata, **section.metadata, **_page(document, start)}
            end = start + len(text)
            passages.append(Passage(identity, text, source, heading, start, end, root, metadata))
    return passages


def _parts(body: str) -> Iterator[tuple[int, str]]:
    """Cuts where nothing else would for very long; yields each part with its first character."""
    begin = 0
    for run in _RUN.finditer(body):
        for cut in range(run.start() + _UNBROKEN, run.end(), _UNBROKEN):
            yield begin, body[begin:cut]
            begin = cut
    yield begin, body[begin:]


def _pieces(
    body: str, heading: str, markdown: bool, tokenizer: TokenCounter, max_tokens: int
) -> list[tuple[int, str]]:
    """Splits the text below one heading; offsets are characters of ``body``.

    Why not a counter that adds the heading to each piece: the splitter takes counts for sums of
    their parts, and with such a constant in them up to 9 % of the pieces came out too long.
    """
    splitter = MarkdownSplitter if markdown else TextSplitter
    room = max_tokens - tokenizer.count(heading)
    spans = SpanCounter(tokenizer, body)
    while True:
        pieces = splitter.from_callback(spans.count, room).chunk_indices(body)
        pieces = [(offset, text) for offset, text in pieces if text]
        counts = tokenizer.counts([embedded_text(heading, text) for _, text in pieces])
        longest = max(counts, default=0)
        # A tokenizer may need more tokens for heading and text together than for each alone, or for
        # a piece alone than for it in its text.
        excess = longest - max_tokens
        if excess <= 0 or excess >= room:
            return pieces
        room -= excess


def _page(document: Document, start: int) -> dict[str, int]:
    """Returns the page on which a passage begins, counted from 1, if the document has pages."""
    return {"page": bisect_right(document.pages, start)} if document.pages else {}


def _heading(headings: tuple[str, ...], tokenizer: TokenCounter, budget: int) -> str:
    """Joins the innermost headings that fit; one that is too long loses its end."""
    for first in range(len(headings)):
        path = HEADING_SEPARATOR.join(headings[first:])
        if tokenizer.count(path) <= budget:
            return path
    if not headings or budget < 1:
        return ""
    pieces = TextSplitter.from_callback(tokenizer.count, budget).chunks(headings[-1])
    return pieces[0] if pieces else ""
