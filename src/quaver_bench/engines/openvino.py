"""OpenVINO: float32, bf16 and int8 by NNCF, for latency and tuned for throughput."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver_bench.engines import EVERY_KIND, CannotRunError, Form, Run, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.pytorch import example, module_of
from quaver_bench.inputs import PADDED_BATCH, PaddedBatch, Request, pad
from quaver_bench.kinds import EMBEDDER, Output
from quaver_bench.whole_files import written_whole

PACKAGES = ("openvino", "torch", "transformers")
RUNS_ON = ("openvino", "tokenizers")
INSTALL = "pip install openvino torch transformers"
INT8_PACKAGES = (*PACKAGES, "nncf")
INT8_INSTALL = f"{INSTALL} nncf"
TUNED_BATCHES = (1, 4, 8, 16, 32)
_SEARCHED = 64
"""Texts that the search for the best settings uses, at most twice as many."""


def float32_graph(setup: Setup) -> Path:
    """Return the model as an OpenVINO file, and convert it if needed."""
    import openvino as ov
    import torch

    path = setup.model.built(f"openvino-{metadata.version('openvino')}-float32", ".xml")
    if not path.is_file():
        names = setup.model.inputs
        inputs = dict(zip(names, example(names), strict=True))
        with torch.inference_mode():
            graph = ov.convert_model(module_of(setup), example_input=inputs)
        for tensor, name in zip(graph.inputs, names, strict=True):
            tensor.get_node().set_friendly_name(name)
            tensor.get_tensor().set_names({name})
        graph.reshape({name: [-1, -1] for name in names})
        _save(graph, path)
    return path


def int8_graph(setup: Setup) -> Path:
    """Return the model quantized by NNCF: static, with the transformer preset, which includes SmoothQuant."""
    import nncf
    import openvino as ov

    version = metadata.version("nncf")
    path = setup.model.built(f"nncf-{version}-int8-{setup.calibration_name}", ".xml")
    if not path.is_file():
        samples = [
            batch.arrays(setup.model.inputs)
            for text in setup.calibration
            for batch in pad([text], 1)
        ]
        graph = nncf.quantize(
            ov.Core().read_model(float32_graph(setup)),
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
        )
        _save(graph, path)
    return path


def _save(graph: Any, path: Path) -> None:
    import openvino as ov

    # The weights get their name first: the graph is what is looked for.
    with written_whole(path) as part, written_whole(path.with_suffix(".bin")):
        ov.save_model(graph, part, compress_to_fp16=False)


def _compile(graph: Path, options: dict[str, Any]) -> Any:
    import openvino as ov

    core = ov.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if options.get("INFERENCE_PRECISION_HINT") == "bf16" and "BF16" not in capabilities:
        raise CannotRunError(
            f"this CPU has no bf16 for OpenVINO, which offers {', '.join(capabilities)}"
        )
    return core.compile_model(graph, "CPU", options)


def _settings(compiled: Any) -> dict[str, Any]:
    return {
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        "streams": compiled.get_property("NUM_STREAMS"),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
    }


class OpenVinoEngine(PaddedEngine):
    """One stream with all threads and the latency hint; each calling thread has its own request."""

    def __init__(
        self, setup: Setup, graph: Callable[[Setup], Path], precision: str | None = None
    ) -> None:
        """Compile.

        Args:
            setup: see `Setup`.
            graph: `float32_graph` or `int8_graph`.
            precision: "f32" or "bf16"; None for OpenVINO's default.
        """
        super().__init__(setup)
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": setup.threads,
        }
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        self._compiled = _compile(graph(setup), options)
        self._local = threading.local()
        self.settings = _settings(self._compiled)

    def compute(self, inputs: PaddedBatch) -> Vectors:
        """Infer, and copy the output, which the next call overwrites."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        arrays = inputs.arrays(self._inputs)
        result = request.infer(arrays, share_inputs=True, share_outputs=True)
        vectors: Vectors = result[0].copy()
        return vectors


