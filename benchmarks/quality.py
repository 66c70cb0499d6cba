"""What int8 costs: quantize in every scheme, and evaluate against float32 and other engines' int8.

    python benchmarks/quality.py MODEL --calibration TEXTS --tasks FOLDER --out FOLDER

MODEL is a folder of any kind. float32 and the first scheme are measured on all tasks, the smallest first, and then each
other scheme and engine. Every measurement of a task is kept in --work: a run that was interrupted continues when it is
started again, and a later one adds tasks, schemes and engines without a second look at what is there. The record in
--out is written after each task of the first scheme and after each other system, but a run never takes a task or a
system from a record before its end. A measurement is repeated when the model, the task, or a bit of the vectors of a
few probes has changed, so a record never mixes two forms of int8. schemes.json has sizes, seconds and the error of each
layer, and with --times the time of a call in each scheme.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import quaver
from quaver.evaluate import (
    EvaluationReport,
    Model,
    System,
    Task,
    TaskResult,
    VectorCache,
    compare,
    find_folders,
    read_task,
    system_of,
    write_report,
)
from quaver.evaluate.cache import code_digest
from quaver.evaluate.system import Measured
from quaver.models import ModelFolder, ModelKind
from quaver.quantization.calibration import calibration_texts
from quaver_bench.models import short_name
from quaver_bench.record import describe_run
from quaver_bench.whole_files import written_whole

BASELINE = "float32"
# Arguments of `quaver.quantize`; "calibration" is replaced by the text.
SCHEMES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "calibrated": {"calibration": True},
    "static": {"scheme": "static", "calibration": True},
    "strict": {"scheme": "static", "calibration": True, "strict": True},
}
EVALUATED = ("dynamic", "calibrated", "static")
CLASSES: dict[ModelKind, Any] = {
    "embedder": quaver.Embedder,
    "cross-encoder": quaver.CrossEncoder,
    "sparse": quaver.SparseEncoder,
    "multi-vector": quaver.MultiVectorEncoder,
}
# Their bits tell two forms of a model apart: short, long, numbers, code, another script.
PROBES = (
    "How do I merge two dictionaries?",
    "The hidden dimension of an encoder has a few channels that are much wider than all others. "
    * 8,
    "In 2024 revenue rose by 12.5 % to $3,402 million.",
    "def merge(a, b):\n    return {**a, **b}",
    "量化 \u00fcber alles",
)
RESTORED = (
    "The weights of this copy had been rounded to eight bits once before, and were restored to floats. So the "
    "differences and cosines to its float32 count, with real outliers and rankings; its scores are not those of the "
    "published model, and a grid of 256 levels can flatter a second rounding."
)
ROUNDS = 9
# Name, and tokens of each text: one short query, one passage, a batch.
CASES = {"1 x 16": [16], "1 x 128": [128], "32 x 128": [128] * 32}


class KeptSystem:
    """A system whose measurements are kept in a folder under all that they depend on."""

    def __init__(self, system: System, key: str, folder: Path) -> None:
        """Wrap a system.

        Args:
            system: the system.
            key: what its scores depend on besides the task.
            folder: an existing folder.
        """
        self.name = system.name
        self._system, self._key, self._folder = system, key, folder

    def measure(self, task: Task) -> Measured:
        """Score a task, or read the scores that are kept."""
        path = self._folder / f"{self.name}-{task.name}-{_digest(self._key, repr(task))[:24]}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                scores = json.loads(kept["scores"].tobytes())
                vectors = (kept["corpus"], kept["queries"]) if "corpus" in kept else None
            return Measured(scores, vectors)
        measured = self._system.measure(task)
        arrays: dict[str, Any] = {
            "scores": np.frombuffer(json.dumps(measured.scores).encode(), np.uint8)
        }
        if measured.vectors is not None:
            arrays["corpus"], arrays["queries"] = measured.vectors
        with written_whole(path) as part:
            np.savez(part, **arrays)
        return measured


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def key_of(model: Model) -> str:
    """Return the bits of a model's outputs for a few probes, and the length that it truncates to."""
    outputs: list[Any] = []
    if isinstance(model, quaver.CrossEncoder):
        pairs = [(PROBES[0], text) for text in PROBES]
        outputs.append(model.predict(pairs, activation="identity"))
    elif isinstance(model, quaver.Embedder):
        outputs += [model.encode_query(list(PROBES)), model.encode_document(list(PROBES))]
    elif isinstance(model, quaver.SparseEncoder):
        for words in (model.encode_query(list(PROBES)), model.encode_document(list(PROBES))):
            outputs += [words.indptr, words.indices, words.values]
    else:
        for tokens in (model.encode_query(list(PROBES)), model.encode_document(list(PROBES))):
            outputs += [tokens.offsets, tokens.vectors]
    bits = hashlib.sha256()
    for output in outputs:
        bits.update(np.ascontiguousarray(output).tobytes())
    return f"{bits.hexdigest()} {model.max_seq_length}"


