"""The Spark engine with executors in processes of their own; `make test-bulk` installs Spark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_bulk import TEXTS, digests, write_corpus

from quaver.bulk import embed
from quaver.bulk.kinds import Dense
from tiny_model import write_tiny_model

sql = pytest.importorskip("pyspark.sql")

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),  # Spark's own
]


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """Two executors; the master starts another when one is killed."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = sql.SparkSession.builder.master("local-cluster[2,1,1024]")
    for name, value in {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.executor.memory": "512m",
        "spark.task.maxFailures": "8",
    }.items():
        builder = builder.config(name, value)
    started = builder.getOrCreate()
    yield started
    started.stop()


def executors() -> list[int]:
    """Return the processes of the executors."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"CoarseGrainedExecutorBackend") for word in words):
            found.append(int(path.parent.name))
    return found


def test_spark_gives_the_same_files_although_an_executor_is_killed(
    session: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS)
    options: dict[str, Any] = {"model": tiny_folder, "shard_bytes": 1_500, "keep": ["id"]}
    want = embed(source, tmp_path / "want", **options)
    done = tmp_path / "out/_quaver/done"
    killed = []

    def kill_an_executor() -> None:
        while not (done.is_dir() and len(list(done.glob("*.json"))) >= 3):
            time.sleep(0.01)
        (first, *_) = executors()
        os.kill(first, signal.SIGKILL)
        killed.append(first)

    killer = threading.Thread(target=kill_an_executor, daemon=True)
    killer.start()
    report = embed(source, tmp_path / "out", engine="spark", **options)
    killer.join(60)
    assert killed
    assert report.failed == ()
    assert digests(report) == digests(want)


def test_a_corrupt_file_fails_alone_on_spark(
    session: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    write_corpus(tmp_path / "a.txt", TEXTS[:20])
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder, engine="spark")
    assert report.total_rows == 20
    assert [Path(name).name for name, _ in report.failed] == ["b.parquet"]


def test_a_model_that_executors_do_not_have_is_sent_there(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quaver.bulk import spark as engine

    source = write_corpus(tmp_path / "a.parquet", TEXTS[:200])
    model = write_tiny_model(tmp_path / "model", seed=3)
    options: dict[str, Any] = {"model": model, "shard_bytes": 1_500}
    want = embed(source, tmp_path / "want", **options)
    load, ship = Dense.load, engine.ship

    def load_and_move(name: str, loading: Any) -> Any:
        loaded = load(name, loading)
        model.rename(tmp_path / "elsewhere")  # the executors are on this machine
        return loaded

    def ship_and_move(session: Any, job: Any) -> str:
        (tmp_path / "elsewhere").rename(model)
        try:
            return ship(session, job)
        finally:
            model.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Dense, "load", load_and_move)
    monkeypatch.setattr(engine, "ship", ship_and_move)
    report = embed(source, tmp_path / "out", engine="spark", **options)
    assert report.failed == ()
    assert digests(report) == digests(want)


CLUSTER = Path(__file__).parents[2] / "examples" / "bulk" / "cluster"


def run_script(line: list[str], *, python: str = sys.executable, **more: str) -> str:
    """Run a script in a process of its own, without this session, and return what it prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK", "PYSPARK"))}
    if python:
        kept["PYSPARK_PYTHON"] = python
    environment = {**kept, "SPARK_LOCAL_IP": "127.0.0.1", **more}
    done = subprocess.run(
        [sys.executable, *line], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_spark_connect_gives_the_same_files(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS[:200])
    want = embed(source, tmp_path / "want", model=tiny_folder)
    script = str(CLUSTER / "spark_connect.py")
    told = run_script([script, str(tiny_folder), str(source), str(tmp_path / "out")])
    assert "200 rows of 1 shard" in told
    again = embed(source, tmp_path / "out", model=tiny_folder)
    assert again.before == 1
    assert digests(again) == digests(want)


CONNECT = """
import sys
from pathlib import Path
from pyspark.sql import SparkSession
from quaver.bulk import embed, spark
from quaver.bulk.kinds import Dense

model, away = Path(sys.argv[3]), Path(sys.argv[3] + "-away")
load, ship = Dense.load, spark.ship

def load_and_move(name, loading):
    loaded = load(name, loading)
    model.rename(away)
    return loaded

def ship_and_move(session, job):
    away.rename(model)
    name = ship(session, job)
    model.rename(away)
    return name

Dense.load, spark.ship = load_and_move, ship_and_move
session = SparkSession.builder.remote("local[2]").getOrCreate()
report = embed(sys.argv[1], sys.argv[2], model=model, engine="spark", shard_bytes=1_500)
print(report.total_rows, "rows", report.failed)
session.stop()
"""


def test_spark_connect_sends_the_model(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS[:200])
    model = write_tiny_model(tmp_path / "model", seed=4)
    want = embed(source, tmp_path / "want", model=model, shard_bytes=1_500)
    told = run_script(["-c", CONNECT, str(source), str(tmp_path / "out"), str(model)])
    assert "200 rows ()" in told
    (tmp_path / "model-away").rename(model)
    again = embed(source, tmp_path / "out", model=model, shard_bytes=1_500)
    assert again.rows == 0
    assert digests(again) == digests(want)


def test_the_notebook_of_a_managed_service_runs(tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(tmp_path / "a.parquet", [*TEXTS[:50], None])
    notebook = json.loads((CLUSTER / "managed_spark.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    session = "from pyspark.sql import SparkSession\nSparkSession.builder.master('local[1]').getOrCreate()"
    script = tmp_path / "notebook.py"
    script.write_text("\n".join([session, *cells]))
    told = run_script(
        [str(script)],
        SOURCE=str(tmp_path / "*.parquet"),
        TARGET=str(tmp_path / "out"),
        MODEL=str(tiny_folder),
    )
    assert "51 rows, 1 without a text, 0 files failed" in told
    assert "51 rows, 50 vectors" in told


SCRIPT = """
import sys
from quaver import BulkError
from quaver.bulk import embed
try:
    report = embed(sys.argv[1], sys.argv[2], model=sys.argv[3], engine="spark")
    print(report.total_rows, "rows")
except BulkError as error:
    print(error)
"""


def test_executors_have_the_python_of_the_driver(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    other = tmp_path / "bin/python3"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    line = ["-c", SCRIPT, str(source), str(tmp_path / "out"), str(tiny_folder)]
    first = f"{other.parent}:{os.environ['PATH']}"
    assert "20 rows" in run_script(line, python="", PATH=first)


def test_the_reason_of_a_failed_job_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    line = ["-c", SCRIPT, str(source), str(tmp_path / "out"), str(tiny_folder)]
    told = run_script(line, python=str(bare))
    assert "the Spark job failed: ModuleNotFoundError: No module named" in told
    assert "PYSPARK_PYTHON must name a Python with quaver[spark]" in told
