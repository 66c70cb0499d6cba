"""Count the tokens of many overlapping pieces of a text while tokenizing it only once."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

_SHORT = 32
"""Characters. A shorter piece may occur anywhere, even inside a word, and is cheap to count alone."""

_BLOCK = 1 << 15
"""Characters tokenized at a time, so that a book takes no more memory than a page."""

_WINDOW = 1 << 14
"""Characters after the last piece in which the next one is searched."""


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
    """Counts the tokens of pieces of one text from the ends of its tokens.

    A splitter tries many overlapping pieces; tokenized one by one, every character would be read
    six times. A token belongs to the piece that contains its end. A piece that begins inside a word
    may have a few more tokens on its own, so the final pieces must be counted again.
    """

    def __init__(self, tokenizer: TokenCounter, text: str, longest: int) -> None:
        """Set up the counter; nothing is tokenized yet.

        Args:
            tokenizer: the model's tokenizer.
            text: the text that the pieces come from.
            longest: maximum characters of a piece; a longer one counts as one token per character,
                which is always too many.
        """
        self._tokenizer, self._text, self._longest = tokenizer, text, longest
        self._ends, self._read, self._at = array("q"), 0, 0

    def count(self, piece: str) -> int:
        """Return the number of tokens of a piece.

        Args:
            piece: a part of the text; pieces are expected roughly in the order of the text.
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
        """Tokenize the next block, which ends between two words if possible."""
        begin, end = self._read, min(self._read + _BLOCK, len(self._text))
        if end < len(self._text):
            end = max(self._text.rfind(space, begin, end) for space in ("\n", " ")) + 1 or end
        ends = self._tokenizer.token_ends(self._text[begin:end])
        self._ends.extend(begin + place for place in ends)
        self._read = end
