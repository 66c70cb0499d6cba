"""WordPiece of ASCII texts by a dictionary of words, for models that do little besides tokenizing.

A static model sums three million tokens a second; the tokenizers library makes half a million on a
core. BERT's tokenizer looks at each word by itself, and in ASCII its normalizer does no more than lower
the case. So each different word goes through the library once, and texts are words looked up. The ids
are the library's own; texts that are not as simple take the library's way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_MAX_WORDS = 100_000
"""Words that are kept: English texts have about 50,000 different ones to a gigabyte of use; 15 MB."""
_MAX_ADDED = 32
# Runs of letters and digits, and everything else that is no space, by itself.
_WORDS = re.compile(r"[0-9A-Za-z]+|[^\s0-9A-Za-z]")
# What the normalizer removes, within words too.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Ids = tuple[int, ...]


class WordPieces:
    """The words that were seen, with their tokens. Threads may share it: words are only added."""

    def __init__(self, backend: Backend, *, lowercase: bool, added: Sequence[str]) -> None:
        """Start without words; `word_pieces` is the usual way.

        Args:
            backend: the tokenizer.
            lowercase: whether it lowers the case.
            added: the tokens that it finds before it looks for words.
        """
        self._backend, self._lowercase, self._added = backend, lowercase, tuple(added)
        self._known: dict[str, Ids] = {}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts, without special tokens and without truncation.

        Args:
            texts: N texts of valid Unicode.

        Returns:
            the ids of each, as the tokenizers library gives them.
        """
        rows: list[list[int]] = [[]] * len(texts)
        simple = [i for i, text in enumerate(texts) if self._is_simple(text)]
        words = [_WORDS.findall(texts[i].lower() if self._lowercase else texts[i]) for i in simple]
        table = self._table(set().union(*words))
        for i, found in zip(simple, words, strict=True):
            rows[i] = list(chain.from_iterable(map(table.__getitem__, found)))
        if len(simple) < len(texts):
            others = sorted(set(range(len(texts))) - set(simple))
            encodings = self._backend.encode_batch_fast(
                [texts[i] for i in others], add_special_tokens=False
            )
            for i, encoding in zip(others, encodings, strict=True):
                rows[i] = encoding.ids
        return rows

    def _is_simple(self, text: str) -> bool:
        return (
            text.isascii()
            and _CONTROL.search(text) is None
            and not any(token in text for token in self._added)
        )

    def _table(self, words: set[str]) -> dict[str, Ids]:
        """Return a dictionary that has all of the words."""
        missing = sorted(words - self._known.keys())
        if not missing:
            return self._known
        encodings = self._backend.encode_batch_fast(missing, add_special_tokens=False)
        new = {word: tuple(e.ids) for word, e in zip(missing, encodings, strict=True)}
        if len(self._known) + len(new) <= _MAX_WORDS:
            self._known.update(new)
            return self._known
        return {word: new.get(word) or self._known.get(word, ()) for word in words}


def word_pieces(backend: Backend) -> WordPieces | None:
    """Return the words of a tokenizer, or None if it does not look at words by themselves.

    Args:
        backend: a tokenizer without padding and truncation.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    normalizer = backend.normalizer
    if (
        not isinstance(backend.model, models.WordPiece)
        or not isinstance(normalizer, normalizers.BertNormalizer)
        or not isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    ):
        return None
    settings = json.loads(normalizer.__getstate__())
    added = backend.get_added_tokens_decoder().values()
    # A token that is matched after normalization is not the text that it stands for.
    if not settings["clean_text"] or len(added) > _MAX_ADDED or any(t.normalized for t in added):
        return None
    return WordPieces(
        backend, lowercase=settings["lowercase"], added=[token.content for token in added]
    )
