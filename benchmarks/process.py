"""Cost of a process with Quaver: memory, start, idle CPU time, and speed while another program is busy.

    python benchmarks/process.py --model MINILM_FOLDER [--out FILE]

Each measurement runs in its own process, which imports only Quaver, or the engine that it is of. Linux only. The
model of the BGE-small shape is written to build/bench-models if it does not exist. "memory_of_engines" repeats the
measurement of memory with the engines that are installed here; the file keeps each, so it can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quaver_bench.models import open_model, random_model
from quaver_bench.record import describe_run

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = REPOSITORY / "examples" / "python-docs"
CACHE = REPOSITORY / "build" / "bench-models"
STARTS = 7
IDLE_SECONDS = 5.0
FIRST_TEXTS = 1000
"""Number of texts after which memory is the base of the comparison."""
MEMORY_OF_ENGINES = "memory_of_engines"
ENGINES = (
    *("openvino-int8", "openvino-float32", "onnxruntime-int8-dynamic", "onnxruntime-float32"),
    *("torch-float32", "sentence-transformers", "fastembed"),
)
CALIBRATION_TEXTS = 16


def main() -> None:
    """Run one measurement in this process, or each in its own process."""
    options = _options()
    if options.only:
        measured = MEASUREMENTS[options.only](options.model, options)
        print(json.dumps(measured))
        return
    result: dict[str, Any] = {"kind": "process", "run": describe_run(options.threads, sys.argv)}
    if options.out and options.out.is_file():
        result |= json.loads(options.out.read_text(encoding="utf-8"))
    for name in options.parts.split(","):
        if name == MEMORY_OF_ENGINES:
            from quaver_bench.engines.registry import FORMS

            of_engines = result.setdefault(name, {"model": "384 x 12, random weights"})
            for engine in ENGINES:
                if engine not in of_engines and not FORMS[engine].missing:
                    of_engines[engine] = _memory_of(engine, options)
                    _write(result, options.out)
        elif name not in result:
            result[name] = _measured(name, options)
            _write(result, options.out)
    print(json.dumps(result, indent=1))


def _write(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _memory_of(engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the memory of another engine, in a process that does not convert the model."""
    model = _small_model(options)
    _child("memory", model, options, engine, texts=1)
    return _child("memory", model, options, engine)


