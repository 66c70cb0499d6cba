"""WordPiece of ASCII texts by a table of words, for models that do little besides tokenizing.

A static model sums three million tokens a second, and the tokenizers library makes half a million on a
core. BERT's tokenizer looks at each word by itself, and in ASCII its normalizer does no more than lower
the case. So each different word goes through the library once, and texts are words looked up
(native/words). The ids are the library's own; texts that are not as simple take the library's way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quaver import _native

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

_MAX_WORDS = 100_000
"""Words that are kept: English texts have about 50,000 different ones to a gigabyte of use; 15 MB."""
_MAX_ADDED = 32

Ids = NDArray[np.int32]


class WordPieces:
    """The words that were seen, with their tokens. Threads may share it: words are only added."""

    def __init__(self, backend: Backend, *, lowercase: bool, added: Sequence[str]) -> None:
        """Start without words; `word_pieces` is the usual way.

        Args:
            backend: the tokenizer.
            lowercase: whether it lowers the case.
            added: the tokens that it finds before it looks for words.
        """
        self._backend, self._lowercase, self._added = backend, lowercase, list(added)
        self._known = self._empty()

    def __len__(self) -> int:
        """Return the number of words that are kept."""
        return len(self._known)

    def encode(self, texts: Sequence[str], most: int) -> tuple[Ids, Ids]:
        """Return the ids of texts, without special tokens.

        Args:
            texts: N texts of valid Unicode.
            most: how many tokens of a text are needed; of one that has more, at least one more is
                returned.

        Returns:
            int32 (T,), the first ids of each as the tokenizers library gives them, and offsets int32
            (N + 1,).
        """
        plain = [i for i, text in enumerate(texts) if text.isascii()]
        ids, found = self._read([texts[i] for i in plain], most)
        counts = np.full(len(texts), -1, np.int64)
        counts[plain] = found
        others = np.flatnonzero(counts < 0)
        if len(others):
            encodings = self._by_library([texts[i] for i in others.tolist()])
            counts[others] = [len(encoding) for encoding in encodings]
            of_others = np.zeros(len(texts), np.bool_)
            of_others[others] = True
            places = np.repeat(of_others, counts)
            whole = np.empty(len(places), np.int32)
            whole[~places] = ids
            whole[places] = list(chain.from_iterable(encoding.ids for encoding in encodings))
            ids = whole
        offsets = np.zeros(len(texts) + 1, np.int32)
        np.cumsum(counts, out=offsets[1:])
        return ids, offsets

    def _read(self, texts: list[str], most: int) -> tuple[Ids, Ids]:
        """Return the ids of the texts that are words alone, and how many each has; -1 for the others."""
        ids, counts, missing = self._known.read(texts, most)
        if not missing:
            return ids, counts
        has_room = len(self._known) + len(missing) <= _MAX_WORDS
        target = self._known if has_room else self._empty()
        encodings = self._by_library(missing)
        offsets = np.zeros(len(missing) + 1, np.int32)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        pieces = list(chain.from_iterable(encoding.ids for encoding in encodings))
        target.add(missing, np.array(pieces, np.int32), offsets)
        ids, counts, _ = self._known.read(texts, most, None if has_room else target)
        return ids, counts

    def _by_library(self, texts: list[str]) -> list[Encoding]:
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def _empty(self) -> _native.WordPieces:
        return _native.WordPieces(self._lowercase, self._added)


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
