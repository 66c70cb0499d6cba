"""What is encoded: token ids cut from real English text, the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import REPOSITORY

DOCUMENTS = REPOSITORY / "examples" / "python-docs"
Ids = NDArray[np.int64]
LATENCY_LENGTHS = (16, 32, 128, 256, 512)
BATCH, RAGGED = "32x256", "ragged256"
CASES = (*(f"1x{length}" for length in LATENCY_LENGTHS), BATCH, RAGGED)
TEXTS_PER_LATENCY_CASE = 16


@dataclass(frozen=True)
class Case:
    """What one row measures.

    Attributes:
        name: one of CASES.
        title: for the table.
        requests: each is one call: the ids of its texts, special tokens included. The requests of a
            case are alike, so any of them may be timed.
        batch: whether a call holds many texts.
    """

    name: str
    title: str
    requests: tuple[tuple[Ids, ...], ...]
    batch: bool

    @property
    def tokens(self) -> int:
        """Tokens of one request."""
        return sum(len(text) for text in self.requests[0])


class TextSource:
    """Running text as ids, from which pieces of any length are cut."""

    def __init__(self, folder: Path) -> None:
        """Tokenize the documents.

        Args:
            folder: model folder with tokenizer.json.
        """
        from tokenizers import Tokenizer

        from quaver.passages import read_document, scan_folder

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        texts = [read_document(path).text for path in scan_folder(DOCUMENTS).files]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        self._ids = np.concatenate([np.array(e.ids, np.int64) for e in encoded])
        self._first = tokenizer.token_to_id("[CLS]")
        self._last = tokenizer.token_to_id("[SEP]")

    def cut(self, lengths: list[int], seed: int) -> tuple[Ids, ...]:
        """Cut pieces at random places.

        Args:
            lengths: tokens of each piece, [CLS] and [SEP] included; at least 3.
            seed: of the places.

        Returns:
            The pieces.
        """
        random = np.random.default_rng(seed)
        pieces = []
        for length in lengths:
            start = int(random.integers(len(self._ids) - length))
            body = self._ids[start : start + length - 2]
            pieces.append(np.concatenate([[self._first], body, [self._last]]).astype(np.int64))
        return tuple(pieces)


def lognormal_lengths(count: int, *, mean: float = 90, sigma: float = 0.8) -> list[int]:
    """Draw text lengths as collections of passages have them.

    Args:
        count: how many.
        mean: mean of the distribution before it is cut to 8..512.
        sigma: standard deviation of the logarithm.

    Returns:
        The lengths in tokens.
    """
    random = np.random.default_rng(90)
    lengths = random.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return [int(length) for length in np.clip(lengths.round(), 8, 512)]


def get_case(name: str, source: TextSource) -> Case:
    """Return a case with its inputs.

    Args:
        name: one of CASES.
        source: gives the texts.

    Returns:
        The case.
    """
    if name == BATCH:
        return Case(name, "32 x 256", (source.cut([256] * 32, 1),), True)
    if name == RAGGED:
        lengths = lognormal_lengths(256)
        title = f"256 texts, 8 to 512 tokens, mean {sum(lengths) / len(lengths):.0f}"
        return Case(name, title, (source.cut(lengths, 2),), True)
    length = int(name.removeprefix("1x"))
    pieces = source.cut([length] * TEXTS_PER_LATENCY_CASE, length)
    return Case(name, f"1 x {length}", tuple((piece,) for piece in pieces), False)


@dataclass(frozen=True)
class PaddedBatch:
    """Texts side by side, as engines without ragged batches need them.

    Attributes:
        ids: int64 (B, L), 0 behind a text.
        mask: int64 (B, L), 1 where there is a token.
        rows: where the vectors belong in the request.
    """

    ids: Ids
    mask: Ids
    rows: NDArray[np.intp]


def pad(texts: tuple[Ids, ...], size: int) -> list[PaddedBatch]:
    """Sort texts by length, longest first, and pad them in batches; costs the peers no time.

    Args:
        texts: the texts of a request.
        size: most texts in a batch.

    Returns:
        The batches.
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = []
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        ids = np.zeros((len(rows), len(texts[rows[0]])), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(rows):
            ids[row, : len(texts[index])] = texts[index]
            mask[row, : len(texts[index])] = 1
        batches.append(PaddedBatch(ids, mask, rows))
    return batches


def padding_share(batches: list[PaddedBatch]) -> float:
    """Return which part of the computed tokens is padding, 0 to 1."""
    computed = sum(batch.mask.size for batch in batches)
    return 1 - sum(int(batch.mask.sum()) for batch in batches) / computed
