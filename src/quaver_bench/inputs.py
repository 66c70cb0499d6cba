"""The inputs: texts with exact numbers of tokens, and their ids, the same for every engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError

Ids = NDArray[np.int64]
Text = str | tuple[str, str]
"""A text, or a pair of texts."""
LATENCY_LENGTHS = (8, 16, 32, 64, 128, 256, 512)
THROUGHPUT_BATCHES = (4, 8, 16, 32, 64, 128, 256)
THROUGHPUT_LENGTH = 256
RAGGED = "ragged256"
PADDED_BATCH = 32
"""Default number of texts in a padded batch, as in sentence-transformers."""
_TEXTS_PER_LATENCY_CASE = 16
_FILLER = "the"
_QUERY_TOKENS = 12
"""Tokens of the query of a pair, without special tokens; fewer in short pairs."""


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        ids: ids of each text or pair, special tokens included.
        texts: the texts or pairs; None for random ids.
        batch: number of texts in a batch of engines that pad.
    """

    ids: tuple[Ids, ...]
    texts: tuple[Text, ...] | None
    batch: int


@dataclass(frozen=True)
class Case:
    """The inputs of one case.

    Attributes:
        name: such as "1x16", "32x256" or "ragged256".
        requests: each is one call. All have the same lengths, so any may be timed.
    """

    name: str
    requests: tuple[Request, ...]

    @property
    def texts(self) -> int:
        """Texts of one request."""
        return len(self.requests[0].ids)

    @property
    def tokens(self) -> int:
        """Tokens of one request, special tokens included."""
        return sum(len(text) for text in self.requests[0].ids)


class TextSource:
    """Cut texts with exact numbers of tokens from running text."""

    pairs = False

    def __init__(self, tokenizer: Path, texts: Sequence[str], *, random_ids: bool = False) -> None:
        """Count the tokens of every word.

        Args:
            tokenizer: tokenizer.json, see `Model.tokenizer_file`.
            texts: the running text.
            random_ids: draw ids from the vocabulary instead, as the published study did; then requests
                have no texts.

        Raises:
            InputError: the tokenizer splits the word that fills up pieces, or there is no text.
        """
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._random_ids = random_ids
        self._special = self._tokenizer.num_special_tokens_to_add(self.pairs)
        words = [word for text in texts for word in text.split()]
        if not words:
            raise InputError("the text to cut from must have words: it is empty; give a --corpus")
        counts = [
            len(e.ids)
            for e in self._tokenizer.encode_batch([*words, _FILLER], add_special_tokens=False)
        ]
        if counts.pop() != 1:
            raise InputError(
                f"this tokenizer splits {_FILLER!r}, so texts of exact lengths cannot be cut; "
                "use --random-ids"
            )
        self._words, self._counts = words, np.array(counts)

    def tokenize(self, texts: Sequence[Text]) -> tuple[Ids, ...]:
        """Return the ids of texts or pairs, special tokens included, without truncation."""
        return tuple(np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch(list(texts)))

    def request(self, lengths: Sequence[int], *, seed: int, batch: int) -> Request:
        """Cut texts at random places.

        Args:
            lengths: tokens of each text, special tokens included; at least 3.
            seed: of the places.
            batch: see `Request`.

        Returns:
            the request.

        Raises:
            InputError: the tokenizer does not split at spaces, or a pair is too short.
        """
        random = np.random.default_rng(seed)
        if self._random_ids:
            return Request(tuple(self._draw(n, random) for n in lengths), None, batch)
        texts = self._texts(lengths, random)
        ids = self.tokenize(texts)
        for wanted, found in zip(lengths, map(len, ids), strict=True):
            if found != wanted:
                raise InputError(
                    f"this tokenizer does not split at spaces (wanted {wanted} tokens, got {found}), "
                    "so texts of exact lengths cannot be cut; use --random-ids"
                )
        return Request(ids, texts, batch)

    def _texts(self, lengths: Sequence[int], random: np.random.Generator) -> tuple[Text, ...]:
        return tuple(self._cut(length - self._special, random) for length in lengths)

    def _draw(self, length: int, random: np.random.Generator) -> Ids:
        frame = np.array(self._tokenizer.encode(_FILLER).ids, np.int64)
        body = random.integers(0, self._tokenizer.get_vocab_size(), length - self._special)
        return np.concatenate([frame[:1], body, frame[-1:]]).astype(np.int64)

    def _cut(self, room: int, random: np.random.Generator) -> str:
        """Take the words that fit into so many tokens, then fill up with the filler."""
        first = int(random.integers(len(self._words)))
        taken: list[str] = []
        for step in range(2 * (room + self._special)):
            at = (first + step) % len(self._words)
            if self._counts[at] <= room:
                taken.append(self._words[at])
                room -= int(self._counts[at])
        return " ".join([*taken, *[_FILLER] * room])


