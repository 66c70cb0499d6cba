"""LanceDB: an entry in its registry of embedding functions, in int8 on the CPU.

import quaver.integrations.lancedb
from lancedb.embeddings import get_registry

embed = get_registry().get("quaver").create(name="BAAI/bge-small-en-v1.5")
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import needs_extra
from quaver.integrations.shared_models import Role, SharedEmbedder, shared_embedder

with needs_extra("lancedb"):
    from lancedb.embeddings import TextEmbeddingFunction, register
    from pydantic import PrivateAttr


@register("quaver")
class QuaverLanceEmbeddings(TextEmbeddingFunction):
    """Embeds a table's source column and queries in int8 on the CPU.

    The model's own prompts go before documents and queries. LanceDB keeps the settings with the
    table: where this module is imported, a table that is opened again finds the function by itself.
    """

    name: str
    """Model folder or hub id."""
    precision: Literal["int8", "float32"] = "int8"
    """What the engine computes in."""
    truncate_dim: int | None = None
    """Leading components to keep."""
    max_seq_length: int | None = None
    """Most tokens of a text."""
    pooling: str | None = None
    """"cls" or "mean", for a model folder that does not say."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    threads: int | None = None
    """Threads of the engine; None takes the CPUs this process may use."""
    local_files_only: bool = False
    """Never use the network."""

    _shared: SharedEmbedder | None = PrivateAttr(default=None)

    def ndims(self) -> int:
        """Return the dimensions of a vector."""
        return self._loaded().embedder.dimension

    def generate_embeddings(
        self, texts: Any, *args: Any, **kwargs: Any
    ) -> list[NDArray[np.float32]]:
        """Embed documents.

        Args:
            texts: N texts.
            *args: not used.
            **kwargs: not used.

        Returns:
            N float32 arrays (D,).

        Raises:
            InputError: a text is no str, or invalid; its position is named.
        """
        return self._rows(texts, "document")

    def compute_query_embeddings(
        self, query: Any, *args: Any, **kwargs: Any
    ) -> list[NDArray[np.float32]]:
        """Embed a query, or several; see ``generate_embeddings``."""
        return self._rows(self.sanitize_input(query), "query")

    # LanceDB tries again with growing pauses, for services behind a network; an error here stays.
    def compute_query_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> Any:
        """Do what ``compute_query_embeddings`` does, once."""
        return self.compute_query_embeddings(*args, **kwargs)

    def compute_source_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> Any:
        """Do what ``compute_source_embeddings`` does, once."""
        return self.compute_source_embeddings(*args, **kwargs)

    def _rows(self, texts: Any, role: Role) -> list[NDArray[np.float32]]:
        return list(self._loaded().encode([*texts], role))

    def _loaded(self) -> SharedEmbedder:
        if self._shared is None:
            self._shared = shared_embedder(
                self.name,
                precision=self.precision,
                truncate_dim=self.truncate_dim,
                max_seq_length=self.max_seq_length,
                pooling=self.pooling,
                revision=self.revision,
                threads=self.threads,
                local_files_only=self.local_files_only,
            )
        return self._shared
