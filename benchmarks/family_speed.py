"""Speed of every model family: Quaver int8 beside OpenVINO int8 and torch float32, in turns.

Needs torch and transformers, and for its column openvino and nncf (.envs/peers has all):

    python benchmarks/family_speed.py                  every family at the shape of a published model
    python benchmarks/family_speed.py --only Bert --texts 1 --tokens 512

Random weights and ids, as many tokens in every text, so nobody pads; one process, the engines in turns,
medians. A family that OpenVINO cannot convert or quantize has "-" there, with the reason below.
--prepare makes OpenVINO's files in build/families and measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from families import CASES, Case, make, tensors_of
from quaver.architecture import encoder_spec, encoder_weights
from quaver.engine import Engine
from quaver.tokenizer import TokenBatch

CACHE = Path("build/families")
CALIBRATION = 8  # texts: for the time of a forward pass, not for its quality
Call = Callable[[], object]


class FirstToken(torch.nn.Module):
    """A model that gives the last state of the first token."""

    def __init__(self, model: Any) -> None:
        """Wrap a model of transformers."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return float32 (N, H)."""
        state: torch.Tensor = self.model(input_ids=input_ids).last_hidden_state
        return state[:, 0]


def openvino_file(case: Case, model: Any, ids: torch.Tensor) -> Path:
    """Return the model in OpenVINO's int8, made when it is not there yet."""
    path = CACHE / f"{case.name}.xml"
    if not path.is_file():
        import nncf
        import openvino as ov

        with torch.inference_mode():
            graph = ov.convert_model(FirstToken(model), example_input=ids[:2, :16])
        graph.reshape({0: [-1, -1]})
        samples = [{0: text[None].numpy()} for text in ids[:CALIBRATION]]
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
        )
        CACHE.mkdir(parents=True, exist_ok=True)
        ov.save_model(quantized, path)
    return path


def openvino_call(path: Path, ids: torch.Tensor, threads: int) -> Call:
    """Compile a file for throughput of one call at a time."""
    import openvino as ov

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(path, "CPU", options)
    array = ids.numpy()
    return lambda: compiled(array)


def in_turns(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Time the calls round by round; return each one's median in seconds."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    while len(taken["quaver"]) < 3 or time.perf_counter() - start < seconds:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Measure every family and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one family")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each family")
    parser.add_argument("--prepare", action="store_true", help="make OpenVINO's files alone")
    parser.add_argument("--without-openvino", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print("| family | shape of | Quaver int8, tokens/s | OpenVINO int8 | torch float32 |")
    print("| --- | --- | ---: | ---: | ---: |")
    reasons = []
    for case in CASES:
        if chosen.only not in (None, case.name):
            continue
        model = make(case, head=False, real=True)
        size = (max(chosen.texts, CALIBRATION), chosen.tokens)
        every = torch.randint(5, 1000, size, generator=torch.Generator().manual_seed(0))
        ids = every[: chosen.texts]
        calls: dict[str, Call] = {}
        if not chosen.without_openvino:
            try:
                path = openvino_file(case, model, every)
                calls["openvino"] = openvino_call(path, ids, chosen.threads)
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                reasons.append(f"{case.name}: {type(error).__name__}: {str(error).splitlines()[0]}")
        if chosen.prepare:
            continue
        with tempfile.TemporaryDirectory() as folder:
            config, tensors = tensors_of(model, Path(folder))
            spec = encoder_spec(config, pooling="cls+mean", normalize=False)
            engine = Engine(spec, encoder_weights(spec, tensors), threads=chosen.threads)
            flat = ids.numpy().astype(np.int32).reshape(-1)
            offsets = np.arange(0, len(flat) + 1, chosen.tokens, dtype=np.int32)
            batch = TokenBatch(flat, offsets, None, 0)
            calls["quaver"] = lambda engine=engine, batch=batch: engine.encode(batch)
            calls["torch"] = lambda model=model, ids=ids: model(input_ids=ids)
            with torch.inference_mode():
                medians = in_turns(calls, chosen.seconds)
        ours = medians["quaver"]
        times = [
            f"{medians[name] / ours:.1f} x" if name in medians else "-"
            for name in ("openvino", "torch")
        ]
        rate = f"{len(flat) / ours:,.0f}"
        print(f"| {case.name} | {case.real[0]} | {rate} | {' | '.join(times)} |", flush=True)
    print(f"\n{chosen.texts} x {chosen.tokens} tokens, {chosen.threads} threads")
    print("\n".join(reasons))


if __name__ == "__main__":
    main()
