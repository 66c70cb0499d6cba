"""What bulk embedding costs beyond the bare engine, in CPU time and on the clock, and the memory of a worker.

    python benchmarks/bulk/overhead.py --model FOLDER [--rows 12000] [--engines local,ray,spark] [--out FILE]

Each run is a process of its own, with as many threads. Its CPU time (user and system, with all processes it starts,
Ray's and Spark's daemons too) and its time are measured for two corpora, and the difference is divided by the rows
between them: what a row costs after start-up. The engines take turns, and the fastest run of each counts. CPU time
changes little if the machine does other work; the clock needs a quiet one.

Memory is the largest resident size of the process with the model, less that of a process that has loaded the model and
embedded one batch. It is measured with whole texts and small shards, and with one large shard, a single row group, of
long texts that are cut to a few tokens so that its rows take a minute. Linux only.
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
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from quaver import Embedder
from quaver_bench.record import describe_run

TICKS = os.sysconf("SC_CLK_TCK")
SUBREAPER = 36
DOCUMENTS = Path(__file__).parents[2] / "examples" / "python-docs"
SMALL_SHARD = 1_000_000
FEW_TOKENS = 8
LONG_TEXTS = 10
TARGETS = {"local": 0.05, "ray": 0.10, "spark": 0.10}
MEMORY_TARGET = 200


def write_corpus(path: Path, rows: int, group: int = 1000, times: int = 1) -> Path:
    """Write passages of the sample documents, cut at random lengths, as one Parquet file.

    Args:
        path: the file.
        rows: of it.
        group: rows in a row group.
        times: how often as long the texts are.
    """
    rng = random.Random(1)
    whole = "\n\n".join(path.read_text() for path in sorted(DOCUMENTS.rglob("*.rst")))
    passages = [paragraph.split() for paragraph in whole.split("\n\n") if paragraph.split()]
    texts = []
    for _ in range(rows):
        words = [word for _ in range(3 * times) for word in rng.choice(passages)]
        first = rng.randrange(len(words))
        texts.append(" ".join(words[first : first + times * rng.randint(4, 160)]))
    table = pa.table({"id": pa.array(range(rows)), "text": pa.array(texts)})
    parquet.write_table(table, path, row_group_size=group)
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
    """Return a process's resident memory in MB, by default the largest so far."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


class Watch(threading.Thread):
    """Looks for the largest worker of Ray or Spark until it is stopped."""

    def __init__(self) -> None:
        """Start looking."""
        super().__init__(daemon=True)
        self.largest = 0.0
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        """Look once a second: what the kernel keeps is the largest size so far, and looking takes CPU time."""
        while not self._done.wait(1.0):
            for process in family()[1:]:
                try:
                    words = Path(f"/proc/{process}/cmdline").read_bytes()
                except OSError:
                    continue
                if b"ray::" in words or b"pyspark.daemon" in words:
                    self.largest = max(self.largest, resident(process))

    def stop(self) -> float:
        """Stop looking; return the largest resident size in MB."""
        self._done.set()
        self.join()
        return self.largest


def work(job: dict[str, Any]) -> dict[str, float]:
    """Embed a corpus in this process's family, and return what it took."""
    # Processes whose parent ends become children of this one, so that none is missed.
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    engine, source, threads = job["engine"], job["source"], job["threads"]
    options = {"model": job["model"], "max_seq_length": job["max_seq_length"]}
    if engine == "bare":
        start = time.monotonic()
        file = parquet.ParquetFile(source)
        first = next(file.iter_batches(256, columns=["text"]))["text"].to_pylist()
        embedder = Embedder.from_pretrained(
            job["model"], threads=threads, max_seq_length=job["max_seq_length"]
        )
        embedder.encode_document(first)
        memory = resident(os.getpid(), "VmRSS")
        embedder.encode_document(file.read(["text"])["text"].to_pylist())
        return {"clock": time.monotonic() - start, "cpu": cpu_seconds(), "memory": memory}
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
    watch = None if engine == "local" else Watch()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as target:
        report = embed(
            source,
            target,
            engine=engine,
            workers=None if engine == "spark" else 1,
            threads=threads,
            shard_bytes=job["shard_bytes"],
            keep=["id"],
            **options,
        )
        clock = time.monotonic() - start
        if report.failed:
            raise SystemExit(f"failed: {report.failed}")
    memory = watch.stop() if watch else resident(os.getpid())
    return {
        "clock": clock,
        "cpu": cpu_seconds(),
        "memory": memory,
        "rows": report.rows,
        "shards": len(report.records),
    }


