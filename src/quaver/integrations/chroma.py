"""Chroma: its ``EmbeddingFunction`` in int8 on the CPU.

from quaver.integrations.chroma import QuaverEmbeddingFunction
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import needs_extra
from quaver.integrations.shared_models import Role, shared_embedder

with needs_extra("chroma"):
    from chromadb.api.types import Documents, EmbeddingFunction
    from chromadb.utils.embedding_functions import register_embedding_function


@register_embedding_function
class QuaverEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embeds a collection's documents and queries in int8 on the CPU.

        embed = QuaverEmbeddingFunction("BAAI/bge-small-en-v1.5")
        collection = client.create_collection("notes", embedding_function=embed)

    The model's own prompts go before documents and queries, and the space is cosine unless the
    collection says otherwise. Chroma keeps the settings with the collection: where this module is
    imported, ``client.get_collection`` loads the model again by itself. A process loads a model once.
    """

    def __init__(
        self,
        model_name: str | Path,
        *,
        precision: Literal["int8", "float32"] = "int8",
        truncate_dim: int | None = None,
        max_seq_length: int | None = None,
        pooling: str | None = None,
        revision: str | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load the model, unless this process has it already.

        Args:
            model_name: model folder or hub id.
            precision: what the engine computes in.
            truncate_dim: leading components to keep.
            max_seq_length: most tokens of a text.
            pooling: "cls" or "mean", for a model folder that does not say.
            revision: branch, tag or commit on the hub.
            threads: threads of the engine; None takes the CPUs this process may use.
            local_files_only: never use the network.

        Raises:
            ModelError: the model cannot be loaded.
        """
        self._config: dict[str, Any] = {
            "model_name": os.fspath(model_name),
            "precision": precision,
            "truncate_dim": truncate_dim,
            "max_seq_length": max_seq_length,
            "pooling": pooling,
            "revision": revision,
            "threads": threads,
            "local_files_only": local_files_only,
        }
        settings = {name: value for name, value in self._config.items() if name != "model_name"}
        self._shared = shared_embedder(model_name, **settings)

    def __call__(self, input: Documents) -> Any:
        """Embed documents.

        Args:
            input: N texts.

        Returns:
            N float32 arrays (D,).

        Raises:
            InputError: a text is no str, or invalid; its position is named.
        """
        return self._rows(input, "document")

    def embed_query(self, input: Documents) -> Any:
        """Embed queries; see ``__call__``."""
        return self._rows(input, "query")

    @staticmethod
    def name() -> str:
        """Return the name Chroma knows this class by."""
        return "quaver"

    def default_space(self) -> Literal["cosine"]:
        """Return the space of a collection that names none."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """Return the settings, as Chroma keeps them with the collection."""
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> QuaverEmbeddingFunction:
        """Make the function of settings that ``get_config`` gave."""
        return QuaverEmbeddingFunction(**config)

    def validate_config_update(
        self, old_config: dict[str, Any], new_config: dict[str, Any]
    ) -> None:
        """Check a change of a collection's settings.

        Raises:
            ValueError: the new settings give other vectors than those that are stored.
        """
        for name in ("model_name", "revision", "truncate_dim", "pooling"):
            if old_config.get(name) != new_config.get(name):
                raise ValueError(
                    f"{name} cannot change, the stored vectors were made with "
                    f"{old_config.get(name)!r}: got {new_config.get(name)!r}; make a new collection"
                )

    def _rows(self, texts: Documents, role: Role) -> list[NDArray[np.float32]]:
        return list(self._shared.encode(texts, role))
