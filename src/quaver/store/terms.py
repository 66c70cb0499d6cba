"""Text as weighted terms for BM25, the same ones in every store.

A text is split into words, which become lower case, lose their stop words and are reduced to stems,
as Qdrant does it. Scripts without spaces (Chinese, Japanese, Korean, Thai and others) become pairs of
neighboring characters. A term is the hash of a word, and its weight is the factor of BM25 that
depends on the passage. The store adds the factor for the rarity of a word (Qdrant's modifier "idf").

    weight(t, d) = f (k + 1) / (f + k (1 - b + b |d| / L)),  f how often t is in d, |d| its words
    idf(t)       = ln(1 + (N - n + 0.5) / (n + 0.5)),        n of the N passages hold t

Source:
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
    Snowball's stemmers (https://snowballstem.org). The stop words in `stop_words.json` are those of
    Qdrant (https://github.com/qdrant/qdrant, Apache-2.0), which took most of them from NLTK.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import mmh3
import regex

from quaver.errors import InputError

LANGUAGES = (
    *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian"),
    *("italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "turkish"),
)
"""Languages with stems and stop words; "none" uses words unchanged."""

_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
UNSPACED = regex.compile(f"[{_SCRIPTS}]")
"""Thai, Lao, Burmese, Khmer, Chinese, Japanese, Korean."""

_WORDS = regex.compile(rf"(?V1)[[\p{{Alphabetic}}\p{{N}}]--[{_SCRIPTS}]]+")
_RUNS = regex.compile(rf"(?V1)[[{_SCRIPTS}]&&[\p{{Alphabetic}}\p{{N}}\p{{M}}]]+")
"""Runs of scripts without spaces, with their vowel and tone marks."""

_K = 1.2
_B = 0.75
_MEAN_WORDS = 128.0
"""L: BM25's mean length. A constant, so that a passage's weights do not depend on the others."""

_REMEMBERED = 1 << 16
"""Words whose term an analyzer remembers: a stem takes some 15 microseconds."""


@dataclass(frozen=True)
class Terms:
    """Terms and weights.

    Attributes:
        indices: hashes of the words, each once; uint32 range.
        values: their weights, positive.
    """

    indices: list[int]
    values: list[float]


class TermAnalyzer:
    """Splits text into terms for one language."""

    def __init__(self, language: str) -> None:
        """Create an analyzer.

        Args:
            language: one of `LANGUAGES`, or "none".

        Raises:
            InputError: the language is unknown.
        """
        check_language(language)
        self._term = lru_cache(_REMEMBERED)(_term_of(language))

    def document(self, text: str) -> Terms:
        """Return the terms of a passage with their BM25 weights."""
        counts = Counter(self._words(text))
        length = sum(counts.values())
        for run in _runs(text):
            # Characters too, for questions of one character.
            counts.update(map(_hash, (*run, *_pairs(run))))
            length += (len(run) + 1) // 2
        damping = _K * (1.0 - _B + _B * length / _MEAN_WORDS)
        indices = sorted(counts)
        return Terms(indices, [(f := counts[i]) * (_K + 1.0) / (f + damping) for i in indices])

    def query(self, text: str) -> Terms:
        """Return the terms of a question, each with weight 1."""
        found = set(self._words(text))
        for run in _runs(text):
            found.update(map(_hash, _pairs(run) if len(run) > 1 else run))
        indices = sorted(found)
        return Terms(indices, [1.0] * len(indices))

    def _words(self, text: str) -> Iterator[int]:
        """Yield the terms of words that are no stop words, in their order."""
        return (term for term in map(self._term, _WORDS.findall(text)) if term is not None)


def check_language(language: str) -> None:
    """Check a language.

    Raises:
        InputError: the language is unknown.
    """
    if language != "none" and language not in LANGUAGES:
        raise InputError(
            f"language must be one of {', '.join(LANGUAGES)} or none: got {language!r}"
        )


def _term_of(language: str) -> Callable[[str], int | None]:
    """Return the function that maps a word to its term, or to None if it is a stop word."""
    if language == "none":
        return lambda word: _hash(word.lower())
    # Not snowballstemmer.stemmer(): with PyStemmer installed it returns that, of whatever version.
    module = import_module(f"snowballstemmer.{language}_stemmer")
    stemmer = getattr(module, f"{language.capitalize()}Stemmer")
    stop_words = frozenset(json.loads(_STOP_WORDS.read_text(encoding="utf-8"))[language].split())

    def term(word: str) -> int | None:
        word = word.lower()
        # A stemmer keeps the word in itself: a new one for each word, since threads share an analyzer.
        return None if word in stop_words else _hash(stemmer().stemWord(word))

    return term


_STOP_WORDS = Path(__file__).with_name("stop_words.json")


def _hash(word: str) -> int:
    """Return the term of a word as Qdrant does: the absolute value of its 32-bit MurmurHash3."""
    return abs(mmh3.hash(word))


def _runs(text: str) -> list[str]:
    return _RUNS.findall(text) if UNSPACED.search(text) else []


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]
