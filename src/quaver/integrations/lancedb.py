"""LanceDB: "quaver" in its registry of embedding functions, in int8 on the CPU.

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
    """Embed a table's source column and queries in int8 on the CPU.

    Documents and queries get the model's own prompts. LanceDB saves the settings with the table; if
    this module is imported, a reopened table finds the function again.
    """

    name: str
    """Model folder or hub id."""
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8"
    """Precision of the engine."""
    truncate_dim: int | None = None
    """Number of leading components to keep; None keeps all."""
    max_seq_length: int | None = None
    """Maximum tokens of a text; longer texts are truncated."""
    pooling: str | None = None
    """Such as "mean" or "cls+mean", for a model folder that does not specify it."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    threads: int | None = None
    """Engine threads; None uses every core available to the process."""
    local_files_only: bool = False
    """Never use the network."""

    _shared: SharedEmbedder | None = PrivateAttr(default=None)

    def ndims(self) -> int:
        """Return the dimensions of a vector."""
        return int(self._loaded().model.dimension)

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
            InputError: a text is not a str or is invalid; the message names its position.
        """
        return self._rows(texts, "document")

    def compute_query_embeddings(
        self, query: Any, *args: Any, **kwargs: Any
    ) -> list[NDArray[np.float32]]:
        """Embed one query or several; see `generate_embeddings`."""
        return self._rows(self.sanitize_input(query), "query")

    # LanceDB retries with growing pauses, which suits remote services; a local error does not go away.
    def compute_query_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> Any:
        """Run `compute_query_embeddings` without retrying."""
        return self.compute_query_embeddings(*args, **kwargs)

    def compute_source_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> Any:
        """Run `compute_source_embeddings` without retrying."""
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
