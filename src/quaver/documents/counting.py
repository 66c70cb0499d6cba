"""How many tokens a piece of a text has: asked thousands of times, tokenized once."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

_SHORT = 32
"""Characters; a piece of fewer may stand anywhere, even inside a word, and is soon counted alone."""

_BLOCK = 1 << 15
"""Characters that are tokenized at a time, so that a book takes no more memory than a page."""

_WINDOW = 1 << 14
"""How far ahead of the last piece the next one is looked for, in characters."""


class TokenCounter(Protocol):
    """The part of a tokenizer that splitting needs."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without special tokens."""
        ...

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        ...

    def token_ends(self, text: str) -> list[int]:
        """Return the number of characters up to the end of each token."""
        ...


class SpanCounter:
    """Counts the tokens of pieces of one text by where its tokens end.

    A splitter tries many pieces that overlap: asked for each alone, a tokenizer reads every
    character six times. A token counts for the piece that its end lies in. A piece that begins
    inside a word may have a few tokens more alone than here, so what is settled is to be counted
    again.
    """

    def __init__(self, tokenizer: TokenCounter, text: str, longest: int) -> None:
        """Tokenize nothing yet.

        Args:
            tokenizer: The model's tokenizer.
            text: What the pieces are of.
            longest: Characters of a piece at most; a longer one counts a token for each, which is
                too much.
        """
        self._tokenizer, self._text, self._longest = tokenizer, text, longest
        self._ends, self._read, self._at = array("q"), 0, 0

    def count(self, piece: str) -> int:
        """Return the number of tokens of a piece.

        Args:
            piece: A part of the text; pieces are expected in the order of the text, roughly.
        """
        if len(piece) > self._longest:
            return len(piece)
        if len(piece) < _SHORT:
            return self._tokenizer.count(piece)
        at = self._text.find(piece, self._at, self._at + len(piece) + _WINDOW)
        if at < 0:
            return self._tokenizer.count(piece)
        self._at, end = at, at + len(piece)
        while self._read < end:
            self._extend()
        return bisect_right(self._ends, end) - bisect_right(self._ends, at)

    def _extend(self) -> None:
        """Tokenize the next block, which ends between two words if it can."""
        begin, end = self._read, min(self._read + _BLOCK, len(self._text))
        if end < len(self._text):
            end = max(self._text.rfind(space, begin, end) for space in ("\n", " ")) + 1 or end
        ends = self._tokenizer.token_ends(self._text[begin:end])
        self._ends.extend(begin + place for place in ends)
        self._read = end
