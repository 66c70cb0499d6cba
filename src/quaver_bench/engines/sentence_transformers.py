"""sentence-transformers as its users call it: `encode` with texts."""

from __future__ import annotations

from collections.abc import Sequence

from quaver_bench.engines import CannotRunError, Form, Setup, Vectors
from quaver_bench.engines.padded import TextEngine
from quaver_bench.engines.pytorch import first_line


class SentenceTransformersEngine(TextEngine):
    """`SentenceTransformer.encode` in float32; it tokenizes, sorts and pads by itself."""

    def __init__(self, setup: Setup) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.

        Raises:
            CannotRunError: sentence-transformers cannot load the model.
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
        self.settings = {
            "threads": torch.get_num_threads(),
            "tokenization": "included",
        }

    def embed(self, texts: Sequence[str], batch: int) -> Vectors:
        """Call `SentenceTransformer.encode`."""
        vectors: Vectors = self._model.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


FORMS = (
    Form(
        "sentence-transformers",
        SentenceTransformersEngine,
        ("sentence_transformers",),
        ("sentence_transformers",),
        "pip install sentence-transformers",
    ),
)
