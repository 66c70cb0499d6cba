"""Time Quaver against other engines: same model, same texts, same threads, in turns in one process.

    python benchmarks/cases.py --model MINILM_FOLDER --out benchmarks/results/NAME.json

Needs the packages of benchmarks/environments/peers.txt. Models with random weights and converted
graphs are written to build/bench-models once. `benchmarks/report.py` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import OURS, PEERS, Engine, Run
from inputs import CASES, Case, TextSource, get_case, pad, padding_share
from measure import Timing, alternate
from models import NAMES, Model, get_model
from record import describe_run


def main() -> None:
    """Measure what the command line asks for; the file is written anew after each case."""
    options = _options()
    # Before any engine is imported: they read these once.
    if options.onednn_isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.onednn_isa
    if options.quaver_isa:
        os.environ["QUAVER_ISA"] = options.quaver_isa
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    missing: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    run = describe_run(options.threads)
    for name in options.models:
        model = get_model(name, options.model)
        say(f"{name}: {model.describe}")
        for measured in measure_model(model, options, missing):
            rows += measured
            if options.out:
                result = {"kind": "cases", "run": run, "missing": missing, "rows": rows}
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, why in missing.items():
        say(f"{name} was not measured: {why}")
    say(f"wrote {options.out}" if options.out else "nothing written: no --out")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    several: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    cpus = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--models", choices=NAMES, default=NAMES, help=", ".join(NAMES), **several)
    add("--cases", choices=CASES, default=CASES, help=", ".join(CASES), **several)
    add("--peers", choices=PEERS, default=PEERS, help=", ".join(PEERS), **several)
    add("--ours", choices=OURS, default=OURS, help=", ".join(OURS), **several)
    add("--threads", type=int, default=cpus, help="in every engine")
    add("--seconds", type=float, default=40, help="for each case, loading not counted")
    add("--least-rounds", type=int, default=5, help="run in any case; at least 2")
    add("--onednn-isa", help="hold OpenVINO and torch: AVX2, AVX2_VNNI, AVX512_CORE_VNNI, ...")
    add("--quaver-isa", help="hold Quaver: avx2, avxvnni, avx512vnni")
    add("--out", type=Path, help="results, JSON")
    options = parser.parse_args()
    if options.least_rounds < 2 or options.threads < 1:
        parser.error("--least-rounds must be at least 2, --threads at least 1")
    return options


def measure_model(
    model: Model, options: argparse.Namespace, missing: dict[str, str]
) -> Iterator[list[dict[str, Any]]]:
    """Measure a model.

    Args:
        model: the model.
        options: the command line.
        missing: engine to why it is not measured; filled.

    Yields:
        The rows of each case.
    """
    from engines.load import load_engines

    source = TextSource(model.folder)
    names = [*options.ours, *options.peers]
    engines, without = load_engines(model, source, names, options.threads)
    missing.update(without)
    timed = [name for name in names if name in engines]
    for name in options.cases:
        yield measure_case(model, get_case(name, source), engines, timed, options)


def measure_case(
    model: Model,
    case: Case,
    engines: dict[str, Engine],
    timed: list[str],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Measure a case with all engines in turns.

    Args:
        model: the model.
        case: the case.
        engines: name to engine, "torch-float32" among them.
        timed: names of the engines to time.
        options: the command line.

    Returns:
        A row for each pair of ours and a peer of the same precision.
    """
    timed = [name for name in timed if case.batch or name != "openvino-int8-tuned"]
    runs = {name: engines[name].prepare(case) for name in timed}
    truth = _vectors(engines["torch-float32"].prepare(case))
    quality = {name: mean_cosine(_vectors(calls), truth) for name, calls in runs.items()}
    timing = alternate(runs, seconds=options.seconds, least=options.least_rounds)
    described = {
        "model": model.name,
        "describe": model.describe,
        "weights": model.weights,
        "case": case.name,
        "title": case.title,
        "tokens": case.tokens,
        "peer_padding": round(padding_share(pad(case.requests[0], 32)), 4),
        "rounds": len(timing.seconds[timed[0]]),
        "dropped_rounds": timing.dropped,
        "disturbed": timing.disturbed,
    }
    rows = []
    for ours in (name for name in timed if name in OURS):
        for peer in (name for name in timed if name in PEERS):
            if ours == "quaver-int8" or peer.endswith("float32"):
                compared = _compare(ours, peer, timing, quality)
                settings = {"ours": engines[ours].settings, "peer": engines[peer].settings}
                rows.append({**described, **compared, "settings": settings})
                say(_line(rows[-1]))
    return rows


def _vectors(calls: list[Run]) -> NDArray[np.float32]:
    return np.concatenate([call() for call in calls])


def mean_cosine(vectors: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the mean cosine between unit rows (N, H) and those they should be."""
    return float((vectors * truth).sum(1, dtype=np.float64).mean())


def _compare(ours: str, peer: str, timing: Timing, quality: dict[str, float]) -> dict[str, Any]:
    ratio, low, high = timing.ratio(ours, peer)
    return {
        "ours": ours,
        "peer": peer,
        "ours_ms": round(1000 * timing.median(ours), 4),
        "peer_ms": round(1000 * timing.median(peer), 4),
        "ratio": round(ratio, 4),
        "ratio_quartiles": [round(low, 4), round(high, 4)],
        "ours_cosine": round(quality[ours], 6),
        "peer_cosine": round(quality[peer], 6),
    }


def _line(row: dict[str, Any]) -> str:
    low, high = row["ratio_quartiles"]
    return (
        f"  {row['title']:<10} {row['ours']} {row['ours_ms']:.2f} ms, {row['peer']} "
        f"{row['peer_ms']:.2f} ms: {row['ratio']:.2f} times as fast ({low:.2f} to {high:.2f}), "
        f"cosine {row['ours_cosine']:.5f} and {row['peer_cosine']:.5f}, {row['rounds']} rounds"
        + (", disturbed" if row["disturbed"] else "")
    )


def say(text: str) -> None:
    """Say how far it is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
