"""Speed of every model family: Quaver int8, OpenVINO int8 and torch float32, in turns.

Needs torch, transformers, openvino and nncf (.envs/peers has them):

    python benchmarks/family_speed.py --prepare        make the peers' int8 files in build/families
    python benchmarks/family_speed.py --out FILE.json  measure, every family at a published model's shape
    python benchmarks/family_speed.py --only Bert,Gte --texts 1 --tokens 512

Weights and ids are random, and all texts have the same number of tokens, so no engine pads. The engines take
turns in one process; times are medians of undisturbed rounds. Each int8 has its time and the cosine of the first
token's state to torch's, which would show a wrong graph. If OpenVINO cannot convert or quantize a family, its cell
is "-" and the reason is below. With --out, families that the file has are not measured again, so an
interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from families import CASES, Case, cosines, make, tensors_of
from published_forms import GteV15
from quaver.engine.engine import Engine
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.tokenizer import TokenBatch
from quaver_bench.record import describe_run
from quaver_bench.timing import take_turns

CACHE = Path("build/families")
CALIBRATION = 2  # texts: for the time of a forward pass, not for its quality
LEAST_COSINE = 0.8  # below it, a graph computes another model
Call = Callable[[], Any]
# Raised by converters for an unknown model.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)


class FirstToken(torch.nn.Module):
    """Returns the last state of the first token."""

    def __init__(self, model: Any) -> None:
        """Wrap a model of transformers."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return float32 (N, H)."""
        state: torch.Tensor = self.model(input_ids=input_ids).last_hidden_state
        return state[:, 0]


def openvino_file(case: Case, model: Any, ids: torch.Tensor) -> Path:
    """Return the model in OpenVINO's int8; quantize it if needed."""
    path = CACHE / f"{case.name}.xml"
    if not path.is_file():
        import nncf
        import openvino as ov

        with torch.inference_mode():
            graph = ov.convert_model(FirstToken(model), example_input=ids[:2])
        graph.reshape({0: [-1, -1]})
        samples = [{0: text[None].numpy()} for text in ids[:CALIBRATION]]
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
            # This would change only constants, and takes longer than everything else.
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
        CACHE.mkdir(parents=True, exist_ok=True)
        ov.save_model(quantized, path, compress_to_fp16=False)
    return path


def openvino_call(path: Path, ids: torch.Tensor, threads: int) -> Call:
    """Compile a file for throughput of one call at a time."""
    import openvino as ov

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(path, "CPU", options)
    array = ids.numpy()
    return lambda: compiled(array)[0]


PEERS: dict[str, tuple[Callable[..., Path], Callable[..., Call]]] = {
    "openvino": (openvino_file, openvino_call),
}


def peer_call(
    case: Case, model: Any, every: torch.Tensor, ids: torch.Tensor, threads: int
) -> tuple[str, Call | None, dict[str, str]]:
    """Return the first int8 peer that runs the family, and why earlier ones do not."""
    reasons = {}
    with torch.inference_mode():
        truth = FirstToken(model)(ids).numpy()
    for name, (made, opened) in PEERS.items():
        try:
            call = opened(made(case, model, every), ids, threads)
            cosine = float(cosines(call(), truth).mean())
        except FAULTS as error:
            reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            continue
        if cosine >= LEAST_COSINE:
            return name, call, reasons
        reasons[name] = f"its int8 has a cosine of {cosine:.3f} to float32"
    return "", None, reasons


