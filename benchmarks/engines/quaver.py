"""Quaver: ragged batches as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import Run
from inputs import Case, Ids
from models import Model
from quaver.architecture import encoder_spec, encoder_weights
from quaver.engine import Engine, Precision
from quaver.model_folder import ModelFolder
from quaver.pipeline import MAX_BATCH_TOKENS
from quaver.tokenizer import TokenBatch


class QuaverEngine:
    """Quaver's engine behind the batches that `Embedder.encode` makes."""

    def __init__(self, model: Model, precision: Precision, threads: int) -> None:
        """Load the model.

        Args:
            model: the model.
            precision: "int8" or "float32".
            threads: of the engine.
        """
        folder = ModelFolder.open(model.folder)
        spec = encoder_spec(folder.config, pooling=folder.pooling, normalize=True)
        weights = encoder_weights(spec, folder.tensors())
        self._engine = Engine(spec, weights, precision=precision, threads=threads)
        self.settings: dict[str, Any] = {"isa": self._engine.isa, "threads": self._engine.threads}

    def prepare(self, case: Case) -> list[Run]:
        """Make the token batches; see `engines.Engine`."""
        return [self._request(texts) for texts in case.requests]

    def _request(self, texts: tuple[Ids, ...]) -> Run:
        ids = np.concatenate(texts).astype(np.int32)
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        batch = TokenBatch(ids, offsets, None, 0)

        def run() -> NDArray[np.float32]:
            parts = [self._engine.encode(part) for _, part in batch.split(MAX_BATCH_TOKENS)]
            return np.concatenate(parts) if len(parts) > 1 else parts[0]

        return run
