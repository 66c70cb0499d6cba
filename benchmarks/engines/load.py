"""Names to engines; what is not installed is named with what to install."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from engines import Engine
from engines.pytorch import TorchEngine, load_bert
from engines.quaver import QuaverEngine
from inputs import TextSource, lognormal_lengths
from models import Model

CALIBRATION_SEED = 1000


def load_engines(
    model: Model, source: TextSource, names: Iterable[str], threads: int
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Load engines, and "torch-float32" in any case: it tells the quality of the others.

    Args:
        model: the model.
        source: gives texts for calibration.
        names: of OURS and PEERS.
        threads: of each engine.

    Returns:
        Name to engine, and name to the reason why there is none.
    """
    # One copy, and none when all graphs were converted before.
    bert = cache(lambda: load_bert(model))
    engines: dict[str, Engine] = {"torch-float32": TorchEngine(bert(), threads)}
    missing: dict[str, str] = {}

    def load(name: str) -> Engine:
        if name in ("quaver-int8", "quaver-float32"):
            return QuaverEngine(model, "int8" if name == "quaver-int8" else "float32", threads)
        if name == "onnxruntime-int8-dynamic":
            from engines.onnxruntime import OnnxRuntimeEngine, dynamic_graph

            return OnnxRuntimeEngine(dynamic_graph(model, bert), threads)
        from engines import openvino

        if name == "openvino-float32":
            graph = openvino.float32_graph(model, bert)
            return openvino.OpenVinoEngine(graph, threads, float32=True)
        lengths = lognormal_lengths(openvino.CALIBRATION_SAMPLES)
        graph = openvino.int8_graph(model, bert, source.cut(lengths, CALIBRATION_SEED))
        if name == "openvino-int8-tuned":
            return openvino.TunedOpenVinoEngine(graph, threads)
        return openvino.OpenVinoEngine(graph, threads, float32=False)

    for name in names:
        if name in engines:
            continue
        try:
            engines[name] = load(name)
        except ImportError as error:
            missing[name] = f"{error}: pip install -r benchmarks/environments/peers.txt"
    return engines, missing
