"""ONNX Runtime: float32 with fused attention, int8 dynamic, int8 static."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver_bench.engines import (
    EVERY_KIND,
    UNSIGNED,
    CannotRunError,
    Engine,
    Form,
    Setup,
    Vectors,
    products_saturate,
)
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.pytorch import export_onnx, module_of
from quaver_bench.inputs import Ids, PaddedBatch
from quaver_bench.whole_files import written_whole

PACKAGES = ("onnxruntime", "onnx", "onnxscript", "torch", "transformers")
RUNS_ON = ("onnxruntime", "tokenizers")
INSTALL = "pip install onnxruntime onnx onnxscript torch transformers"


def plain_graph(setup: Setup) -> Path:
    """Return the model as an ONNX file, and export it if needed."""
    path = setup.model.built(f"onnx-torch-{metadata.version('torch')}-float32", ".onnx")
    if not path.is_file():
        with written_whole(path) as part:
            export_onnx(
                module_of(setup),
                part,
                output="vectors",
                max_length=setup.max_length,
                inputs=setup.model.inputs,
            )
    return path


def fused_graph(setup: Setup) -> tuple[Path, dict[str, int]]:
    """Return the graph with attention, norms and GELU fused by onnxruntime.transformers.

    Returns:
        the .onnx file, and how many of each fused operator it has.
    """
    path = _built(setup, "fused")
    counts = path.with_suffix(".json")
    if not path.is_file():
        _fuse(setup, path, counts)
    fused: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    return path, fused


def _fuse(setup: Setup, path: Path, counts: Path) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    config = setup.model.folder.config
    optimized = optimize_model(
        str(_traced_graph(setup)),
        model_type="bert",
        num_heads=int(config["num_attention_heads"]),
        hidden_size=int(config["hidden_size"]),
        optimization_options=FusionOptions("bert"),
        opt_level=0,
    )
    nodes = [node.op_type for node in optimized.model.graph.node]
    names = ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "Gelu", "BiasGelu")
    found = {name: nodes.count(name) for name in names if name in nodes}
    counts.write_text(json.dumps(found), encoding="utf-8")
    with written_whole(path) as part:
        optimized.save_model_to_file(str(part))


def _traced_graph(setup: Setup) -> Path:
    """Export by tracing, with the mask as int64 (B, L) and attention written out.

    ONNX Runtime's fusion recognizes attention in this export. In that of the newer exporter it fuses only
    norms and GELU.
    """
    import torch

    from quaver_bench.engines.pytorch import load_encoder, pool

    path = setup.model.built(f"onnx-traced-torch-{metadata.version('torch')}", ".onnx")
    if path.is_file():
        return path
    encoder = load_encoder(str(setup.model.folder.transformer), "eager")

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder  # an attribute, so its weights become initializers

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            hidden = self.encoder.embeddings(input_ids=input_ids)
            added = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * -10000.0
            for layer in self.encoder.encoder.layer:
                hidden = _written_out(layer, hidden, added)
            return pool(hidden, attention_mask.to(hidden.dtype), setup.model.pooling)

    ones = torch.ones((2, 8), dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    with written_whole(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Traced().eval(),
            (ones, ones),
            str(part),
            input_names=names,
            output_names=["vectors"],
            dynamic_axes={name: {0: "texts", 1: "length"} for name in names},
            opset_version=17,
            dynamo=False,
        )
    return path


def _written_out(layer: Any, hidden: Any, added: Any) -> Any:
    """Compute a BERT layer in the form that the fusion recognizes."""
    inner = layer.attention.self
    heads, size = inner.num_attention_heads, inner.attention_head_size

    def split(tensor: Any) -> Any:
        shape = (tensor.shape[0], tensor.shape[1], heads, size)
        return tensor.view(shape).permute(0, 2, 1, 3)

    query, key, value = (split(part(hidden)) for part in (inner.query, inner.key, inner.value))
    scores = query.matmul(key.transpose(-1, -2)) / (size**0.5) + added
    context = scores.softmax(-1).matmul(value).permute(0, 2, 1, 3).contiguous()
    context = context.view(hidden.shape[0], hidden.shape[1], heads * size)
    attended = layer.attention.output(context, hidden)
    return layer.output(layer.intermediate(attended), attended)


def weight_type() -> str:
    """Return the name of the `QuantType` of weights whose products do not saturate on this CPU."""
    return "QUInt8" if products_saturate() else "QInt8"


def dynamic_graph(setup: Setup) -> Path:
    """Return the model with int8 weights; activations are quantized at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = _built(setup, f"int8-dynamic-{weight_type()}")
    if not path.is_file():
        plain = plain_graph(setup)
        with written_whole(path) as part:
            quantize_dynamic(plain, part, weight_type=QuantType[weight_type()], per_channel=True)
    return path