class TunedOpenVinoEngine(PaddedEngine):
    """Tuned for many texts: throughput hint, and the best streams and batch size for each case."""

    def __init__(self, setup: Setup, graph: Callable[[Setup], Path]) -> None:
        """Compile once for each number of streams.

        Args:
            setup: see `Setup`.
            graph: `float32_graph` or `int8_graph`.
        """
        import openvino as ov

        super().__init__(setup)
        path = graph(setup)
        bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._queues: dict[int, Any] = {}
        for streams in sorted({1, max(1, setup.threads // 2), setup.threads}):
            options = {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_NUM_THREADS": setup.threads,
                "NUM_STREAMS": streams,
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            }
            compiled = _compile(path, options)
            self._size = compiled.output(0).partial_shape[1].get_length()
            self._queues[streams] = ov.AsyncInferQueue(compiled, streams)
            self.settings = {**_settings(compiled), "searched": "streams and batch"}
        self._best = (setup.threads, PADDED_BATCH)
        self._found: dict[tuple[int, ...], tuple[int, int]] = {}

    def prepare(self, request: Request) -> Run:
        """Find the best streams and batch size for this case, then make its arrays.

        The search uses a sample of the texts, evenly spread over the lengths. Samples of the same lengths
        are searched once, as with 64, 128 and 256 texts of 256 tokens.
        """
        ids = sorted(request.ids, key=len)[:: max(1, len(request.ids) // _SEARCHED)]
        lengths = tuple(map(len, ids))
        if lengths not in self._found:
            self._found[lengths] = self._searched(Request(tuple(ids), None, request.batch))
        self._best = self._found[lengths]
        self.settings = {**self.settings, "streams": self._best[0], "batch": self._best[1]}
        return self._run(request, *self._best)

    def _searched(self, sample: Request) -> tuple[int, int]:
        sizes = [size for size in TUNED_BATCHES if size <= max(1, len(sample.ids))]
        seconds = {}
        for streams in self._queues:
            for size in sizes:
                run = self._run(sample, streams, size)
                start = time.perf_counter()
                run()
                seconds[streams, size] = time.perf_counter() - start
        for key in sorted(seconds, key=seconds.__getitem__)[:3]:  # the first run was cold
            run = self._run(sample, *key)
            start = time.perf_counter()
            run()
            seconds[key] = time.perf_counter() - start
        return min(sorted(seconds, key=seconds.__getitem__)[:3], key=seconds.__getitem__)

    def encode(self, texts: Any) -> Output:
        """Tokenize, sort, pad and compute with the last best settings."""
        request = Request(self.tokenize(texts), None, PADDED_BATCH)
        return self._run(request, *self._best)()

    def _run(self, request: Request, streams: int, size: int) -> Run:
        batches, queue = pad(request.ids, size), self._queues[streams]

        def run() -> Vectors:
            vectors = np.empty((len(request.ids), self._size), np.float32)

            def keep(done: Any, rows: NDArray[np.intp]) -> None:
                vectors[rows] = done.get_output_tensor().data

            queue.set_callback(keep)
            for batch in batches:
                arrays = {"input_ids": batch.ids, "attention_mask": batch.mask}
                queue.start_async(arrays, batch.rows, share_inputs=True)
            queue.wait_all()
            return vectors

        return run


_FLOAT32 = Form(
    "openvino-float32",
    partial(OpenVinoEngine, graph=float32_graph, precision="f32"),
    PACKAGES,
    RUNS_ON,
    INSTALL,
    artifact=float32_graph,
    kinds=EVERY_KIND,
)
_INT8 = Form(
    "openvino-int8",
    partial(OpenVinoEngine, graph=int8_graph),
    INT8_PACKAGES,
    RUNS_ON,
    INT8_INSTALL,
    artifact=int8_graph,
    kinds=EVERY_KIND,
)
FORMS = (
    _FLOAT32,
    replace(
        _FLOAT32,
        name="openvino-float32-tuned",
        load=partial(TunedOpenVinoEngine, graph=float32_graph),
        batches=True,
        kinds=(EMBEDDER.name,),
    ),
    replace(
        _FLOAT32,
        name="openvino-bf16",
        load=partial(OpenVinoEngine, graph=float32_graph, precision="bf16"),
    ),
    _INT8,
    replace(
        _INT8,
        name="openvino-int8-tuned",
        load=partial(TunedOpenVinoEngine, graph=int8_graph),
        batches=True,
        kinds=(EMBEDDER.name,),
    ),
)