class PairSource(TextSource):
    """Cut pairs: the texts of a request share one query, as the candidates of a reranker do."""

    pairs = True

    def _texts(self, lengths: Sequence[int], random: np.random.Generator) -> tuple[Text, ...]:
        shortest = min(lengths) - self._special
        if shortest < 2:
            raise InputError(
                f"a pair must have a word on each side, {self._special + 2} tokens: got {min(lengths)}"
            )
        room = min(_QUERY_TOKENS, shortest // 2)
        query, taken = self._cut(room, random), room + self._special
        return tuple((query, self._cut(length - taken, random)) for length in lengths)


def lognormal_lengths(count: int, *, mean: float = 90, sigma: float = 0.8) -> list[int]:
    """Draw text lengths as in collections of passages.

    Args:
        count: number of texts.
        mean: mean of the distribution before it is cut to 8..512.
        sigma: standard deviation of the logarithm.

    Returns:
        the lengths in tokens.
    """
    random = np.random.default_rng(90)
    lengths = random.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return [int(length) for length in np.clip(lengths.round(), 8, 512)]


def case_lengths(name: str) -> list[int]:
    """Return the number of tokens of each text of a case.

    Args:
        name: "TEXTSxTOKENS" such as "1x16", or "raggedTEXTS" such as "ragged256": lognormal
            lengths of mean 90, 8 to 512.

    Returns:
        the lengths.

    Raises:
        InputError: the name is neither.
    """
    if found := re.fullmatch(r"ragged(\d{1,5})", name):
        count, length = int(found[1]), 8
    elif found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", name):
        count, length = int(found[1]), int(found[2])
    else:
        count, length = 0, 0
    if not count or length < 3:
        raise InputError(
            "a case is TEXTSxTOKENS with 3 tokens or more (1x16, 32x256), or raggedTEXTS "
            f"(ragged256): got {name!r}"
        )
    return lognormal_lengths(count) if name.startswith("ragged") else [length] * count


def get_case(name: str, source: TextSource) -> Case:
    """Return a case with its inputs.

    Args:
        name: see `case_lengths`.
        source: source of the texts.

    Returns:
        the case. A case of one text has 16 different requests, which are timed in turns.
    """
    lengths = case_lengths(name)
    batch = PADDED_BATCH if name.startswith("ragged") else len(lengths)
    seeds = range(_TEXTS_PER_LATENCY_CASE if len(lengths) == 1 else 1)
    requests = [source.request(lengths, seed=sum(lengths) + i, batch=batch) for i in seeds]
    return Case(name, tuple(requests))


@dataclass(frozen=True)
class PaddedBatch:
    """A rectangular batch, as engines without ragged batches need it.

    Attributes:
        ids: int64 (B, L), 0 after the end of a text.
        mask: int64 (B, L), 1 for a token, 0 for padding.
        rows: (B,), indices of the texts in the request.
    """

    ids: Ids
    mask: Ids
    rows: NDArray[np.intp]

    def arrays(self, names: Sequence[str]) -> dict[str, Ids]:
        """Return what a model reads.

        Args:
            names: some of "input_ids", "attention_mask" and "token_type_ids". The types of a pair are
                0 up to the first separator, with which every text ends, and 1 from there on.
        """
        found = {"input_ids": self.ids, "attention_mask": self.mask}
        if "token_type_ids" in names:
            ends = self.ids == self.ids[0, self.mask[0].sum() - 1]
            found["token_type_ids"] = (np.cumsum(ends, axis=1) > ends) * self.mask
        return found


def pad(texts: Sequence[Ids], size: int, *, by_length: bool = True) -> list[PaddedBatch]:
    """Pad texts in batches.

    Args:
        texts: the ids of the texts.
        size: maximum number of texts in a batch.
        by_length: sort the texts, longest first.

    Returns:
        the batches.
    """
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable") if by_length else np.arange(len(texts))
    batches = []
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        ids = np.zeros((len(rows), lengths[rows].max()), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(rows):
            ids[row, : len(texts[index])] = texts[index]
            mask[row, : len(texts[index])] = 1
        batches.append(PaddedBatch(ids, mask, rows))
    return batches


def padding_share(batches: Sequence[PaddedBatch]) -> float:
    """Return the share of the computed tokens that is padding, 0 to 1."""
    computed = sum(batch.mask.size for batch in batches)
    return 1 - sum(int(batch.mask.sum()) for batch in batches) / computed
