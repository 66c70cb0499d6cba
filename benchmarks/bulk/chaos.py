"""Kill everything that can be killed while a corpus is embedded; every row is there once, with the same bits.

    python benchmarks/bulk/chaos.py --model FOLDER [--rows 200000] [--engines local,ray,spark] [--out FILE]

For each engine: the driver is killed with -9 twice, the target's disk is full once, and a node (Ray) or an
executor (Spark) is killed; then the same command runs to its end. The outputs must have the checksums of
an undisturbed run, and each id must be there once. The disk is a tmpfs of its own, which needs root; without it
a limit of the size of files stands in. Needs the extras ray and spark, and Java. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from quaver import BulkWriteError
from quaver.bulk import BulkReport, embed
from quaver_bench.record import describe_run

DOCUMENTS = Path(__file__).parents[2] / "examples" / "python-docs"
FILES = 10
SHARDS_A_FILE = 20
DISK_FULL = 17
"""Exit code of a driver that stops because nothing more can be written."""


def write_corpus(folder: Path, rows: int) -> None:
    """Write ragged texts with ids into Parquet and JSON lines; one in a hundred is empty or null."""
    rng = random.Random(3)
    whole = "\n\n".join(path.read_text() for path in sorted(DOCUMENTS.rglob("*.rst")))
    passages = [paragraph.split() for paragraph in whole.split("\n\n") if paragraph.split()]
    folder.mkdir()
    each = rows // FILES
    for file in range(FILES):
        ids = range(file * each, rows if file == FILES - 1 else (file + 1) * each)
        texts: list[str | None] = []
        for _ in ids:
            words = rng.choice(passages)
            first = rng.randrange(len(words))
            text = " ".join(words[first : first + int(rng.expovariate(1 / 20))])
            texts.append(None if rng.random() < 0.005 else text)
        if file % 2:
            lines = (
                json.dumps({"id": str(i), "text": t}) + "\n"
                for i, t in zip(ids, texts, strict=True)
            )
            (folder / f"{file}.jsonl").write_text("".join(lines))
        else:
            table = pa.table({"id": [str(i) for i in ids], "text": pa.array(texts, pa.string())})
            parquet.write_table(table, folder / f"{file}.parquet", row_group_size=700)


def options(source: Path, model: str) -> dict[str, Any]:
    """Return the arguments that all runs share."""
    size = sum(path.stat().st_size for path in source.iterdir()) / FILES / SHARDS_A_FILE
    return {"model": model, "keep": ["id"], "shard_bytes": int(size), "threads": 1}


def drive(engine: str, source: Path, target: Path, model: str, cluster: str, limited: bool) -> None:
    """Run to the end, as a user's script does; exit with DISK_FULL if the disk is full."""
    if limited:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    if engine == "ray":
        import ray

        ray.init(address=cluster, log_to_driver=False)
    if engine == "spark":
        os.environ["PYSPARK_PYTHON"] = sys.executable
        from pyspark.sql import SparkSession

        builder: Any = SparkSession.builder.master("local-cluster[2,1,1024]")
        for name, value in {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.executor.memory": "512m",
            "spark.task.maxFailures": "8",
        }.items():
            builder = builder.config(name, value)
        builder.getOrCreate()
    workers = {"local": 2, "ray": None, "spark": None}[engine]
    try:
        report = embed(source, target, engine=engine, workers=workers, **options(source, model))  # type: ignore[arg-type]
    except BulkWriteError as error:
        print(error, file=sys.stderr)
        sys.exit(DISK_FULL)
    print(json.dumps({"before": report.before, "failed": report.failed}))


def outputs_done(target: Path) -> int:
    """Return how many records this run and killed ones have written."""
    folder = target / "_quaver" / "done"
    manifest = target / "_quaver" / "manifest.jsonl"
    whole = len(manifest.read_bytes().splitlines()) if manifest.is_file() else 0
    return whole + (len(list(folder.glob("*.json"))) if folder.is_dir() else 0)


class Driver:
    """A driver in a session of its own, so that nothing of it survives."""

    def __init__(self, line: list[str]) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            line, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, target: Path, more: int, before: int) -> bool:
        """Wait until so many more outputs are done; return whether it still runs."""
        while self.process.poll() is None:
            if outputs_done(target) >= before + more:
                return True
            time.sleep(0.02)
        return False

    def kill(self) -> None:
        """Kill the driver alone with -9, then what it leaves behind, as a new machine would not have it."""
        self.process.kill()
        self.process.wait()
        time.sleep(2)  # workers that notice end by themselves
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err


