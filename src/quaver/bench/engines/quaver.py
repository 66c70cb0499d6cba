"""Quaver: ragged batches as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quaver.bench.engines import CannotRunError, Engine, Form, Run, Setup, Vectors
from quaver.bench.inputs import Request
from quaver.embedder import Embedder
from quaver.engine import Precision
from quaver.errors import QuaverError
from quaver.pipeline import MAX_BATCH_TOKENS
from quaver.tokenizer import TokenBatch
from quaver.vectors import convert


class QuaverEngine:
    """`Embedder` for text; for ids the engine behind it, fed as `Embedder.encode` feeds it."""

    def __init__(self, setup: Setup, precision: Precision) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.
            precision: "int8" or "float32".

        Raises:
            CannotRunError: Quaver does not run this model.
        """
        try:
            self._embedder = Embedder.from_pretrained(
                setup.model.folder.path,
                precision=precision,
                threads=setup.threads,
                max_seq_length=setup.max_length,
                local_files_only=True,
            )
        except QuaverError as error:
            raise CannotRunError(str(error)) from error
        self._engine = self._embedder._engine
        self.settings: dict[str, Any] = {
            "isa": self._embedder.isa,
            "threads": self._embedder.threads,
            "batch_tokens": MAX_BATCH_TOKENS,
        }

    def prepare(self, request: Request) -> Run:
        """Make the token batches; see `engines.Engine`."""
        ids = np.concatenate(request.ids).astype(np.int32)
        offsets = np.cumsum([0, *map(len, request.ids)], dtype=np.int32)
        parts = [part for _, part in TokenBatch(ids, offsets, None, 0).split(MAX_BATCH_TOKENS)]

        def run() -> Vectors:
            vectors = np.concatenate([self._engine.encode(part) for part in parts])
            return _unit(vectors)

        return run

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as users do; see `engines.Engine`."""
        return _unit(self._embedder.encode(texts, prompt="", normalize=True))


def _unit(vectors: Any) -> Vectors:
    unit: Vectors = convert(vectors, normalize=True, output="float32")
    return unit


def _int8(setup: Setup) -> Engine:
    return QuaverEngine(setup, "int8")


def _float32(setup: Setup) -> Engine:
    return QuaverEngine(setup, "float32")


FORMS = (
    Form("quaver-int8", _int8, runs_on=("quaver",), environment="", pads=False),
    Form("quaver-float32", _float32, runs_on=("quaver",), environment="", pads=False),
)
