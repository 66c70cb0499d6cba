"""The part of a passage that answers a question, and the words of the question in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

from quaver.store import UNSPACED, TermAnalyzer


class QueryWords:
    """Finds the words of a question in a text by their stems, like the word search."""

    def __init__(self, query: str, language: str) -> None:
        """Split a question into stems.

        Args:
            query: the question.
            language: the store's language of stop words and stems.
        """
        self._analyzer = TermAnalyzer(language)
        self._terms = set(self._analyzer.query(query).indices)
        self._known = _known_stems(language)
        self._pairs: set[str] = set()
        for word in _WORD.findall(query):
            self._terms |= self._stems(word)
            if UNSPACED.search(word):
                self._pairs |= {word[i : i + 2] for i in range(max(len(word) - 1, 1))}

    def find(self, text: str) -> list[tuple[int, int, object]]:
        """Return begin, end and an id for each place where the text has a word of the question."""
        found: list[tuple[int, int, object]] = []
        for word in _WORD.finditer(text):
            if UNSPACED.search(word[0]):  # no spaces between words: match pairs of characters
                for i in range(*word.span()):
                    pair = text[i : min(i + 2, word.end())]
                    if pair in self._pairs:
                        found.append((i, i + len(pair), pair))
            elif common := self._stems(word[0]) & self._terms:
                found.append((*word.span(), min(common)))
        return found

    def _stems(self, word: str) -> frozenset[int]:
        found = self._known.get(word)
        if found is None:
            found = frozenset(self._analyzer.query(word).indices)
            if len(self._known) < _MOST_KNOWN:
                self._known[word] = found
        return found


_MOST_KNOWN = 1 << 15
"""Words of a language whose stems are kept: stemming takes most of the time of an excerpt."""


@lru_cache
def _known_stems(language: str) -> dict[str, frozenset[int]]:
    """Return the stems of words that were seen in texts of a language; all questions share them."""
    return {}


_WORD = re.compile(r"[^\W_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W_]+)*")


_ROW = re.compile(r"[^:;|]{1,60}: [^;]+; [^:;|]{1,60}: |.* \| ")
"""A table row as `quaver.documents` writes it."""


def flattened(text: str) -> str:
    """Return a passage for an excerpt: a line for each table row, and one for the text between rows.

    Args:
        text: the passage's text.
    """
    blocks: list[str] = []
    prose: list[str] = []
    for line in text.split("\n"):
        if _ROW.match(line):
            blocks += [" ".join(prose)] * bool(prose) + [" ".join(line.split())]
            prose = []
        else:
            prose += line.split()
    return "\n".join(blocks + [" ".join(prose)] * bool(prose))


_BEGINNING = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n|(?<=;) ")
"""The place before a sentence, a row or a cell."""


def best_start(text: str, found: Sequence[tuple[int, int, object]], room: int, lines: int) -> int:
    """Return where an excerpt should begin to have most of the words that were found.

    Args:
        text: from `flattened`.
        found: places of the words, from `QueryWords.find`.
        room: columns of a line.
        lines: of the excerpt.
    """
    from rich.cells import cell_len

    if not found:
        return 0
    cells = [0, *accumulate(room // 2 if c == "\n" else cell_len(c) for c in text)]
    capacity = max(lines * (room - 7), room) - 2
    often = Counter(key for *_, key in found)

    def weight(keys: Iterable[object]) -> float:
        """Sum the weights of words: each counts once, and rare ones count more."""
        return sum(1 / math.sqrt(often[key]) for key in set(keys))

    def worth(start: int) -> float:
        inside = [
            (begin, key)
            for begin, end, key in found
            if begin >= start and cells[end] - cells[start] <= capacity
        ]
        row = text.find("\n", start)
        first = (key for begin, key in inside if row < 0 or begin < row)
        return weight(key for _, key in inside) + 0.1 * weight(first)

    # Of equal starts prefer the beginning of the text, then the last one, which shows the words first.
    starts = [0, *(match.end() for match in reversed([*_BEGINNING.finditer(text)]))]
    whole = max((start for start in starts if start < len(text)), key=worth)
    near = []  # in a long sentence, start a few words before the match
    for begin, *_ in found:
        back = begin
        while back > 0 and text[back - 1] != "\n" and cells[begin] - cells[back] < room // 3:
            back -= 1
        space = text.find(" ", back, begin)
        near.append(begin if space < 0 else space + 1)
    best = max(near, key=worth)
    return best if worth(best) > 1.2 * worth(whole) else whole