def executors(group: int) -> list[int]:
    """Return Spark's executors of a session of processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        process = int(path.parent.name)
        try:
            words = path.read_bytes().split(b"\0")
            same = os.getsid(process) == group
        except OSError:
            continue
        if same and any(word.endswith(b"CoarseGrainedExecutorBackend") for word in words):
            found.append(process)
    return found


def check(target: Path, want: BulkReport, report: BulkReport, rows: int) -> None:
    """Compare with the undisturbed run, and count the ids."""
    found = {record.output: record.sha256 for record in report.records}
    expected = {record.output: record.sha256 for record in want.records}
    assert found == expected, "other checksums than those of the undisturbed run"
    ids: list[str] = []
    for record in report.records:
        ids += parquet.read_table(target / record.output, columns=["id"])["id"].to_pylist()
    assert len(ids) == rows == len(set(ids)), f"{len(ids)} rows, {len(set(ids))} ids, of {rows}"
    assert not report.failed
    left = list((target / "_quaver" / "unfinished").iterdir())
    assert not left, f"unfinished files stayed: {left}"


def disturb(
    engine: str,
    source: Path,
    target: Path,
    model: str,
    want: BulkReport,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run with all disturbances; return what happened."""
    story: dict[str, Any] = {}
    cluster: Any = None
    address = ""
    if engine == "ray":
        from ray.cluster_utils import Cluster

        memory = {"object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
        for _ in range(2):
            cluster.add_node(num_cpus=1, **memory)
        address = cluster.address
    line = [sys.executable, __file__, "--model", model, "--drive", engine, str(source), str(target)]
    line += [address or "-"]
    part = max(1, len(want.records) // 6)
    try:
        for death in (1, 2):
            before = outputs_done(target)
            driver = Driver(line)
            assert driver.wait_for(target, part, before), driver.finish()
            driver.kill()
            story[f"outputs at death {death} of the driver"] = outputs_done(target)
            say(
                f"{engine}: driver killed with {outputs_done(target)} of {len(want.records)} outputs"
            )
        # The disk: full at once, because a file fills what is left of it.
        filler = target / "filler"
        mounted = os.path.ismount(target)
        if mounted:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        code, _, errors = Driver(line if mounted else [*line, "limited"]).finish()
        assert code == DISK_FULL, (code, errors)
        filler.unlink(missing_ok=True)
        story["disk full"] = "tmpfs" if mounted else "limit of file sizes"
        say(f"{engine}: disk full: {errors.strip().splitlines()[-1][:120]}")
        # A node or an executor, in the last run.
        before = outputs_done(target)
        driver = Driver(line)
        assert driver.wait_for(target, part, before), driver.finish()
        if engine == "ray":
            cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
            story["killed"] = "a node of three"
        elif engine == "spark":
            victim = executors(driver.process.pid)[0]
            os.kill(victim, signal.SIGKILL)
            story["killed"] = "an executor of two"
        code, out, errors = driver.finish()
        assert code == 0, errors
        story["outputs before the last run"] = json.loads(out.splitlines()[-1])["before"]
        say(f"{engine}: finished, {story.get('killed', 'no worker')} killed on the way")
    finally:
        if cluster is not None:
            cluster.shutdown()
    return story


def main() -> None:
    """Embed undisturbed, then disturbed on each engine, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--engines", default="local,ray,spark")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drive", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        engine, source, target, cluster, *limited = given.drive
        drive(engine, Path(source), Path(target), given.model, cluster, bool(limited))
        return

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    results: dict[str, Any] = {"run": describe_run(1, sys.argv), "model": Path(given.model).name}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = folder / "corpus"
        write_corpus(source, given.rows)
        want = embed(source, folder / "want", **options(source, given.model))
        results |= {
            "rows": want.total_rows,
            "rows without a text": want.failed_rows,
            "tokens": want.tokens,
            "outputs": len(want.records),
        }
        say(
            f"undisturbed: {want.total_rows} rows, {len(want.records)} outputs, {want.seconds:.0f} s"
        )
        size = sum(path.stat().st_size for path in (folder / "want").rglob("*") if path.is_file())
        for engine in given.engines.split(","):
            target = folder / engine
            target.mkdir()
            mount = [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"size={4 * size + (64 << 20)}",
                "tmpfs",
                str(target),
            ]
            mounted = (
                shutil.which("mount") is not None
                and not subprocess.run(mount, capture_output=True, check=False).returncode
            )
            try:
                story = disturb(engine, source, target, given.model, want, say)
                again = embed(source, target, **options(source, given.model))
                assert again.before == len(want.records)
                check(target, want, again, given.rows)
            finally:
                if mounted:
                    subprocess.run(["umount", str(target)], check=True)
            results[engine] = {**story, "same checksums": True, "every row once": True}
            say(f"{engine}: every row once, the checksums of the undisturbed run")
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
