"""Run many texts through tokenizer and engine, with a bounded number of tokens at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.engine.engine import Engine
from quaver.engine.postprocessing import Vectors
from quaver.engine.static import StaticEngine
from quaver.engine.tasks import TaskEngine
from quaver.errors import check_range
from quaver.models import TokenBatch

Item = TypeVar("Item", contravariant=True)

MAX_BATCH_TOKENS = 16384
# Texts tokenized at a time: few enough to update a progress bar, enough to fill several batches.
_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class EncodeReport:
    """The result of encoding, with counts.

    Attributes:
        vectors: one for each text.
        tokens: tokens that went through the model; a repeated text counts once.
        truncated: number of distinct texts that were truncated to the model's length.
    """

    vectors: Vectors
    tokens: int
    truncated: int


class Tokenize(Protocol[Item]):
    """`Tokenizer.encode` for texts or `Tokenizer.encode_pairs` for pairs."""

    def __call__(self, items: Sequence[Item], position: Callable[[int], int], /) -> TokenBatch:
        """Tokenize items; messages name item i by `position(i)`."""


def encode_texts(
    tokenize: Tokenize[Item],
    engine: Engine | StaticEngine | TaskEngine,
    texts: Sequence[Item],
    *,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    show_progress_bar: bool = False,
    copies: Sequence[int] | None = None,
    position: Callable[[int], int] | None = None,
) -> EncodeReport:
    """Tokenize and encode texts, in their order.

    Why not sorted by length: the engine does not pad, so a batch costs only its tokens in any order.

    Args:
        tokenize: how the model's tokenizer reads one of `texts`.
        engine: the model's engine.
        texts: N texts, or pairs of texts.
        max_batch_tokens: maximum number of tokens in one native call; a single longer text is a call of its own.
        show_progress_bar: show a bar on stderr.
        copies: how often the caller has each of `texts`, for the bar; None for once each.
        position: maps an index in `texts` to the one that messages show; None shows the same.

    Returns:
        the report; vectors are float32 (N, O) as the engine returns them, O of `EncoderSpec.outputs`.

    Raises:
        InputError: max_batch_tokens is not a positive whole number, or a text is invalid.
        EngineError: a vector has NaN or infinity.
    """
    check_range("max_batch_tokens", max_batch_tokens)
    vectors = np.empty((len(texts), engine.spec.outputs), np.float32)
    tokens = truncated = 0
    total = len(texts) if copies is None else sum(copies)
    with _progress(total, shown=show_progress_bar) as advance:
        for first, tokenized in _tokenized(tokenize, texts, position):
            tokens += tokenized.tokens
            truncated += tokenized.truncated
            for begin, batch in tokenized.split(max_batch_tokens):
                row = first + begin
                vectors[row : row + len(batch)] = engine.encode(
                    batch, position=_behind(row, position)
                )
                advance(len(batch) if copies is None else sum(copies[row : row + len(batch)]))
    return EncodeReport(vectors, tokens, truncated)


def token_batches(
    tokenize: Tokenize[Item],
    texts: Sequence[Item],
    *,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    most_texts: int = sys.maxsize,
    show_progress_bar: bool = False,
) -> Iterator[tuple[TokenBatch, Callable[[int], int]]]:
    """Tokenize texts, in their order, for a model whose results are not one vector each.

    Args:
        tokenize: how the model's tokenizer reads one of `texts`.
        texts: N texts.
        max_batch_tokens: maximum number of tokens in a batch; a single longer text is a batch of its own.
        most_texts: maximum number of texts in a batch.
        show_progress_bar: show a bar on stderr.

    Yields:
        a batch, and where `texts` has the batch's i-th text.

    Raises:
        InputError: max_batch_tokens is not a positive whole number, or a text is invalid.
    """
    check_range("max_batch_tokens", max_batch_tokens, sys.maxsize)
    with _progress(len(texts), shown=show_progress_bar) as advance:
        for first, tokenized in _tokenized(tokenize, texts, None):
            for begin, batch in tokenized.split(max_batch_tokens):
                for start in range(0, len(batch), most_texts):
                    part = batch.select(start, min(start + most_texts, len(batch)))
                    yield part, _behind(first + begin + start, None)
                    advance(len(part))


def encode_tokens(
    engine: Engine | StaticEngine | TaskEngine, tokens: TokenBatch
) -> NDArray[np.float32]:
    """Encode texts that are already tokenized.

    Args:
        engine: the model's engine.
        tokens: N texts, with any total number of tokens.

    Returns:
        float32 (N, O) as the engine returns them.
    """
    whole = tokens.offsets[:1].tolist() + tokens.offsets[-1:].tolist() == [0, tokens.tokens]
    if not whole or len(tokens) < 1:  # the engine says what is wrong with the offsets
        return engine.encode(tokens)
    vectors = np.empty((len(tokens), engine.spec.outputs), np.float32)
    for row, batch in tokens.split(MAX_BATCH_TOKENS):
        vectors[row : row + len(batch)] = engine.encode(batch, position=_behind(row, None))
    return vectors


def _behind(row: int, position: Callable[[int], int] | None) -> Callable[[int], int]:
    """Return the position function of a batch that begins at `row`."""
    return lambda i: row + i if position is None else position(row + i)


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that counts finished texts; import tqdm only to show a bar."""
    if not shown or sys.stderr is None:
        yield lambda texts: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="text", file=sys.stderr) as bar:
        yield bar.update


def _tokenized(
    tokenize: Tokenize[Item], texts: Sequence[Item], position: Callable[[int], int] | None
) -> Iterator[tuple[int, TokenBatch]]:
    """Yield the tokens of a thousand texts at a time; another thread tokenizes the next thousand."""
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    if len(starts) < 2:
        yield 0, tokenize(texts, _behind(0, position))
        return
    with ThreadPoolExecutor(1, thread_name_prefix="quaver-tokenizer") as ahead:

        def submit(first: int) -> Future[TokenBatch]:
            piece = texts[first : first + _TEXTS_AT_ONCE]
            return ahead.submit(tokenize, piece, _behind(first, position))

        coming = submit(0)
        for first in starts:
            batch = coming.result()
            if first + _TEXTS_AT_ONCE < len(texts):
                coming = submit(first + _TEXTS_AT_ONCE)
            yield first, batch
