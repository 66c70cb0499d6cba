"""OpenVINO: float32, int8 by NNCF for latency, int8 tuned for throughput."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from engines import Run
from engines.pytorch import PooledBert
from inputs import Case, Ids, PaddedBatch, pad
from models import BUILT, Model

CALIBRATION_SAMPLES = 32
TUNED_BATCHES = (4, 8, 16, 32)
STREAMS = 2
_INPUTS = ("input_ids", "attention_mask")


def float32_graph(model: Model, bert: Callable[[], Any]) -> Path:
    """Return the model as an OpenVINO file, converted when it is not there yet.

    Args:
        model: the model.
        bert: loads its torch form.

    Returns:
        The .xml file.
    """
    path = BUILT / f"{model.name}-openvino-{metadata.version('openvino')}-float32.xml"
    if not path.is_file():
        ids = torch.ones((2, 8), dtype=torch.int64)
        mask = ids.clone()
        mask[1, 5:] = 0
        example = {"input_ids": ids, "attention_mask": mask}
        with torch.inference_mode():
            graph = ov.convert_model(PooledBert(bert()).eval(), example_input=example)
        for tensor, name in zip(graph.inputs, _INPUTS, strict=True):
            tensor.get_node().set_friendly_name(name)
            tensor.get_tensor().set_names({name})
        graph.reshape({name: [-1, -1] for name in _INPUTS})
        _save(graph, path)
    return path


def int8_graph(model: Model, bert: Callable[[], Any], calibration: tuple[Ids, ...]) -> Path:
    """Return the model quantized by NNCF: static, transformer preset, which is with SmoothQuant.

    Args:
        model: the model.
        bert: loads its torch form.
        calibration: texts that are not measured.

    Returns:
        The .xml file.
    """
    path = BUILT / f"{model.name}-nncf-{metadata.version('nncf')}-int8.xml"
    if not path.is_file():
        samples = [
            {"input_ids": text[None], "attention_mask": np.ones((1, len(text)), np.int64)}
            for text in calibration
        ]
        graph = nncf.quantize(
            ov.Core().read_model(float32_graph(model, bert)),
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
        )
        _save(graph, path)
    return path


def _save(graph: ov.Model, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    ov.save_model(graph, part, compress_to_fp16=False)
    part.with_suffix(".bin").rename(path.with_suffix(".bin"))
    part.rename(path)


def _settings(compiled: ov.CompiledModel) -> dict[str, Any]:
    return {
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        "streams": compiled.get_property("NUM_STREAMS"),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
    }


class OpenVinoEngine:
    """One stream over all threads, latency hint; batches of 32."""

    def __init__(self, graph: Path, threads: int, *, float32: bool) -> None:
        """Compile.

        Args:
            graph: from `float32_graph` or `int8_graph`.
            threads: of the engine.
            float32: hold it to float32; otherwise OpenVINO chooses, as it does for its users.
        """
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if float32:
            options["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = ov.Core().compile_model(graph, "CPU", options)
        self._size = compiled.output(0).partial_shape[1].get_length()
        self._request = compiled.create_infer_request()
        self.settings = {**_settings(compiled), "batch": 32}

    def prepare(self, case: Case) -> list[Run]:
        """Make padded arrays; see `engines.Engine`."""
        return [self._run(pad(texts, 32), len(texts)) for texts in case.requests]

    def _run(self, batches: list[PaddedBatch], texts: int) -> Run:
        def run() -> NDArray[np.float32]:
            vectors = np.empty((texts, self._size), np.float32)
            for batch in batches:
                inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
                result = self._request.infer(inputs, share_inputs=True, share_outputs=True)
                vectors[batch.rows] = result[0]
            return vectors

        return run


class TunedOpenVinoEngine:
    """At its best for many texts: two streams, bf16 where the CPU has it, its best batch size."""

    def __init__(self, graph: Path, threads: int) -> None:
        """Compile.

        Args:
            graph: from `int8_graph`.
            threads: of the engine, over all streams.
        """
        core = ov.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": min(STREAMS, threads),
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            },
        )
        self._size = compiled.output(0).partial_shape[1].get_length()
        self._queue = ov.AsyncInferQueue(compiled, min(STREAMS, threads))
        self.settings = _settings(compiled)

    def prepare(self, case: Case) -> list[Run]:
        """Find the best batch size for this case, then make its arrays; see `engines.Engine`."""
        seconds = {}
        for size in TUNED_BATCHES:
            run = self._run(pad(case.requests[0], size), len(case.requests[0]))
            run()
            times = []
            for _ in range(2):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            seconds[size] = min(times)
        best = min(seconds, key=seconds.__getitem__)
        self.settings = {
            **self.settings,
            "batch": best,
            "seconds_by_batch": {str(size): round(s, 4) for size, s in seconds.items()},
        }
        return [self._run(pad(texts, best), len(texts)) for texts in case.requests]

    def _run(self, batches: list[PaddedBatch], texts: int) -> Run:
        def run() -> NDArray[np.float32]:
            vectors = np.empty((texts, self._size), np.float32)

            def keep(request: ov.InferRequest, rows: NDArray[np.intp]) -> None:
                vectors[rows] = request.get_output_tensor().data

            self._queue.set_callback(keep)
            for batch in batches:
                inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
                self._queue.start_async(inputs, batch.rows, share_inputs=True)
            self._queue.wait_all()
            return vectors

        return run
