"""fastembed as its users call it: `TextEmbedding.embed` with texts, over an ONNX file of the model."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from quaver_bench.engines import CannotRunError, Engine, Form, Run, Setup, Vectors
from quaver_bench.inputs import PADDED_BATCH, Request

_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def folder(setup: Setup) -> Path:
    """Return a folder as fastembed wants it: model.onnx of token vectors, and the tokenizer's files.

    Raises:
        CannotRunError: the model folder lacks a file that fastembed reads.
    """
    import torch

    from quaver_bench.engines.pytorch import pooled_module

    path = setup.model.built(f"fastembed-torch-{metadata.version('torch')}", "")
    if path.is_dir():
        return path
    transformer = setup.model.folder.transformer
    if lacking := [file for file in _FILES if not (transformer / file).is_file()]:
        raise CannotRunError(f"it needs {', '.join(lacking)} in the model folder")
    part = path.with_name(f"part-{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for file in _FILES:
        shutil.copy(transformer / file, part / file)
    module = pooled_module(setup)

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.module.tokens(input_ids, attention_mask)

    mask = torch.ones((2, 8), dtype=torch.int64)
    mask[1, 5:] = 0
    names = ["input_ids", "attention_mask"]
    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length", max=setup.max_length)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Tokens().eval(),
            (torch.ones((2, 8), dtype=torch.int64), mask),
            part / "model.onnx",
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_shapes=(axes, axes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    part.rename(path)
    return path


class FastEmbedEngine:
    """`TextEmbedding` with a model added by hand; it tokenizes, pads and pools by itself."""

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
        # The truncation that every engine gets, instead of the one of the folder.
        self._model.model.tokenizer.enable_truncation(setup.max_length)
        self.settings: dict[str, Any] = {"threads": setup.threads, "tokenization": "included"}

    def prepare(self, request: Request) -> Run:
        """Take the texts; see `engines.Engine`."""
        texts = request.texts
        if texts is None:
            raise CannotRunError("it takes text, and this run measures random ids")
        return lambda: self._embed(texts, request.batch)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed; see `engines.Engine`."""
        return self._embed(texts, PADDED_BATCH)

    def _embed(self, texts: Sequence[str], batch: int) -> Vectors:
        return np.array(list(self._model.embed(list(texts), batch_size=batch)), np.float32)


def _load(setup: Setup) -> Engine:
    return FastEmbedEngine(setup)


FORMS = (
    Form(
        "fastembed",
        _load,
        ("fastembed", "torch", "transformers", "onnxscript"),
        ("fastembed",),
        "pip install fastembed torch transformers onnxscript",
        sorts=False,
        artefact=folder,
    ),
)
