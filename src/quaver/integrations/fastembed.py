"""fastembed's ``TextEmbedding``, by interface: code written for it runs on Quaver's engine.

from quaver.integrations.fastembed import TextEmbedding  # instead of: from fastembed import ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.engine import check_range
from quaver.integrations.shared_models import Role, shared_embedder

BATCH_SIZE = 256
MAX_BATCH_SIZE = 1_000_000


class TextEmbedding:
    """Embeds texts in int8 on the CPU, under the names of fastembed.

        model = TextEmbedding("BAAI/bge-small-en-v1.5")
        vectors = list(model.embed(["Paris is the capital of France."]))

    fastembed itself is not needed. Two differences: ``model_name`` has no default, and ``query_embed``
    and ``passage_embed`` put the model's own prompts before texts, where fastembed leaves most out.

    Attributes:
        model_name: model folder or hub id.
    """

    def __init__(self, model_name: str, *, threads: int | None = None, **settings: Any) -> None:
        """Load the model, unless this process has it already.

        Args:
            model_name: model folder or hub id.
            threads: threads of the engine; None takes the CPUs this process may use.
            **settings: further arguments of ``Embedder.from_pretrained``.

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
        """Embed texts as they are, without a prompt, while they are read.

        Args:
            documents: a text, or texts; a generator is read batch by batch.
            batch_size: texts of one call of the engine.

        Yields:
            A float32 array (D,) for each text.

        Raises:
            InputError: batch_size is outside 1 to 1,000,000; a text is no str, or invalid: its
                position in its batch is named.
        """
        return self._embed(documents, batch_size, "document", "")

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed documents, with the model's document prompt; see ``embed``."""
        return self._embed(texts, batch_size, "document", None)

    def query_embed(
        self, query: str | Iterable[str], batch_size: int = BATCH_SIZE
    ) -> Iterator[NDArray[np.float32]]:
        """Embed queries, with the model's query prompt; see ``embed``."""
        return self._embed(query, batch_size, "query", None)

    def _embed(
        self, texts: str | Iterable[str], batch_size: int, role: Role, prompt: str | None
    ) -> Iterator[NDArray[np.float32]]:
        check_range("batch_size", batch_size, MAX_BATCH_SIZE)
        rest = iter([texts] if isinstance(texts, str) else texts)
        while batch := list(islice(rest, batch_size)):
            yield from self._shared.encode(batch, role, prompt=prompt)
