"""sentence-transformers as its users call it, with texts or pairs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from quaver_bench.engines import EVERY_KIND, CannotRunError, Form, Setup
from quaver_bench.engines.padded import TextEngine
from quaver_bench.engines.pytorch import first_line
from quaver_bench.inputs import Text
from quaver_bench.kinds import Output

_CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "embedder": ("SentenceTransformer", "encode", {"normalize_embeddings": True}),
    "cross-encoder": ("CrossEncoder", "predict", {}),
    "sparse": ("SparseEncoder", "encode_document", {}),
    "multi-vector": ("MultiVectorEncoder", "encode_document", {"convert_to_numpy": True}),
}
"""Kind to the class that opens it, its method, and the method's arguments."""


class SentenceTransformersEngine(TextEngine):
    """The class of the model's kind in float32; it tokenizes, sorts and pads by itself."""

    def __init__(self, setup: Setup) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.

        Raises:
            CannotRunError: sentence-transformers cannot load the model.
        """
        import sentence_transformers
        import torch

        opens, method, options = _CALLS[setup.model.kind.name]
        torch.set_num_threads(setup.threads)
        try:
            model = getattr(sentence_transformers, opens)(
                str(setup.model.folder.path), device="cpu", local_files_only=True
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise CannotRunError(f"it cannot load it: {first_line(error)}") from error
        if opens == "CrossEncoder":
            options = {"activation_fn": torch.nn.Identity()}
        model.max_seq_length = setup.max_length
        if opens == "MultiVectorEncoder":
            model[0].document_length = setup.max_length  # goes before max_seq_length
        self._call = partial(getattr(model, method), show_progress_bar=False, **options)
        self.settings = {
            "threads": torch.get_num_threads(),
            "tokenization": "included",
        }

    def embed(self, texts: Sequence[Text], batch: int) -> Output:
        """Call the model's method."""
        return self._call(list(texts), batch_size=batch)


FORMS = (
    Form(
        "sentence-transformers",
        SentenceTransformersEngine,
        ("sentence_transformers",),
        ("sentence_transformers",),
        "pip install sentence-transformers",
        kinds=EVERY_KIND,
    ),
)