def quantize(
    model: Path, work: Path, calibration: str, samples: int, schemes: Iterable[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write a folder for each scheme that has none from the same model, text and code.

    Yields:
        the scheme, and sizes, seconds and errors, without this machine's paths.
    """
    source = ModelFolder.open_any(model).fingerprint
    text_digest = calibration_texts(calibration, samples).digest
    for scheme in schemes:
        settings, made = SCHEMES[scheme], work / f"{scheme}.json"
        wanted = _digest(source, repr(settings), text_digest, code_digest())
        if made.is_file() and (work / scheme).is_dir():
            record = json.loads(made.read_text(encoding="utf-8"))
            if record.pop("made_from") == wanted:
                yield scheme, record
                continue
        shutil.rmtree(work / scheme, ignore_errors=True)
        text = {"calibration": calibration} if "calibration" in settings else {}
        report = quaver.quantize(model, work / scheme, **{**settings, **text}, samples=samples)
        record = {k: v for k, v in asdict(report).items() if k not in ("target", "source")}
        made.write_text(json.dumps({"made_from": wanted, **record}), encoding="utf-8")
        yield scheme, record


def times(work: Path, calibration: str) -> dict[str, dict[str, float]]:
    """Time the schemes in turns on the same texts: milliseconds for a call, and ratios to dynamic."""
    words = " ".join(calibration_texts(calibration, 128).texts).split()
    found: dict[str, dict[str, float]] = {}
    for name, lengths in CASES.items():
        # As many words as tokens, so that every text is truncated to exactly this length.
        texts = [" ".join(words[i * 64 : i * 64 + n]) for i, n in enumerate(lengths)]
        models = {
            scheme: quaver.Embedder.from_pretrained(work / scheme, max_seq_length=max(lengths))
            for scheme in SCHEMES
        }
        taken: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
        for _ in range(ROUNDS + 1):
            for scheme, model in models.items():
                begin = time.perf_counter()
                calls = 1 if len(lengths) > 1 else 20
                for _ in range(calls):
                    model.encode(texts)
                taken[scheme].append((time.perf_counter() - begin) / calls)
        found[name] = {f"{s} ms": 1000 * statistics.median(t[1:]) for s, t in taken.items()}
        for scheme, seconds in taken.items():
            pairs = zip(seconds[1:], taken["dynamic"][1:], strict=True)
            found[name][f"{scheme} / dynamic"] = statistics.median(a / b for a, b in pairs)
    return found


def evaluate(options: argparse.Namespace, kind: ModelKind, tasks: Sequence[Task]) -> None:
    """Measure system after system on all tasks, and write the record as it grows."""
    kept = options.work / "measured"
    kept.mkdir(parents=True, exist_ok=True)

    def system(name: str, folder: Path, precision: str) -> tuple[System, Model]:
        model = CLASSES[kind].from_pretrained(folder, precision=precision, threads=options.threads)
        return KeptSystem(system_of(name, model), key_of(model), kept), model

    baseline, exact = system(BASELINE, options.model, BASELINE)
    systems = [system(scheme, options.work / scheme, "int8")[0] for scheme in options.schemes]
    if options.against and isinstance(exact, quaver.Embedder):
        from quaver_bench.peers import peer_systems

        systems += peer_systems(
            options.against.split(","),
            exact,
            calibration=options.calibration,
            graphs=options.work / "graphs",
            kept=VectorCache(options.work / "vectors"),
        )
    run = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": _command(),
        "machine": "{cpu}, Quaver {version} on {isa}.".format(**quaver.info()),
        "model": options.name or short_name(str(options.model)),
        "kind": kind,
        "note": RESTORED if options.restored else "",
        "calibration": "/".join(Path(options.calibration).parts[-2:]),
        "samples": options.samples,
        "commit": describe_run(exact.threads, sys.argv)["commit"],
    }

    def step(task: str, system: str) -> None:
        print(f"{datetime.now():%H:%M:%S} {task}, {system}", file=sys.stderr, flush=True)

    grown: dict[str, TaskResult] = {}
    for number, each in enumerate(systems, start=1):
        for task in tasks:
            (result,) = compare(baseline, [each], [task], on_step=step).tasks
            grown[task.name] = joined(grown.get(task.name), result)
            if number > 1 and task is not tasks[-1]:
                continue  # the other tasks lack this system
            names = [system.name for system in systems[:number]]
            report = EvaluationReport(BASELINE, names, list(grown.values()), run=run)
            if covers(report, options.out) or (each is systems[-1] and task is tasks[-1]):
                write_report(report, options.out)


def joined(known: TaskResult | None, new: TaskResult) -> TaskResult:
    """Add a system to the result of a task."""
    if known is None:
        return new
    scores, near = {**known.scores, **new.scores}, {**known.nearness, **new.nearness}
    return TaskResult(known.task, known.baseline, scores, near)


def covers(report: EvaluationReport, folder: Path) -> bool:
    """Return whether a report has every task and system of the record in a folder."""
    try:
        record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # none, or a run was killed as it wrote
        return True
    tasks = {task["task"] for task in record["tasks"]}
    measured = {result.task.name for result in report.tasks}
    return tasks <= measured and set(record["systems"]) <= set(report.systems)


def _command() -> str:
    """Return the command line with the last part of each path."""
    return shlex.join(["python", "benchmarks/quality.py", *(Path(a).name for a in sys.argv[1:])])


def main() -> None:
    """Quantize, time, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder in floats")
    parser.add_argument("--name", help="the model's name in tables; default: its folder's")
    parser.add_argument(
        "--restored",
        action="store_true",
        help="the weights had been rounded to eight bits before, and were restored to floats",
    )
    parser.add_argument("--tasks", type=Path, nargs="*", default=[], help="folders in BEIR layout")
    parser.add_argument("--calibration", required=True, help="text that is in no task")
    parser.add_argument(
        "--schemes", nargs="*", default=EVALUATED, choices=EVALUATED, help="what is evaluated"
    )
    parser.add_argument("--samples", type=int, default=128, help="calibration texts")
    parser.add_argument("--against", default="openvino,onnxruntime", help="other engines, or ''")
    parser.add_argument(
        "--times", action="store_true", help="time the schemes; needs a quiet machine"
    )
    parser.add_argument("--threads", type=int, help="threads of each engine")
    parser.add_argument(
        "--work", type=Path, default=Path("build/quality"), help="kept between runs"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args()
    kind = ModelFolder.open_any(options.model).kind
    options.work = options.work / short_name(str(options.model))
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    # Tasks are read first: a broken one must not be found after hours.
    tasks = [read_task(folder) for path in options.tasks for folder in find_folders(path)]
    chosen = SCHEMES if options.times else options.schemes
    schemes = dict(
        quantize(options.model, options.work, options.calibration, options.samples, chosen)
    )
    record: dict[str, Any] = {
        "command": _command(),
        "machine": {k: quaver.info()[k] for k in ("cpu", "isa", "threads")},
        "schemes": schemes,
    }
    if options.times:
        record["times"] = times(options.work, options.calibration)
    text = json.dumps(record, indent=1) + "\n"
    (options.out / "schemes.json").write_text(text, encoding="utf-8")
    if kind == "cross-encoder":
        for task in tasks:
            if task.kind != "reranking":
                print(f"{task.name} is left out: a cross-encoder reranks", file=sys.stderr)
        tasks = [task for task in tasks if task.kind == "reranking"]
    if tasks:
        evaluate(options, kind, sorted(tasks, key=_size))


def _size(task: Task) -> int:
    return sum(map(len, task.corpus.values())) + sum(map(len, task.queries.values()))


if __name__ == "__main__":
    main()
