"""Chroma: its `EmbeddingFunction` in int8 on the CPU.

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
    """Embed a collection's documents and queries in int8 on the CPU.

        embed = QuaverEmbeddingFunction("BAAI/bge-small-en-v1.5")
        collection = client.create_collection("notes", embedding_function=embed)

    Documents and queries get the model's own prompts. The space is cosine unless the collection
    specifies another. Chroma saves the settings with the collection; if this module is imported,
    `client.get_collection` loads the model again. Each process loads a model only once.
    """

    def __init__(
        self,
        model_name: str | Path,
        *,
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        truncate_dim: int | None = None,
        max_seq_length: int | None = None,
        pooling: str | None = None,
        revision: str | None = None,
        threads: int | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load the model unless this process already has it.

        Args:
            model_name: model folder or hub id.
            precision: precision of the engine.
            truncate_dim: number of leading components to keep; None keeps all.
            max_seq_length: maximum number of tokens in a text; longer texts are truncated.
            pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
            revision: branch, tag or commit on the hub.
            threads: engine threads; None uses every core available to the process.
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
            InputError: a text is not a str or is invalid; the message names its position.
        """
        return self._rows(input, "document")

    def embed_query(self, input: Documents) -> Any:
        """Embed queries; see `__call__`."""
        return self._rows(input, "query")

    @staticmethod
    def name() -> str:
        """Return the name under which Chroma registers this class."""
        return "quaver"

    def default_space(self) -> Literal["cosine"]:
        """Return the default space of a collection."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """Return the settings that Chroma saves with the collection."""
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> QuaverEmbeddingFunction:
        """Create the function from settings that `get_config` returned."""
        return QuaverEmbeddingFunction(**config)

    def validate_config_update(
        self, old_config: dict[str, Any], new_config: dict[str, Any]
    ) -> None:
        """Check a change of a collection's settings.

        Raises:
            ValueError: the new settings would produce vectors that differ from the stored ones.
        """
        for name in ("model_name", "revision", "truncate_dim", "pooling"):
            if old_config.get(name) != new_config.get(name):
                raise ValueError(
                    f"{name} cannot change; the stored vectors were made with "
                    f"{old_config.get(name)!r}: got {new_config.get(name)!r}; make a new collection"
                )

    def _rows(self, texts: Documents, role: Role) -> list[NDArray[np.float32]]:
        return list(self._shared.encode(texts, role))
