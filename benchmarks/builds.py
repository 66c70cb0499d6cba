"""Compare the speed of two builds of the package, block by block in turns.

    pip install . --no-deps --target A          # before a change
    pip install . --no-deps --target B          # after it
    python benchmarks/builds.py A B MODEL ... --cases 1x16,1x256,32x256

Each build runs in its own process, with the same model, ids and number of threads. Prints the median and
quartiles of the rounds' ratios (above 1: B is faster), and whether both return the same bits. The figures of
docs/internals/experiments.md under "Tried and kept" come from this script.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_SECONDS = 0.12
"""Seconds of one build's turn."""


def main() -> None:
    """Compare two builds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("builds", type=Path, nargs=2, help="folders of pip install --target")
    parser.add_argument("models", type=Path, nargs="+", help="model folders")
    parser.add_argument("--cases", default="1x16,1x32,1x256,1x512,32x256", help="texts x tokens")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--precision", default="int8", choices=("int8", "float32"))
    parser.add_argument("--isa", default="", help="instruction set of both")
    given = parser.parse_args()
    for model in given.models:
        workers = [_start(build, model, given) for build in given.builds]
        for case in given.cases.split(","):
            print(f"{model.name:32} {case:>8}  {_compare(workers, case, given.rounds)}", flush=True)
        for worker in workers:
            worker.stdin.close()
            worker.wait()


def _start(build: Path, model: Path, given: argparse.Namespace) -> Any:
    command = [sys.executable, __file__, "--worker", str(build.resolve()), str(model)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(build.resolve()),
        "QUAVER_WORKER_THREADS": str(given.threads),
        "QUAVER_WORKER_PRECISION": given.precision,
        **({"QUAVER_ISA": given.isa} if given.isa else {}),
    }
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(worker: Any, **question: Any) -> Any:
    worker.stdin.write(json.dumps(question) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        sys.exit("a build's process ended; see its message above")
    return json.loads(line)


def _compare(workers: list[Any], case: str, rounds: int) -> str:
    texts, tokens = (int(part) for part in case.split("x"))
    first = [_ask(worker, texts=texts, tokens=tokens) for worker in workers]
    calls = max(1, int(BLOCK_SECONDS / max(answer["seconds"] for answer in first)))
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds[which].append(_ask(workers[which], calls=calls)["seconds"])
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    a, b = (1000 * statistics.median(found) for found in seconds)
    bits = "same bits" if first[0]["bits"] == first[1]["bits"] else "other bits"
    return f"{a:8.2f} ms {b:8.2f} ms  {middle:.3f} ({low:.3f} to {high:.3f})  {bits}"


def work(build: str, model: str) -> None:
    """Answer requests from stdin: encode a case once, or time calls of it."""
    import hashlib

    import quaver

    if not Path(quaver.__file__).is_relative_to(build):
        sys.exit(f"there is no build in {build}: pip install . --no-deps --target {build}")

    threads = int(os.environ["QUAVER_WORKER_THREADS"]) or None
    precision: Any = os.environ["QUAVER_WORKER_PRECISION"]
    embedder = quaver.Embedder.from_pretrained(model, precision=precision, threads=threads)
    batch: tuple[Any, Any] = (None, None)
    for line in sys.stdin:
        question = json.loads(line)
        if "texts" in question:
            texts, tokens = question["texts"], question["tokens"]
            ids = np.random.default_rng(0).integers(1000, 20000, texts * tokens, dtype=np.int32)
            batch = ids, np.arange(texts + 1, dtype=np.int32) * np.int32(tokens)
            vectors = embedder.encode_ids(*batch)
            calls, bits = 3, hashlib.sha256(vectors.tobytes()).hexdigest()
        else:
            calls, bits = question["calls"], ""
        found = []
        for _ in range(calls):
            start = time.perf_counter()
            embedder.encode_ids(*batch)
            found.append(time.perf_counter() - start)
        print(json.dumps({"seconds": statistics.median(found), "bits": bits}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
