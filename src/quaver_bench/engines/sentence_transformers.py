"""sentence-transformers as its users call it: `encode` with texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quaver_bench.engines import CannotRunError, Engine, Form, Run, Setup, Vectors
from quaver_bench.engines.pytorch import first_line
from quaver_bench.inputs import PADDED_BATCH, Request


class SentenceTransformersEngine:
    """`SentenceTransformer.encode` in float32; it tokenizes, sorts and pads by itself."""

    def __init__(self, setup: Setup) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.

        Raises:
            CannotRunError: sentence-transformers cannot load it.
        """
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(setup.threads)
        try:
            self._model = SentenceTransformer(
                str(setup.model.folder.path), device="cpu", local_files_only=True
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise CannotRunError(f"it cannot load it: {first_line(error)}") from error
        self._model.max_seq_length = setup.max_length
        self.settings: dict[str, Any] = {
            "threads": torch.get_num_threads(),
            "tokenization": "included",
        }

    def prepare(self, request: Request) -> Run:
        """Take the texts; see `engines.Engine`."""
        texts = request.texts
        if texts is None:
            raise CannotRunError("it takes text, and this run measures random ids")
        return lambda: self._encode(texts, request.batch)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode; see `engines.Engine`."""
        return self._encode(texts, PADDED_BATCH)

    def _encode(self, texts: Sequence[str], batch: int) -> Vectors:
        vectors: Vectors = self._model.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


def _load(setup: Setup) -> Engine:
    return SentenceTransformersEngine(setup)


FORMS = (
    Form(
        "sentence-transformers",
        _load,
        ("sentence_transformers",),
        ("sentence_transformers",),
        "pip install sentence-transformers",
    ),
)
