"""QuaverModule: sentence-transformers on Quaver's engine, and every tool built on them.

`quaver export-st` writes a folder; then:

    SentenceTransformer("./folder", trust_remote_code=True)
    CrossEncoder("./folder", trust_remote_code=True)

The flag is what sentence-transformers 6 asks for before it imports a module of another package, here
this one; no code comes from the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quaver.errors import InputError
from quaver.extras import needs_extra
from quaver.integrations.sentence_transformers_export import CONFIG, MODEL, Task, copy_model
from quaver.integrations.shared_models import (
    SharedCrossEncoder,
    SharedEmbedder,
    shared_cross_encoder,
    shared_embedder,
)

with needs_extra("sentence-transformers"):
    import torch
    from sentence_transformers.base.modules import InputModule


class QuaverModule(InputModule):
    """The whole model as one module: texts in, embeddings or scores out, on the CPU.

    It can be used without a folder of its own too, and without the flag:

        SentenceTransformer(modules=[QuaverModule("BAAI/bge-small-en-v1.5")], device="cpu")

    sentence-transformers hands over ``batch_size`` texts at a time, 32 unless told otherwise; 256
    and more keep the engine busy. Training is not possible.

    Attributes:
        model: model folder or hub id.
        task: "embed" or "rank".
        precision: "int8" or "float32".
        pooling: "cls" or "mean", where the model folder does not say.
    """

    config_file_name = CONFIG
    save_in_root = True

    def __init__(
        self,
        model: str,
        *,
        task: Task = "embed",
        precision: Literal["int8", "float32"] = "int8",
        pooling: str | None = None,
        max_seq_length: int | None = None,
    ) -> None:
        """Load the model, unless this process has it already.

        Args:
            model: model folder or hub id.
            task: "embed" for SentenceTransformer, "rank" for CrossEncoder.
            precision: what the engine computes in.
            pooling: "cls" or "mean", for a model folder that does not say.
            max_seq_length: most tokens of a text or pair; None takes the most the model allows.

        Raises:
            ModelError: the model cannot be loaded.
            InputError: an argument is outside its rule.
        """
        super().__init__()
        if task not in ("embed", "rank"):
            raise InputError(f"task must be 'embed' or 'rank': got {task!r}")
        self.model = model
        self.task = task
        self.precision = precision
        self.pooling = pooling
        self._load_engine(max_seq_length)

    def _load_engine(self, max_seq_length: int | None) -> None:
        settings: dict[str, Any] = {"precision": self.precision, "max_seq_length": max_seq_length}
        self._shared: SharedEmbedder | SharedCrossEncoder
        if self.task == "embed":
            self._shared = shared_embedder(self.model, pooling=self.pooling, **settings)
        else:
            self._shared = shared_cross_encoder(self.model, **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process load the model itself: an engine is not pickled."""
        return _made, (self.model, self.task, self.precision, self.pooling, self.max_seq_length)

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text or pair, special tokens included."""
        shared = self._shared
        model = shared.embedder if isinstance(shared, SharedEmbedder) else shared.model
        return model.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._load_engine(value)

    def get_embedding_dimension(self) -> int | None:
        """Return D, the components of an embedding; None for a cross-encoder."""
        shared = self._shared
        return shared.embedder.dimension if isinstance(shared, SharedEmbedder) else None

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Keep the texts as they are: the engine has its own tokenizer.

        Args:
            inputs: texts, or pairs of texts.
            prompt: goes before every text.

        Returns:
            "texts" and "prompt".

        Raises:
            InputError: a cross-encoder got a prompt.
        """
        if self.task == "rank" and prompt:
            raise InputError(f"a cross-encoder reads pairs without a prompt: got {prompt!r}")
        return {"texts": list(inputs), "prompt": prompt or ""}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Run the engine.

        Args:
            features: what ``preprocess`` gave.

        Returns:
            The same with "sentence_embedding", float32 (N, D), or "scores", float32 (N, 1).

        Raises:
            InputError: an input is no text, or no pair of texts.
        """
        texts, shared = features["texts"], self._shared
        if isinstance(shared, SharedEmbedder):
            rows = shared.encode(texts, "document", prompt=features["prompt"])
            features["sentence_embedding"] = torch.from_numpy(rows)
        else:
            scores = shared.score([tuple(pair) for pair in texts], "identity")
            features["scores"] = torch.from_numpy(np.asarray(scores, dtype=np.float32)[:, None])
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``save`` writes beside the model."""
        config = {"task": self.task, "precision": self.precision}
        return config if self.pooling is None else {**config, "pooling": self.pooling}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the module with a copy of the model.

        Args:
            output_path: an existing folder.
            args: not used.
            kwargs: not used.
        """
        from quaver.hub import find_folder

        copy_model(find_folder(self.model, None, False, None).path, Path(output_path) / MODEL)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> QuaverModule:
        """Load what ``save`` or `quaver export-st` wrote; sentence-transformers calls it.

        Args:
            model_name_or_path: the folder, or a hub id.
            subfolder: where in it.
            kwargs: token, cache_folder, revision and local_files_only for the hub.

        Returns:
            The module.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        folder = cls.load_dir_path(
            model_name_or_path,
            subfolder=f"{subfolder}/{MODEL}".lstrip("/"),
            **hub,
        )
        return cls(folder, **config)


def _made(
    model: str, task: Task, precision: Any, pooling: str | None, max_seq_length: int
) -> QuaverModule:
    return QuaverModule(
        model, task=task, precision=precision, pooling=pooling, max_seq_length=max_seq_length
    )