def static_graph(setup: Setup) -> Path:
    """Return the model with int8 weights and activations, with min-max calibrated scales."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = _built(setup, f"int8-static-{setup.calibration_name}-{weight_type()}")
    if path.is_file():
        return path

    class Reader(CalibrationDataReader):
        def __init__(self, texts: Iterator[Ids]) -> None:
            self._texts = texts

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            text = next(self._texts, None)
            if text is None:
                return None
            return {"input_ids": text[None], "attention_mask": np.ones((1, len(text)), np.int64)}

    prepared = setup.model.built("onnx-prepared", ".onnx")
    quant_pre_process(plain_graph(setup), prepared, skip_symbolic_shape=True)
    with written_whole(path) as part:
        quantize_static(
            prepared,
            part,
            Reader(iter(setup.calibration)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType[weight_type()],
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
    prepared.unlink()
    return path


def _built(setup: Setup, form: str) -> Path:
    version = metadata.version("onnxruntime")
    return setup.model.built(f"onnxruntime-{version}-{form}", ".onnx")


def open_session(path: Path, threads: int) -> Any:
    """Return a session of a .onnx file: sequential execution over all threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeEngine(PaddedEngine):
    """Sequential execution over all threads."""

    def __init__(
        self,
        setup: Setup,
        graph: Callable[[Setup], Path],
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Load.

        Args:
            setup: see `Setup`.
            graph: makes the .onnx file.
            settings: more settings for the record.
        """
        super().__init__(setup)
        self._session = open_session(graph(setup), setup.threads)
        self.settings = {"threads": setup.threads, **(settings or {})}
        if graph in (dynamic_graph, static_graph) and products_saturate():
            self.settings["weights"] = UNSIGNED

    def compute(self, inputs: PaddedBatch) -> Vectors:
        """Run the session."""
        vectors: Vectors = self._session.run(None, inputs.arrays(self._inputs))[0]
        return vectors


def _fused(setup: Setup) -> Engine:
    kind = setup.model.folder.config.get("model_type")
    if kind != "bert":
        raise CannotRunError(f"attention is fused for BERT only: this model is {kind}")
    graph, fused = fused_graph(setup)
    return OnnxRuntimeEngine(setup, lambda setup: graph, {"fused": fused})


_DYNAMIC = Form(
    "onnxruntime-int8-dynamic",
    partial(OnnxRuntimeEngine, graph=dynamic_graph),
    PACKAGES,
    RUNS_ON,
    INSTALL,
    artifact=dynamic_graph,
)
FORMS = (
    replace(
        _DYNAMIC, name="onnxruntime-float32", load=_fused, artifact=lambda s: fused_graph(s)[0]
    ),
    replace(_DYNAMIC, kinds=EVERY_KIND),
    replace(
        _DYNAMIC,
        name="onnxruntime-int8-static",
        load=partial(OnnxRuntimeEngine, graph=static_graph),
        artifact=static_graph,
    ),
)
