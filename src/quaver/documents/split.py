"""Split documents into passages that fit the model."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from quaver.documents.passage import (
    HEADING_SEPARATOR,
    Document,
    Passage,
    embedded_text,
    passage_id,
)
from quaver.documents.token_counter import SpanCounter, TokenCounter
from quaver.errors import InputError

SMALLEST_BUDGET = 8
"""Tokens. Fewer cannot hold a heading and a sentence."""

CHARACTERS_PER_TOKEN = 16
"""Maximum characters of a passage per token of its budget. Text that people wrote has 2 to 6, but for
some models 200 KB of base64 are a single token, and a page of spaces has none."""

_LONGEST_LINE = 64
"""Characters per token of the budget. A longer line is cut before it is split: the splitter scans the
whole line for each piece, which takes quadratic time."""

_LARGE = 256
"""Characters per token of the budget, about 60 passages. A longer text is cut at its next empty line,
or at any line once it is twice as long: here, too, the splitter takes quadratic time."""

_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"')\]\u2019\u201d\u300d]*\s*")
_SPACE = re.compile(r"\s+")


def split(document: Document, tokenizer: TokenCounter, max_tokens: int) -> list[Passage]:
    """Split a document at headings, then paragraphs, sentences and, if necessary, words.

    Each passage is as long as possible under one heading: `count(heading + newline + text) <=
    max_tokens`, and its text has no more than `CHARACTERS_PER_TOKEN` times as many characters. A
    heading path longer than a quarter of `max_tokens` loses its outermost headings.

    Args:
        document: the document.
        tokenizer: the model's own tokenizer.
        max_tokens: tokens that the model reads, without special tokens and without its prompt; at
            least 8.

    Returns:
        the passages in the order of the document. White space at their ends is removed, except
        before a block of Markdown, where it matters.

    Raises:
        InputError: `max_tokens` is below 8.

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
        for offset, text in _pieces(body, heading, document.markdown, tokenizer, max_tokens):
            start = section.start + offset
            source, root, occurrence = document.source, document.root, seen[heading, text]
            seen[heading, text] += 1
            identity = passage_id(source, heading, text, occurrence, root=root)
            metadata = {**document.metadata, **section.metadata, **_page(document, start)}
            end = start + len(text)
            passages.append(Passage(identity, text, source, heading, start, end, root, metadata))
    return passages


def _pieces(
    body: str, heading: str, markdown: bool, tokenizer: TokenCounter, max_tokens: int
) -> list[tuple[int, str]]:
    """Split the text below one heading; offsets are characters of `body`.

    Why not a counter that adds the heading to each piece: the splitter assumes that counts add up,
    and with a constant in each count up to 9 % of the pieces came out too long.
    """
    splitter = MarkdownSplitter if markdown else TextSplitter
    room = max_tokens - tokenizer.count(heading)
    found = []
    for begin, end in _blocks(body, max_tokens):
        block = body[begin:end]
        spans = SpanCounter(tokenizer, block, max_tokens * CHARACTERS_PER_TOKEN)
        while True:
            pieces = splitter.from_callback(spans.count, room).chunk_indices(block)
            pieces = [(begin + offset, text) for offset, text in pieces if text]
            counts = tokenizer.counts([embedded_text(heading, text) for _, text in pieces])
            # A tokenizer may need more tokens for heading and text together than separately, or for a
            # piece alone than inside its text.
            excess = max(counts, default=0) - max_tokens
            if excess <= 0 or excess >= room:
                break
            room -= excess
        found += pieces
    return found


def _blocks(text: str, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the text in blocks: one, unless it is large or has a line much longer than a passage.

    Such a line is cut after a sentence or a word or, if there is none, at the maximum length of a
    passage.
    """
    step, longest = max_tokens * CHARACTERS_PER_TOKEN, max_tokens * _LONGEST_LINE
    large = max_tokens * _LARGE
    begin = line = before = 0
    while line < len(text):
        if line - begin > large and (
            line - begin > 2 * large or not text[before:line].strip()  # an empty line
        ):
            yield begin, line
            begin = line
        end = text.find("\n", line) + 1 or len(text)
        at = line
        while end - at > step:
            window = at + step // 2, at + step
            sentence = max(
                (match.end() for match in _SENTENCE_END.finditer(text, *window)), default=0
            )
            word = max((match.end() for match in _SPACE.finditer(text, *window)), default=0)
            at = sentence or word or at + step
            if not (sentence or word) or at - line > longest:
                yield begin, at
                begin = line = at
        before, line = line, end
    if begin < len(text):
        yield begin, len(text)


def _page(document: Document, start: int) -> dict[str, int]:
    """Return the page on which a passage begins, counted from 1, if the document has pages."""
    return {"page": bisect_right(document.pages, start)} if document.pages else {}


def _heading(headings: tuple[str, ...], tokenizer: TokenCounter, budget: int) -> str:
    """Join the innermost headings that fit; cut a single heading that is too long."""
    longest = budget * CHARACTERS_PER_TOKEN
    for first in range(len(headings)):
        path = HEADING_SEPARATOR.join(headings[first:])
        if len(path) <= longest and tokenizer.count(path) <= budget:
            return path
    if not headings or budget < 1:
        return ""
    pieces = TextSplitter.from_callback(tokenizer.count, budget).chunks(headings[-1][:longest])
    return pieces[0] if pieces else ""
