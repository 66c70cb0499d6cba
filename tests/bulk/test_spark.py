"""The Spark engine with executors in processes of their own; `make test-bulk` installs Spark."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_bulk import TEXTS, digests, write_corpus

from quaver.bulk import embed

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
