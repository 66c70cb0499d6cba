"""Counting the tokens of pieces by where tokens end gives what the tokenizer gives."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from quaver.documents.token_counter import SpanCounter
from quaver.models.tokenizer import Tokenizer

SAMPLES = Path(__file__).parents[2] / "examples" / "python-docs"


class Counted:
    """A tokenizer that knows how many characters it was asked to count."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wraps it."""
        self.tokenizer = tokenizer
        self.characters = 0

    def count(self, text: str) -> int:
        self.characters += len(text)
        return self.tokenizer.count(text)

    def counts(self, texts: list[str]) -> list[int]:
        return [self.count(text) for text in texts]

    def token_ends(self, text: str) -> list[int]:
        return self.tokenizer.token_ends(text)


@pytest.fixture(params=[False, True], ids=["as it is", "lower case"])
def tokenizer(tiny_folder: Path, request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder, max_length=64, lowercase=request.param)


def words_in_a_row(text: str, number: int) -> list[str]:
    """Pieces of the text that begin and end with a word, in the order of the text."""
    chance = random.Random(3)
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    firsts = sorted(chance.randrange(len(spans)) for _ in range(number))
    lasts = [min(first + chance.randrange(200), len(spans) - 1) for first in firsts]
    return [
        text[spans[first][0] : spans[last][1]] for first, last in zip(firsts, lasts, strict=True)
    ]


def test_every_piece_has_its_own_number_of_tokens(tokenizer: Tokenizer) -> None:
    # Three blocks, so that pieces lie across their borders; letters that grow in lower case.
    page = (SAMPLES / "tutorial" / "classes.rst").read_text(encoding="utf-8")
    text = f"İstanbul ǅ ÉTÉ naïve 😀\n{page}\n{page}"
    spans = SpanCounter(tokenizer, text, 10_000)
    pieces = words_in_a_row(text, 300)
    assert [spans.count(piece) for piece in pieces] == tokenizer.counts(pieces)


def test_the_tokenizer_is_seldom_asked_again(tokenizer: Tokenizer) -> None:
    text = (SAMPLES / "tutorial" / "classes.rst").read_text(encoding="utf-8")
    counted = Counted(tokenizer)
    spans = SpanCounter(counted, text, 10_000)
    pieces = words_in_a_row(text, 300)
    for piece in pieces:
        spans.count(piece)
    assert counted.characters < sum(map(len, pieces)) / 100


def test_what_is_no_piece_of_the_text_is_counted_all_the_same(tokenizer: Tokenizer) -> None:
    other = "the list of the files that this function returns, and the module"
    assert SpanCounter(tokenizer, "a text", 10_000).count(other) == tokenizer.count(other)


def test_a_text_without_a_space_ends_its_blocks_somewhere(tokenizer: Tokenizer) -> None:
    text = "a-" * 40_000
    spans = SpanCounter(tokenizer, text, 10_000)
    assert spans.count(text) == pytest.approx(tokenizer.count(text), abs=4)  # cut inside a word
