"""Two kinds of engines: those that take padded batches of ids, and those that take texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quaver_bench.engines import CannotRunError, Run, Setup, Vectors
from quaver_bench.inputs import PADDED_BATCH, Ids, PaddedBatch, Request, pad


class PaddedEngine:
    """An engine that computes padded batches; subclasses implement `compute`."""

    settings: dict[str, Any]

    def __init__(self, setup: Setup) -> None:
        """Read the tokenizer, with the same truncation as in every engine.

        Args:
            setup: see `Setup`.
        """
        from tokenizers import Tokenizer

        folder = setup.model.folder
        self._tokenizer = Tokenizer.from_file(str(folder.transformer / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(setup.max_length)
        self._lowercase = folder.lowercase

    def inputs(self, batch: PaddedBatch) -> Any:
        """Convert a batch for `compute`; timed only if the text is."""
        return batch

    def compute(self, inputs: Any) -> Vectors:
        """Return unit vectors float32 (B, H) of converted inputs."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str]) -> tuple[Ids, ...]:
        """Return the truncated ids of texts, special tokens included."""
        lowered = [text.lower() for text in texts] if self._lowercase else list(texts)
        return tuple(np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch(lowered))

    def prepare(self, request: Request) -> Run:
        """Make padded arrays; see `engines.Engine`."""
        made = [(batch.rows, self.inputs(batch)) for batch in pad(request.ids, request.batch)]
        count = len(request.ids)
        return lambda: _in_order(count, [(rows, self.compute(inputs)) for rows, inputs in made])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Tokenize all texts, sort, pad, compute; see `engines.Engine`."""
        return self.prepare(Request(self.tokenize(texts), None, PADDED_BATCH))()


class TextEngine:
    """An engine that tokenizes, sorts and pads by itself; subclasses implement `embed`."""

    settings: dict[str, Any]

    def embed(self, texts: Sequence[str], batch: int) -> Vectors:
        """Return unit vectors float32 (N, H) of texts, `batch` at a time."""
        raise NotImplementedError

    def prepare(self, request: Request) -> Run:
        """Take the texts; see `engines.Engine`."""
        texts = request.texts
        if texts is None:
            raise CannotRunError("it needs text, and this run measures random ids")
        return lambda: self.embed(texts, request.batch)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts; see `engines.Engine`."""
        return self.embed(texts, PADDED_BATCH)


def _in_order(count: int, parts: list[tuple[Any, Vectors]]) -> Vectors:
    if len(parts) == 1 and count == 1:
        return parts[0][1]
    vectors = np.empty((count, parts[0][1].shape[1]), np.float32)
    for rows, part in parts:
        vectors[rows] = part
    return vectors
