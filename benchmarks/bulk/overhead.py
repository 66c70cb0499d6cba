"""What bulk embedding costs beyond the bare engine, in CPU time, and the memory of a worker.

    python benchmarks/bulk/overhead.py --model MINILM_FOLDER [--rows 16000] [--engines local,ray,spark]

Each run is a process of its own, with as many threads. Its CPU time (user and system, with all processes
it starts, Ray's and Spark's daemons too) is measured for two corpora, and the difference is divided by the
rows between them: what a row costs after start-up. CPU time and not the clock, because another program on the
machine then changes little. Memory is the largest resident size of the process with the model, less
that of a process that has loaded the model and embedded one batch. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from quaver import Embedder
from quaver_bench.record import describe_run

TICKS = os.sysconf("SC_CLK_TCK")
SUBREAPER = 36
DOCUMENTS = Path(__file__).parents[2] / "examples" / "python-docs"


def write_corpus(path: Path, rows: int, seed: int = 1) -> Path:
    """Write passages of the sample documents, cut at random lengths, as one Parquet file."""
    rng = random.Random(seed)
    whole = "\n\n".join(path.read_text() for path in sorted(DOCUMENTS.rglob("*.rst")))
    passages = [paragraph.split() for paragraph in whole.split("\n\n") if paragraph.split()]
    texts = []
    while len(texts) < rows:
        words = [word for _ in range(3) for word in rng.choice(passages)]
        first = rng.randrange(len(words))
        texts.append(" ".join(words[first : first + rng.randint(4, 160)]))
    parquet.write_table(
        pa.table({"id": pa.array(range(rows)), "text": pa.array(texts)}),
        path,
        row_group_size=1000,
    )
    return path


def family() -> list[int]:
    """Return this process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += parents.get(process, [])
    return found


def cpu_seconds() -> float:
    """Return the CPU time of the family, of those that have ended too."""
    total = 0
    for process in family():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def resident(process: int, field: str = "VmHWM") -> float:
    """Return a process's resident memory in MB."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def work(engine: str, source: Path, model: str, threads: int, shard_mb: float) -> dict[str, float]:
    """Embed a corpus in this process's family, and return what it took."""
    # Processes whose parent ends become children of this one, so that none is missed.
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    largest = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.2):
            for process in family()[1:]:
                try:
                    words = Path(f"/proc/{process}/cmdline").read_bytes()
                except OSError:
                    continue
                if b"ray::" in words or b"pyspark.daemon" in words or b"pyspark/daemon" in words:
                    largest = max(largest, resident(process))

    watcher = threading.Thread(target=watch)
    if engine == "bare":
        texts = parquet.read_table(source)["text"].to_pylist()
        embedder = Embedder.from_pretrained(model, threads=threads)
        embedder.encode_document(texts[:256])
        memory = resident(os.getpid(), "VmRSS")
        embedder.encode_document(texts)
        return {"cpu": cpu_seconds(), "memory": memory}
    from quaver.bulk import embed

    if engine == "spark":
        os.environ["PYSPARK_PYTHON"] = sys.executable
        from pyspark.sql import SparkSession

        session: Any = SparkSession.builder.master("local[1]")
        for name in ("spark.driver.host", "spark.driver.bindAddress"):
            session = session.config(name, "127.0.0.1")
        session.config("spark.ui.enabled", "false").getOrCreate()
    if engine == "ray":
        import ray

        ray.init(num_cpus=threads, include_dashboard=False, log_to_driver=False)
    if engine != "local":
        watcher.start()
    with tempfile.TemporaryDirectory() as target:
        report = embed(
            source,
            target,
            model=model,
            engine=engine,  # type: ignore[arg-type]
            workers=None if engine == "spark" else 1,
            threads=threads,
            shard_bytes=round(shard_mb * 1e6),
            keep=["id"],
        )
        if report.failed:
            raise SystemExit(f"failed: {report.failed}")
    took = cpu_seconds()
    done.set()
    if engine != "local":
        watcher.join()
    return {"cpu": took, "memory": resident(os.getpid()) if engine == "local" else largest}


def main() -> None:
    """Measure the engines, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default="local,ray,spark")
    parser.add_argument("--shard-mb", default="1,64", help="the memory is measured with each")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        engine, source, shard_mb = given.work
        print(json.dumps(work(engine, Path(source), given.model, given.threads, float(shard_mb))))
        return
    results: dict[str, Any] = {
        "run": describe_run(given.threads, sys.argv),
        "rows": given.rows,
        "threads": given.threads,
    }
    sizes = [float(size) for size in given.shard_mb.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        small, large = given.rows // 4, given.rows
        files = [write_corpus(Path(folder) / f"{n}.parquet", n) for n in (small, large)]

        def run(engine: str, file: Path, shard_mb: float) -> dict[str, float]:
            line = [sys.executable, __file__, "--model", given.model]
            line += ["--threads", str(given.threads), "--work", engine, str(file), str(shard_mb)]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return answer

        def measure(engine: str) -> dict[str, Any]:
            few = run(engine, files[0], sizes[0])
            many = [run(engine, files[1], size) for size in sizes]
            per_row = (many[0]["cpu"] - few["cpu"]) / (large - small)
            return {
                "cpu_ms_per_row": 1000 * per_row,
                "start_cpu_s": few["cpu"] - small * per_row,
                "memory_mb": {str(s): round(m["memory"]) for s, m in zip(sizes, many, strict=True)},
            }

        bare = measure("bare")
        results["bare"] = bare
        model_mb = max(bare["memory_mb"].values())
        print(
            f"bare engine   {bare['cpu_ms_per_row']:.3f} ms of CPU a row; {model_mb} MB with the model"
        )
        for engine in given.engines.split(","):
            found = measure(engine)
            found["overhead"] = found["cpu_ms_per_row"] / bare["cpu_ms_per_row"] - 1
            results[engine] = found
            more = {size: memory - model_mb for size, memory in found["memory_mb"].items()}
            shards = ", ".join(f"{mb:+} MB with shards of {size} MB" for size, mb in more.items())
            print(
                f"{engine:<13} {found['cpu_ms_per_row']:.3f} ms of CPU a row, "
                f"{100 * found['overhead']:+.1f} %; {found['start_cpu_s']:.0f} s to start; worker {shards}"
            )
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