def _small_model(options: argparse.Namespace) -> Path:
    return random_model("small", open_model(str(options.model), CACHE)).folder.path


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name == "memory":
        return {
            "model": "384 x 12, random weights",
            **_child(name, _small_model(options), options),
        }
    if name == "start":
        starts = [_child(name, options.model, options) for _ in range(STARTS)]
        medians = {key: round(statistics.median(s[key] for s in starts), 4) for key in starts[0]}
        return {"model": "MiniLM-L6", "processes": STARTS, **medians}
    return _child(name, options.model, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--texts", type=int, default=20_000, help="texts of the memory measurement")
    parts = ",".join((*MEASUREMENTS, MEMORY_OF_ENGINES))
    add("--parts", default=",".join(MEASUREMENTS), help=f"what to measure, of {parts}")
    add("--out", type=Path, help="results, JSON; measurements that it has are not repeated")
    add("--only", choices=tuple(MEASUREMENTS), help=argparse.SUPPRESS)
    add("--engine", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(
    name: str, model: Path, options: argparse.Namespace, engine: str = "", texts: int | None = None
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", name, "--model", str(model)]
    command += ["--threads", str(options.threads), "--texts", str(texts or options.texts)]
    command += ["--engine", engine] if engine else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {engine}: {measured}", file=sys.stderr, flush=True)
    return measured


def memory(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Encode texts of random lengths, up to 512 tokens, in calls of random sizes.

    Args:
        model: model folder.
        options: texts and threads.

    Returns:
        MB of resident memory: the peak, after FIRST_TEXTS, at the end, and the largest difference
        to FIRST_TEXTS in percent.
    """
    words = _words()
    encode = _encoder(model, options, words)
    chance = random.Random(0)
    texts, sizes = 0, []
    first = 0.0
    while texts < options.texts:
        count = chance.randint(1, 64)
        batch = [_text(words, chance) for _ in range(count)]
        encode(batch)
        before, texts = texts, texts + count
        if before < FIRST_TEXTS <= texts:
            first = resident_mb()
        elif before >= FIRST_TEXTS:
            sizes.append(resident_mb())
    drift = max((abs(size - first) for size in sizes), default=0.0)
    return {
        "texts": texts,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "after_first_texts_mb": round(first, 1),
        "end_mb": round(resident_mb(), 1),
        "drift_percent": round(100 * drift / first, 2) if first and sizes else None,
    }


def _encoder(
    model: Path, options: argparse.Namespace, words: list[str]
) -> Callable[[list[str]], Any]:
    """Load the model in Quaver, or in another engine; return what encodes texts."""
    if not options.engine:
        from quaver.embedder import Embedder

        return Embedder.from_pretrained(
            model, threads=options.threads, local_files_only=True
        ).encode
    from quaver_bench.engines import CannotRunError, Setup
    from quaver_bench.engines.registry import FORMS

    opened = open_model(str(model), CACHE)
    tokenizer = opened.folder.tokenizer(512)
    chance = random.Random(1)
    texts = [_text(words, chance) for _ in range(CALIBRATION_TEXTS)]
    ids = [tokenizer.encode([text]).ids.astype("int64") for text in texts]
    try:
        engine = FORMS[options.engine].load(Setup(opened, options.threads, 512, ids, texts))
    except CannotRunError as error:
        sys.exit(f"{options.engine} cannot run this model: {error}")
    return engine.encode


def start(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Import, load and encode a first query.

    Args:
        model: model folder.
        options: threads.

    Returns:
        Seconds to import, seconds to load, milliseconds of the first query and of a later one.
    """
    begin = time.perf_counter()
    from quaver.embedder import Embedder

    imported = time.perf_counter()
    embedder = Embedder.from_pretrained(model, threads=options.threads, local_files_only=True)
    loaded = time.perf_counter()
    embedder.encode_query("How do I sort a list of objects by an attribute?")
    answered = time.perf_counter()
    later = _median_seconds(lambda: embedder.encode_query("How do I read a JSON file?"), 1.0)
    return {
        "import_seconds": round(imported - begin, 4),
        "from_pretrained_seconds": round(loaded - imported, 4),
        "first_query_ms": round(1000 * (answered - loaded), 3),
        "later_query_ms": round(1000 * later, 3),
    }


def idle(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Encode, then wait.

    Args:
        model: model folder.
        options: threads.

    Returns:
        CPU time used while waiting, in percent of one CPU.
    """
    from quaver.embedder import Embedder

    embedder = Embedder.from_pretrained(model, threads=options.threads, local_files_only=True)
    embedder.encode(["a text", "another text"] * 8)
    begin = time.process_time()
    time.sleep(IDLE_SECONDS)
    used = time.process_time() - begin
    return {"seconds": IDLE_SECONDS, "cpu_percent": round(100 * used / IDLE_SECONDS, 4)}


def busy(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Encode alone, and while a program keeps one CPU busy, in turns.

    Args:
        model: model folder.
        options: threads.

    Returns:
        For a query and for 16 texts: milliseconds alone, and median and largest ratio beside
        the program. A fair share of n CPUs with n threads costs n / (n - 0.5), 1.33 for two.
    """
    from quaver.embedder import Embedder

    embedder = Embedder.from_pretrained(model, threads=options.threads, local_files_only=True)
    words, chance = _words(), random.Random(0)
    texts = [" ".join(chance.choices(words, k=80)) for _ in range(16)]
    works = {
        "query": lambda: embedder.encode_query("How do I sort a list of objects?"),
        "batch": lambda: embedder.encode(texts),
    }
    result: dict[str, Any] = {"loops": 1, "cpus": len(os.sched_getaffinity(0))}
    for name, work in works.items():
        work()
        alone, ratios = [], []
        for _ in range(5):
            alone.append(_median_seconds(work, 1.0))
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                time.sleep(0.2)
                ratios.append(_median_seconds(work, 1.0) / alone[-1])
            finally:
                loop.kill()
                loop.wait()
        result[name] = {
            "alone_ms": round(1000 * statistics.median(alone), 3),
            "ratio": round(statistics.median(ratios), 3),
            "largest_ratio": round(max(ratios), 3),
        }
    return result


def _median_seconds(work: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def resident_mb() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _words() -> list[str]:
    files = sorted(DOCUMENTS.rglob("*.rst"))
    return sorted({word for file in files for word in file.read_text(encoding="utf-8").split()})


def _text(words: list[str], chance: random.Random) -> str:
    """Return a text of random length: mostly short, sometimes longer than the model reads."""
    return " ".join(chance.choices(words, k=max(1, min(300, int(chance.lognormvariate(3, 0.9))))))


MEASUREMENTS = {"memory": memory, "start": start, "idle": idle, "beside_busy_loop": busy}

if __name__ == "__main__":
    main()
