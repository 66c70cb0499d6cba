"""Texts through tokenizer and engine: batches, counts, positions, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver.engine.batches import encode_texts, encode_tokens
from quaver.errors import EngineError, InputError
from quaver.models import TokenBatch


def tokenize(texts: Sequence[str], position: Callable[[int], int]) -> TokenBatch:
    """One token for each character; an empty text is refused."""
    for i, text in enumerate(texts):
        if not text:
            raise InputError(f"text {position(i)} is empty")
    lengths = [len(text) for text in texts]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = np.array([ord(c) for text in texts for c in text], np.int32)
    return TokenBatch(ids, offsets, None, sum(length > 4 for length in lengths))


@dataclass
class SumEngine:
    """Returns the sum of each text's ids, and keeps the sizes of its batches."""

    spec: Any
    batches: list[int]

    def encode(self, batch: TokenBatch, *, position: Callable[[int], int]) -> NDArray[np.float32]:
        self.batches.append(batch.tokens)
        bounds = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
        sums = [int(batch.ids[a:b].sum()) for a, b in bounds]
        if ord("!") in sums:
            raise EngineError(f"text {position(sums.index(ord('!')))} is not finite")
        return np.array(sums, np.float32)[:, None]


@pytest.fixture
def engine() -> Any:
    return SumEngine(SimpleNamespace(outputs=1), [])


TEXTS = ["a", "bc", "def", "ghijk", "l", "m"]
SUMS = [float(sum(map(ord, text))) for text in TEXTS]


@pytest.mark.parametrize("at_once", [1, 2, 4, 1000])
@pytest.mark.parametrize("bound", [1, 3, 6, 100])
def test_texts_keep_their_order_in_batches_of_bounded_size(
    engine: Any, at_once: int, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.engine.batches._TEXTS_AT_ONCE", at_once)
    report = encode_texts(tokenize, engine, TEXTS, max_batch_tokens=bound)
    assert report.vectors[:, 0].tolist() == SUMS
    assert (report.tokens, report.truncated) == (13, 1)
    assert all(size <= max(bound, 5) for size in engine.batches)
    assert sum(engine.batches) == 13


def test_no_texts_are_no_vectors(engine: Any) -> None:
    report = encode_texts(tokenize, engine, [])
    assert (report.vectors.shape, report.tokens, engine.batches) == ((0, 1), 0, [])


@pytest.mark.parametrize(("bad", "error"), [("", InputError), ("!", EngineError)])
def test_a_failing_text_is_named_by_the_callers_position(
    engine: Any, bad: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.engine.batches._TEXTS_AT_ONCE", 2)
    with pytest.raises(error, match=r"^text 4 is"):
        encode_texts(tokenize, engine, [*TEXTS[:4], bad])
    with pytest.raises(error, match=r"^text 40 is"):
        encode_texts(tokenize, engine, [*TEXTS[:4], bad], position=lambda i: 10 * i)


def test_the_bar_counts_the_callers_texts(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    encode_texts(tokenize, engine, ["a", "bc"], show_progress_bar=True, copies=[3, 4])
    assert "7/7" in capsys.readouterr().err
    encode_texts(tokenize, engine, ["a", "bc"])
    assert capsys.readouterr().err == ""


def test_tokens_are_encoded_as_their_texts(engine: Any) -> None:
    assert encode_tokens(engine, tokenize(TEXTS, lambda i: i))[:, 0].tolist() == SUMS


def test_the_bound_is_a_positive_number(engine: Any) -> None:
    with pytest.raises(
        InputError, match="max_batch_tokens must be a whole number of at least 1: got 0"
    ):
        encode_texts(tokenize, engine, TEXTS, max_batch_tokens=0)
