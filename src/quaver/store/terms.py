"""Text as weighted terms for BM25, the same ones in every store.

Qdrant's own text analysis does the work, inside this process: words, stop words and stems of the
store's language, and words of Chinese, Japanese, Korean and Thai, which are written without spaces,
by dictionary. A term is the hash of a word, and its weight is the factor of BM25 that depends on
the passage. The store adds the factor for the rarity of a word (Qdrant's modifier "idf").

    weight(t, d) = f (k + 1) / (f + k (1 - b + b |d| / L)),  f how often t is in d, |d| its words
    idf(t)       = ln(1 + (N - n + 0.5) / (n + 0.5)),        n of the N passages hold t

Source:
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import qdrant_edge as edge

from quaver.errors import InputError

LANGUAGES = (
    *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian"),
    *("italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "turkish"),
)
"""Languages with stems and stop words; "none" uses words unchanged."""

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
"""Thai, Lao, Burmese, Khmer, Chinese, Japanese, Korean."""

_MEAN_WORDS = 128.0
"""L: BM25's mean length. A constant, so that a passage's weights do not depend on the others."""


@dataclass(frozen=True)
class Terms:
    """Terms and weights.

    Attributes:
        indices: Hashes of the words, each once; uint32 range.
        values: Their weights, positive.
    """

    indices: list[int]
    values: list[float]


class TermAnalyzer:
    """Splits text into terms for one language."""

    def __init__(self, language: str) -> None:
        """Create an analyzer.

        Args:
            language: One of ``LANGUAGES``, or "none".

        Raises:
            InputError: The language is unknown.
        """
        check_language(language)
        self._spaced = _analyzer(language, edge.TokenizerType.Word)
        # Not for every text: on English it returns the same terms and takes four times as long.
        self._unspaced = _analyzer(language, edge.TokenizerType.Multilingual)

    def document(self, text: str) -> Terms:
        """Return the terms of a passage with their BM25 weights."""
        return _terms(self._choose(text).embed_document(text))

    def query(self, text: str) -> Terms:
        """Return the terms of a question, each with weight 1."""
        return _terms(self._choose(text).embed_query(text))

    def _choose(self, text: str) -> edge.Bm25:
        return self._unspaced if UNSPACED.search(text) else self._spaced


def check_language(language: str) -> None:
    """Check a language.

    Raises:
        InputError: The language is unknown.
    """
    if language != "none" and language not in LANGUAGES:
        raise InputError(
            f"language must be one of {', '.join(LANGUAGES)} or none: got {language!r}"
        )


def _analyzer(language: str, tokenizer: edge.TokenizerType) -> edge.Bm25:
    if language == "none":
        config = edge.Bm25Config(
            avg_len=_MEAN_WORDS,
            tokenizer=tokenizer,
            stopwords=edge.StopwordsSet(custom=set()),
            stemmer=edge.DisabledStemmer(),
        )
    else:
        config = edge.Bm25Config(avg_len=_MEAN_WORDS, tokenizer=tokenizer, language=language)
    return edge.Bm25(config)


def _terms(vector: edge.SparseVector) -> Terms:
    return Terms(vector.indices, vector.values)