def run(**job: Any) -> dict[str, float]:
    """Do a job in a process of its own."""
    line = [sys.executable, __file__, "--work", json.dumps(job)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def per_row(runs: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    """Return what a row costs: the difference of two corpora, of the fastest of their runs."""
    (small, few), (large, many) = (
        (rows, {what: min(r[what] for r in found) for what in ("cpu", "clock")})
        for rows, found in runs.items()
    )
    cost = {what: (many[what] - few[what]) / (large - small) for what in ("cpu", "clock")}
    return {
        "cpu_ms_per_row": round(1000 * cost["cpu"], 4),
        "clock_ms_per_row": round(1000 * cost["clock"], 4),
        "start_cpu_s": round(few["cpu"] - small * cost["cpu"], 1),
        "memory_mb": round(max(r["memory"] for r in runs[large])),
        "cpu_s": {rows: [round(r["cpu"], 2) for r in found] for rows, found in runs.items()},
        "clock_s": {rows: [round(r["clock"], 2) for r in found] for rows, found in runs.items()},
    }


def main() -> None:
    """Measure the engines, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="folder of an embedding model")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default="local,ray,spark")
    parser.add_argument("--large-mb", type=float, default=64, help="the large shard")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(given.work)))
        return
    if not given.model:
        parser.error("--model is needed")
    engines = given.engines.split(",")
    described = describe_run(given.threads, sys.argv)
    packages = ["pyarrow", *(p for p in ("ray", "pyspark") if p.removeprefix("py") in engines)]
    described["versions"] |= {name: metadata.version(name) for name in packages}
    results: dict[str, Any] = {
        "run": described,
        "model": Path(given.model).name,
        "rows": given.rows,
        "targets": {"overhead": TARGETS, "memory_mb": MEMORY_TARGET},
        "engines": {},
    }
    common = {"model": str(Path(given.model).resolve()), "threads": given.threads}
    with tempfile.TemporaryDirectory() as folder:
        files = {
            rows: write_corpus(Path(folder) / f"{rows}.parquet", rows)
            for rows in (given.rows // 4, given.rows)
        }
        # One row group, the worst case for a reader.
        a_row = LONG_TEXTS * files[given.rows].stat().st_size / given.rows
        rows = round(given.large_mb * 1e6 / a_row)
        large = write_corpus(Path(folder) / "large.parquet", rows, group=rows, times=LONG_TEXTS)
        runs: dict[str, dict[int, list[dict[str, float]]]] = {
            engine: {rows: [] for rows in files} for engine in ("bare", *engines)
        }
        for _ in range(given.rounds):
            for engine, times in runs.items():
                for rows, path in files.items():
                    job = {**common, "engine": engine, "source": str(path), "max_seq_length": None}
                    times[rows].append(run(**job, shard_bytes=SMALL_SHARD))
        results["bare"] = bare = per_row(runs["bare"])
        print(
            f"{'bare engine':<12} a row: {bare['cpu_ms_per_row']:.3f} ms of CPU, "
            f"{bare['clock_ms_per_row']:.3f} ms; {bare['memory_mb']} MB with the model",
            flush=True,
        )
        for engine in engines:
            results["engines"][engine] = found = per_row(runs[engine])
            for what in ("cpu", "clock"):
                name = f"{what}_ms_per_row"
                found[f"overhead_{what}"] = round(found[name] / bare[name] - 1, 4)
            print(
                f"{engine:<12} a row: {found['cpu_ms_per_row']:.3f} ms of CPU "
                f"({100 * found['overhead_cpu']:+.1f} %), {found['clock_ms_per_row']:.3f} ms "
                f"({100 * found['overhead_clock']:+.1f} %); {found['start_cpu_s']:.0f} s of CPU to start",
                flush=True,
            )
        for engine, found in results["engines"].items():
            one = run(
                engine=engine,
                source=str(large),
                max_seq_length=FEW_TOKENS,
                shard_bytes=2 * large.stat().st_size,
                **common,
            )
            assert one["shards"] == 1, one
            found |= {
                "large_shard_rows": one["rows"],
                "large_shard_bytes": large.stat().st_size,
                "memory_mb_large_shard": round(one["memory"]),
                "memory_mb_more": round(max(one["memory"], found["memory_mb"])) - bare["memory_mb"],
            }
            print(
                f"{engine:<12} worker: {found['memory_mb']} MB, with a shard of "
                f"{found['large_shard_bytes'] / 1e6:.0f} MB {found['memory_mb_large_shard']} MB: "
                f"{found['memory_mb_more']:+} MB",
                flush=True,
            )
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
