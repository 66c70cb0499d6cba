"""fastembed's `TextEmbedding` interface on Quaver's engine.

from quaver.integrations.fastembed import TextEmbedding  # instead of: from fastembed import ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.errors import check_range
from quaver.integrations.shared_models import Role, shared_embedder

BATCH_SIZE = 256
MAX_BATCH_SIZE = 1_000_000


class TextEmbedding:
    """Embed texts in int8 on the CPU, with fastembed's method names.

        model = TextEmbedding("BAAI/bge-small-en-v1.5")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed need not be installed. There are two differences: `model_name` has no default, and
    `query_embed` and `passage_embed` add the model's own prompts, most of which fastembed omits.

    Attributes:
        model_name: model folder or hub id.
    """

    def __init__(self, model_name: str, *, threads: int | None = None, **settings: Any) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            threads: engine threads; None uses every CPU available to the process.
            **settings: further arguments of `Embedder.from_pretrained`.

        Raises:
            ModelError: the model cannot be loaded.
        """
        self.model_name = model_name
        self._shared = shared_embedder(model_name, threads=threads, **settings)

    @property
    def embedding_size(self) -> int:
        """The dimensions of a vector."""
        return self._shared.embedder.dimension

    def embed(
        self, documents: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed texts without a prompt, batch by batch.

        Args:
            documents: one text or several; a generator is read batch by batch.
            batch_size: texts per call of the engine.

        Yields:
            a float32 array (D,) for each text.

        Raises:
            InputError: batch_size is outside 1 to 1,000,000; or a text is not a str or is invalid,
                and the message names its position in its batch.
        """
        return self._embed(documents, batch_size, "document", "")

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed documents, with the model's document prompt; see `embed`."""
        return self._embed(texts, batch_size, "document", None)

    def query_embed(
        self, query: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed queries, with the model's query prompt; see `embed`."""
        return self._embed(query, batch_size, "query", None)

    def _embed(
        self, texts: str | Iterable[str], batch_size: int, role: Role, prompt: str | None
    ) -> Iterator[NDArray[np.float32]]:
        check_range("batch_size", batch_size, MAX_BATCH_SIZE)
        remaining = iter([texts] if isinstance(texts, str) else texts)
        while batch := list(islice(remaining, batch_size)):
            yield from self._shared.encode(batch, role, prompt=prompt)
