"""The engine on Spark: a partition for each shard, through mapInArrow, in classic sessions and those of Connect."""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quaver.bulk.shard import Shard
from quaver.bulk.worker import Job, Result, Worker, is_missing
from quaver.errors import BulkError, ModelNotFoundError, QuaverError, needs_extra
from quaver.models import needed_files

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

    Spark decides where a shard is embedded, and tries it again on another executor if one is lost. A model
    in a folder that executors do not have goes there as an archive of the job.

    Args:
        job: the run.
        shards: in the order of the work.
        threads: of each task; None uses spark.task.cpus.

    Yields:
        the result of each shard, when the job has ended.

    Raises:
        ModelFolderError: an executor has another model under the same path.
        BulkError: the job failed.
        QuaverError: a task failed with it.
    """
    session = SparkSession.getActiveSession() or _new_session()
    cores = threads or int(session.conf.get("spark.task.cpus", "1") or 1)
    everything = list(shards)
    archive: str | None = None

    def look(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            yield _answers([is_missing(job.source)] * batch.num_rows)

    def embed(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                try:
                    yield _answers([_worker(_job_here(job, archive), cores)(everything[number])])
                except QuaverError as error:
                    yield _answers([error])

    tasks = len(everything)
    if any(_collect(session, min(tasks, _LOOKS), look)):
        archive = ship(session, job)
    answers = _collect(session, tasks, embed)
    lacks = any(isinstance(answer, ModelNotFoundError) for answer in answers)
    if lacks and archive is None and Path(job.source).is_absolute():
        archive = ship(session, job)  # an executor that did not look does not have the model
        answers = _collect(session, tasks, embed)
    for answer in answers:
        if isinstance(answer, QuaverError):
            raise answer
        yield answer


def ship(session: Any, job: Job) -> str:
    """Add the model's folder to the files that Spark takes to every executor, as a zip file.

    Args:
        session: of Spark.
        job: the run; its model is a folder here.

    Returns:
        the name of the file, which is that of a folder in `SparkFiles` on executors.
    """
    folder = Path(job.source)
    place = Path(tempfile.mkdtemp(prefix="quaver-"))
    # Executors that are started later fetch it from here, too.
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    archive = place / f"quaver-{uuid.uuid4().hex}.zip"  # executors have one file of a name
    try:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for path in needed_files(folder):
                packed.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    except OSError as error:
        raise BulkError(
            f"cannot pack the model for executors that do not have it: {archive}: {error.strerror}; put it into a "
            "folder that every executor sees under the same path, or give a hub id"
        ) from error
    try:
        context = session.sparkContext
    except PySparkException:  # Spark Connect has none
        session.addArtifacts(str(archive), archive=True)
    else:
        context.addArchive(str(archive))
    return archive.name


def _job_here(job: Job, archive: str | None) -> Job:
    """Return the job with the model's folder as this executor has it."""
    if archive is None or not is_missing(job.source):
        return job
    from pyspark import SparkFiles

    return replace(job, source=SparkFiles.get(f"{archive}/{Path(job.source).name}"))


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
