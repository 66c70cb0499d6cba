"""Kill everything that can be killed while a corpus is embedded; every row is there once, with the same bits.

    python benchmarks/bulk/chaos.py [--model FOLDER] [--rows 200000] [--engines local,ray,spark] [--out FILE]

For each engine, with one target: the driver is killed with -9 twice; the disk of the target gets full; then, in the
last run, a worker process (local), one of three nodes (Ray) or one of two executors (Spark) is killed. The outputs must
have the checksums of an undisturbed run in one process, each id must be there once, and rows of the undisturbed run
must be the bits of `Embedder.encode_document`.

The default model is a tiny random BERT: what is tested does not depend on the model. The disk is a tmpfs, which needs
root. Needs the extras ray and spark, and Java. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from quaver import BulkWriteError, Embedder
from quaver.bulk import BulkReport, embed
from quaver_bench.record import describe_run

ROOT = Path(__file__).parents[2]
DOCUMENTS = ROOT / "examples" / "python-docs"
FILES = 10
SHARDS_A_FILE = 20
COMPARED = 20
"""Outputs of the undisturbed run that are compared with the library."""
ROOM = 4
"""Outputs that the full disk still has room for, beside a manifest."""
MANIFEST_LINE = 1000
"""Bytes of the manifest for an output, at most."""
DISK_FULL = 17
"""Exit code of a driver that stops because nothing more can be written."""


def write_corpus(folder: Path, rows: int) -> None:
    """Write ragged texts with ids into Parquet and JSON lines: most short, some empty, null or very long."""
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
            chance = rng.random()
            texts.append(None if chance < 0.005 else text * 100 if chance > 0.999 else text)
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
    return {"model": model, "keep": ["id", "text"], "shard_bytes": int(size), "threads": 1}


def drive(engine: str, source: Path, target: Path, model: str, cluster: str) -> None:
    """Run to the end, as a user's script does; exit with DISK_FULL if the disk is full."""
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
    """Return how many outputs this run and killed ones have finished."""
    own = target / "_quaver"
    manifest = own / "manifest.jsonl"
    lines = manifest.read_text().splitlines() if manifest.is_file() else []
    # Both have a record while a run moves it into the manifest.
    done = {json.loads(line)["output"].rpartition(".")[0] for line in lines}
    return len(done | {path.stem for path in (own / "done").glob("*.json")})


class Driver:
    """A driver in a session of its own, so that nothing of it survives."""

    def __init__(self, line: list[str]) -> None:
        """Start it; what it prints goes to files, because nobody reads a pipe while it runs."""
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            line, start_new_session=True, stdout=self._out, stderr=self._err
        )

    def wait_for(self, target: Path, done: int) -> None:
        """Wait until so many outputs are done; fail if it ends before."""
        while self.process.poll() is None:
            if outputs_done(target) >= done:
                return
            time.sleep(0.02)
        raise AssertionError(f"the driver ended too early: {self.finish()}")

    def kill(self) -> None:
        """Kill the driver alone with -9, then what it leaves behind, as a new machine would not have it."""
        self.process.kill()
        self.process.wait()
        time.sleep(2)  # workers that notice end by themselves
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end; return its exit code and what it printed."""
        code = self.process.wait()
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
        return code, texts[0], texts[1][-5000:]


def workers_of(driver: int, command: bytes) -> list[int]:
    """Return the processes of a session whose command line has a word that ends so, without the driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        process = int(path.parent.name)
        try:
            words = path.read_bytes().split(b"\0")
            same = os.getsid(process) == driver
        except OSError:
            continue
        if same and process != driver and any(word.endswith(command) for word in words):
            found.append(process)
    return sorted(found)


@contextmanager
def own_disk(target: Path, size: int) -> Iterator[bool]:
    """Make the target a disk of so many bytes; yield whether that was possible."""
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(target)]
    try:
        mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(target)], check=True)


