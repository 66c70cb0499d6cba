"""fastembed as its users call it: `TextEmbedding.embed` with texts, on an ONNX file of the model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from quaver_bench.engines import Form, Setup, Vectors
from quaver_bench.engines.padded import TextEngine, copy_tokenizer
from quaver_bench.inputs import Text
from quaver_bench.whole_files import written_whole


def folder(setup: Setup) -> Path:
    """Return a folder as fastembed needs it: model.onnx with token vectors, and the tokenizer's files.

    Raises:
        CannotRunError: the model folder lacks a file that fastembed reads.
    """
    import torch

    from quaver_bench.engines.pytorch import export_onnx, pooled_module

    path = setup.model.built(f"fastembed-torch-{metadata.version('torch')}", "")
    if path.is_dir():
        return path
    module = pooled_module(setup)

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.module.tokens(input_ids, attention_mask)

    with written_whole(path) as part:
        copy_tokenizer(setup, part)
        export_onnx(
            Tokens().eval(),
            part / "model.onnx",
            output="last_hidden_state",
            max_length=setup.max_length,
        )
    return path


class FastEmbedEngine(TextEngine):
    """`TextEmbedding` with a custom model; it tokenizes, pads and pools by itself."""

    def __init__(self, setup: Setup) -> None:
        """Add the model and load it.

        Args:
            setup: see `Setup`.
        """
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        path = folder(setup)
        name = f"quaver-bench/{path.name}"
        dimension = int(setup.model.folder.config["hidden_size"])
        if name not in {model["model"] for model in TextEmbedding.list_supported_models()}:
            TextEmbedding.add_custom_model(
                model=name,
                pooling=PoolingType.CLS if setup.model.pooling == "cls" else PoolingType.MEAN,
                normalization=True,
                sources=ModelSource(hf=name),
                dim=dimension,
                model_file="model.onnx",
            )
        self._model = TextEmbedding(
            name, specific_model_path=str(path), threads=setup.threads, local_files_only=True
        )
        # The same truncation as in every engine, instead of the folder's.
        self._model.model.tokenizer.enable_truncation(setup.max_length)
        self.settings = {"threads": setup.threads, "tokenization": "included"}

    def embed(self, texts: Sequence[Text], batch: int) -> Vectors:
        """Call `TextEmbedding.embed`."""
        return np.array(list(self._model.embed(list(texts), batch_size=batch)), np.float32)


FORMS = (
    Form(
        "fastembed",
        FastEmbedEngine,
        ("fastembed", "torch", "transformers", "onnxscript"),
        ("fastembed",),
        "pip install fastembed torch transformers onnxscript",
        sorts=False,
        artifact=folder,
    ),
)
