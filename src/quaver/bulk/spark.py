"""The engine on Spark: a partition for each shard, through mapInArrow; tested with classic sessions alone."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from quaver.bulk.shard import Shard
from quaver.bulk.worker import Job, Result, Worker, is_missing
from quaver.errors import BulkError, ModelNotFoundError, QuaverError, needs_extra

with needs_extra("spark"):
    import pyarrow as pa
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

_WORKERS: dict[str, Worker] = {}
"""The model of this Python process, which Spark keeps from task to task."""


_LOOKS = 8
"""Tasks that look for the model's folder before the job."""


def run_on_spark(
    job: Job, shards: Sequence[Shard], *, threads: int | None
) -> Generator[Result, None, None]:
    """Embed shards in one job of the active Spark session, or of a new one.

    Spark decides where a shard is embedded, and tries it again on another executor if one is lost.

    Args:
        job: the run.
        shards: in the order of the work.
        threads: of each task; None uses spark.task.cpus.

    Yields:
        the result of each shard, when the job has ended.

    Raises:
        ModelNotFoundError: an executor does not have the model's folder.
        BulkError: the job failed.
        QuaverError: a task failed with it.
    """
    session = SparkSession.getActiveSession() or _new_session()
    cores = threads or int(session.conf.get("spark.task.cpus", "1") or 1)
    everything = list(shards)

    def look(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            yield _answers([is_missing(job.source)] * batch.num_rows)

    def embed(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                try:
                    yield _answers([_worker(job, cores)(everything[number])])
                except QuaverError as error:
                    yield _answers([error])

    tasks = len(everything)
    if any(_collect(session, min(tasks, _LOOKS), look)):
        raise ModelNotFoundError(
            f"every executor needs the model under the same path: there is no folder {job.source} on "
            "one of them; use a shared folder or a hub id"
        )
    for answer in _collect(session, tasks, embed):
        if isinstance(answer, QuaverError):
            raise answer
        yield answer


def _collect(session: Any, tasks: int, function: Any) -> list[Any]:
    try:
        numbers = session.range(0, tasks, 1, tasks)
        rows = numbers.mapInArrow(function, "answer binary").collect()
    except PySparkException as error:
        raise BulkError(f"the Spark job failed: {_reason(str(error))}") from error
    return [pickle.loads(row.answer) for row in rows]


def _new_session() -> Any:
    # Spark's default is the first python3 in PATH, which may have no Quaver.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return SparkSession.builder.getOrCreate()


def _reason(text: str) -> str:
    """Return the Python exception of a failed job, or the first line if it has none."""
    lines = [line for line in text.splitlines() if line.strip()]
    begins = [i for i, line in enumerate(lines) if line.endswith("(most recent call last):")]
    after = lines[begins[-1] + 1 :] if begins else lines
    reason = next((line for line in after if not line[0].isspace()), lines[0] if lines else "")
    if reason.startswith("ModuleNotFoundError"):
        reason += (
            "; PYSPARK_PYTHON must name a Python with quaver[spark], under the same path everywhere"
        )
    return reason[:500]


def _answers(values: Sequence[Any]) -> Any:
    return pa.RecordBatch.from_pydict({"answer": [pickle.dumps(value) for value in values]})


def _worker(job: Job, threads: int) -> Worker:
    key = repr((job, threads))
    if key not in _WORKERS:
        _WORKERS.clear()
        _WORKERS[key] = Worker(job, job.load(threads))
    return _WORKERS[key]