def timed(call: Call) -> float:
    """Return the seconds of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measured(case: Case, chosen: argparse.Namespace) -> dict[str, Any] | None:
    """Measure one family; return None if only its files were prepared."""
    model = make(case, head=False, real=True)
    if isinstance(model, GteV15):
        model.for_export(chosen.tokens)
    size = (max(chosen.texts, CALIBRATION), chosen.tokens)
    every = torch.randint(5, 1000, size, generator=torch.Generator().manual_seed(0))
    ids = every[: chosen.texts]
    peer, call, reasons = peer_call(case, model, every, ids, chosen.threads)
    if chosen.prepare:
        print(case.name, peer or "no peer", reasons, flush=True)
        return None
    with tempfile.TemporaryDirectory() as folder:
        config, tensors = tensors_of(model, Path(folder))
        spec = encoder_spec(config, pooling="cls", normalize=False)
        engine = Engine(spec, encoder_weights(spec, tensors), threads=chosen.threads)
        del tensors
    flat = ids.numpy().astype(np.int32).reshape(-1)
    offsets = np.arange(0, len(flat) + 1, chosen.tokens, dtype=np.int32)
    batch = TokenBatch(flat, offsets, None, 0)
    first = FirstToken(model)
    calls: dict[str, Call] = {} if call is None else {peer: call}
    calls |= {"quaver": lambda: engine.encode(batch), "torch": lambda: first(ids).numpy()}
    with torch.inference_mode():
        truth = calls["torch"]()
        near = {n: float(cosines(c(), truth).mean()) for n, c in calls.items() if n != "torch"}
        blocks = {name: partial(timed, call) for name, call in calls.items()}
        turns = take_turns(blocks, seconds=chosen.seconds)
    times = {name: [given[name] for given in turns.rounds] for name in calls}
    return {
        "family": case.name,
        "shape": case.real[0],
        "texts": chosen.texts,
        "tokens": chosen.tokens,
        "peer": peer,
        "tokens_per_second": round(len(flat) / statistics.median(times["quaver"])),
        "median_ms": {n: round(statistics.median(t) * 1e3, 2) for n, t in times.items()},
        "cosine": {name: round(value, 4) for name, value in near.items()},
        "rounds": len(turns.rounds),
        "dropped": turns.dropped,
        "disturbed": turns.disturbed,
        "reasons": reasons,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table, followed by the reasons for missing peers."""
    lines = [
        "| family | shape of | Quaver int8, tokens/s | times as fast as its int8 peer | as torch float32 "
        "| cosine | peer's |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for row in rows:
        ms, ours, peer = row["median_ms"], row["median_ms"]["quaver"], row["peer"]
        beside = f"{ms[peer] / ours:.2f} ({peer})" if peer else "-"
        other = f"{row['cosine'][peer]:.4f}" if peer else "-"
        name = f"{row['family']}{' (disturbed)' if row['disturbed'] else ''}"
        lines.append(
            f"| {name} | {row['shape']} | {row['tokens_per_second']:,} | {beside} | "
            f"{ms['torch'] / ours:.2f} | {row['cosine']['quaver']:.4f} | {other} |"
        )
        notes += [f"{row['family']}, {name}: {why}" for name, why in row["reasons"].items()]
    return "\n".join([*lines, "", *notes])


def main() -> None:
    """Measure every family and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="families, with commas")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each family")
    parser.add_argument("--prepare", action="store_true", help="make the peers' files alone")
    parser.add_argument("--out", type=Path, help="JSON of the rows; families that it has are kept")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows: list[dict[str, Any]] = []
    if chosen.out and chosen.out.is_file():
        rows = json.loads(chosen.out.read_text(encoding="utf-8"))["rows"]
    have = {row["family"] for row in rows}
    wanted = chosen.only.split(",") if chosen.only else [case.name for case in CASES]
    for case in CASES:
        if case.name not in wanted or case.name in have:
            continue
        row = measured(case, chosen)
        if row is None:
            continue
        rows.append(row)
        if chosen.out:
            run = describe_run(chosen.threads, sys.argv)
            result = {"kind": "families", "run": run, "rows": rows}
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if rows:
        print(table(rows))
        print(f"\n{chosen.texts} x {chosen.tokens} tokens, {chosen.threads} threads")


if __name__ == "__main__":
    main()
