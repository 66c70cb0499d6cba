"""ONNX Runtime: int8 with activations quantized while it runs, one scale for each tensor."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from engines import Run
from engines.pytorch import PooledBert
from inputs import Case, PaddedBatch, pad
from models import BUILT, Model


def dynamic_graph(model: Model, bert: Callable[[], Any]) -> Path:
    """Return the model with int8 weights as an ONNX file, exported when it is not there yet.

    Args:
        model: the model.
        bert: loads its torch form.

    Returns:
        The .onnx file.
    """
    version = metadata.version("onnxruntime")
    path = BUILT / f"{model.name}-onnxruntime-{version}-int8-dynamic.onnx"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = BUILT / f"{model.name}-float32.onnx"
    mask = torch.ones((2, 8), dtype=torch.int64)
    mask[1, 5:] = 0
    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length", max=512)}
    torch.onnx.export(
        PooledBert(bert()).eval(),
        (torch.ones((2, 8), dtype=torch.int64), mask),
        plain,
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_shapes=(axes, axes),
        dynamo=True,
        verbose=False,
    )
    part = path.with_name(f"part-{path.name}")
    quantize_dynamic(plain, part, weight_type=QuantType.QInt8, per_channel=True)
    part.rename(path)
    return path


class OnnxRuntimeEngine:
    """Sequential execution over all threads; batches of 32."""

    def __init__(self, graph: Path, threads: int) -> None:
        """Load.

        Args:
            graph: from `dynamic_graph`.
            threads: of the engine.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.settings: dict[str, Any] = {"threads": threads, "batch": 32}

    def prepare(self, case: Case) -> list[Run]:
        """Make padded arrays; see `engines.Engine`."""
        return [self._run(pad(texts, 32), len(texts)) for texts in case.requests]

    def _run(self, batches: list[PaddedBatch], texts: int) -> Run:
        def run() -> NDArray[np.float32]:
            parts = []
            for batch in batches:
                inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
                parts.append(self._session.run(None, inputs)[0])
            vectors = np.empty((texts, parts[0].shape[1]), np.float32)
            for batch, part in zip(batches, parts, strict=True):
                vectors[batch.rows] = part
            return vectors

        return run