@contextmanager
def full(target: Path, room: int) -> Iterator[None]:
    """Fill a disk but for some bytes, with a file that is deleted in the end."""
    filler = target / "_filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    os.truncate(filler, max(0, filler.stat().st_size - room))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def three_nodes() -> Iterator[Any]:
    """Start a Ray cluster of three nodes in processes, each with room for one worker."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(2):
            cluster.add_node(**node)
        yield cluster
    finally:
        cluster.shutdown()


def say(text: str) -> None:
    """Print what happens, and when."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def disturb(
    engine: str, line: list[str], target: Path, outputs: int, room: int | None, cluster: Any
) -> dict[str, Any]:
    """Run with all disturbances.

    Args:
        engine: local, ray or spark.
        line: the command of the driver.
        target: of its outputs.
        outputs: of the whole corpus.
        room: bytes that the full disk has left; None if it cannot be filled.
        cluster: of Ray.

    Returns:
        what happened.
    """
    story: dict[str, Any] = {"outputs_at_death_of_driver": []}

    def start_and_wait() -> Driver:
        """Start a driver; return it when a sixth of what is left is done."""
        done = outputs_done(target)
        driver = Driver(line)
        driver.wait_for(target, done + max(1, (outputs - done) // 6))
        return driver

    for _ in range(2):
        start_and_wait().kill()
        story["outputs_at_death_of_driver"].append(outputs_done(target))
        say(f"{engine}: driver killed with {outputs_done(target)} of {outputs} outputs")
    story["outputs_when_the_disk_was_full"] = None
    if room is not None:
        with full(target, room):
            code, _, errors = Driver(line).finish()
        assert code == DISK_FULL, (code, errors)
        story["outputs_when_the_disk_was_full"] = outputs_done(target)
        say(f"{engine}: disk full: {errors.strip().splitlines()[-1][:160]}")
    driver = start_and_wait()
    if engine == "ray":
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        story["killed"] = "one of three nodes"
    else:
        command = (
            b"CoarseGrainedExecutorBackend" if engine == "spark" else b"serve(int(sys.argv[1]))"
        )
        victims = workers_of(driver.process.pid, command)
        assert victims
        os.kill(victims[0], signal.SIGKILL)
        story["killed"] = "one of two executors" if engine == "spark" else "one of two processes"
    story["outputs_at_that_moment"] = outputs_done(target)
    code, out, errors = driver.finish()
    assert code == 0, (code, errors)
    # Ray prints what it hears of lost nodes into the same stream, also after the answer.
    answer = next(line for line in reversed(out.splitlines()) if line.startswith('{"before"'))
    story["outputs_before_the_last_run"] = json.loads(answer)["before"]
    say(f"{engine}: finished, {story['killed']} killed on the way")
    return story


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
    assert (report.total_rows, report.failed_rows) == (rows, want.failed_rows)
    left = list((target / "_quaver" / "unfinished").iterdir())
    assert not left, f"unfinished files stayed: {left}"


def check_bits(report: BulkReport, model: str) -> int:
    """Compare outputs with what the library gives for their texts; return the rows that were compared."""
    embedder = Embedder.from_pretrained(model)
    rows = 0
    for record in report.records[:: max(1, len(report.records) // COMPARED)]:
        table = parquet.read_table(Path(report.target) / record.output)
        table = table.filter(table["text"].is_valid())
        vectors = table["vector"].combine_chunks().flatten().to_numpy()
        want = embedder.encode_document(table["text"].to_pylist())
        assert np.array_equal(vectors.reshape(want.shape), want), record.output
        rows += len(want)
    return rows


def write_model(folder: Path) -> str:
    """Write the tiny random BERT of the tests."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_model import write_tiny_model

    return str(write_tiny_model(folder))


def describe(engines: list[str], command: list[str]) -> dict[str, Any]:
    """Describe this machine, with the versions of what runs here."""
    run = describe_run(1, command)
    packages = ["pyarrow", *(p for p in ("ray", "pyspark") if p.removeprefix("py") in engines)]
    run["versions"] |= {name: metadata.version(name) for name in packages}
    return run


def main() -> None:
    """Embed undisturbed, then disturbed on each engine, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="folder of an embedding model; default: a tiny random one")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--engines", default="local,ray,spark")
    parser.add_argument("--out", type=Path, help="write what happened as JSON")
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        engine, source, target, cluster = given.drive
        drive(engine, Path(source), Path(target), given.model, cluster)
        return
    engines = given.engines.split(",")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source, model = folder / "corpus", given.model or write_model(folder / "model")
        write_corpus(source, given.rows)
        say(f"a corpus of {given.rows:,} rows")
        want = embed(source, folder / "want", **options(source, model))
        outputs = len(want.records)
        say(f"undisturbed: {want.tokens:,} tokens, {outputs} outputs, {want.seconds:.0f} s")
        results: dict[str, Any] = {
            "run": describe(engines, sys.argv),
            "model": Path(given.model).name if given.model else "tiny random BERT",
            "rows": want.total_rows,
            "rows_without_a_text": want.failed_rows,
            "tokens": want.tokens,
            "truncated": want.truncated,
            "outputs": outputs,
            "seconds_undisturbed": round(want.seconds, 1),
            "rows_compared_with_the_library": check_bits(want, model),
            "engines": {},
        }
        size = sum(record.bytes for record in want.records)
        for engine in engines:
            target = folder / engine
            start = time.monotonic()
            line = [sys.executable, __file__, "--model", model, "--drive", engine]
            with own_disk(target, 2 * size + (16 << 20)) as mounted:
                room = ROOM * size // outputs + MANIFEST_LINE * outputs if mounted else None
                if engine == "ray":
                    with three_nodes() as cluster:
                        line += [str(source), str(target), cluster.address]
                        story = disturb(engine, line, target, outputs, room, cluster)
                else:
                    line += [str(source), str(target), "-"]
                    story = disturb(engine, line, target, outputs, room, None)
                again = embed(source, target, **options(source, model))
                assert again.before == outputs, again.before
                check(target, want, again, given.rows)
            story |= {
                "seconds": round(time.monotonic() - start, 1),
                "same_checksums": True,
                "every_row_once": True,
            }
            results["engines"][engine] = story
            say(f"{engine}: every row once, the checksums of the undisturbed run")
            if given.out:
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
