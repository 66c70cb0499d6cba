"""Embed a corpus: find its shards, leave out the finished ones, and run an engine on the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

from quaver.bulk.driver import only_driver
from quaver.bulk.kinds import DTYPES, KINDS, RESULTS, KindName, Model, kind_and_columns
from quaver.bulk.local import Partly, cpu_groups, run_here, run_processes
from quaver.bulk.output import Format
from quaver.bulk.place import find_files, find_place, identity, read_many
from quaver.bulk.shard import ENDINGS, Reader, Shard, file_format, no_column, split_file
from quaver.bulk.target import VERSION, Record, Settings, Target
from quaver.bulk.worker import Failed, Job
from quaver.engine import Precision
from quaver.errors import BulkError, InputError, check_choice, check_range
from quaver.reranker import CrossEncoder, ScoreActivation

EngineName = Literal["local", "ray", "spark"]
"""Where the work runs."""

SHARD_BYTES = 64 << 20
"""Bytes of a source file in a shard."""

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Files, folders, patterns and URIs."""


@dataclass(frozen=True)
class BulkProgress:
    """The progress of a run.

    Attributes:
        bytes_done: bytes of source files that are embedded, by earlier runs too.
        bytes_total: bytes of all source files.
        bytes_before: bytes that earlier runs embedded.
        rows: rows that this run embedded.
        shards_done: shards that are finished.
        shards: all shards.
    """

    bytes_done: int
    bytes_total: int
    bytes_before: int
    rows: int
    shards_done: int
    shards: int


@dataclass(frozen=True)
class BulkReport:
    """What a run did.

    Attributes:
        target: the folder of the outputs.
        records: of all finished shards of the source, in the order of its files.
        before: how many of them earlier runs finished.
        failed: shards that could not be embedded, with reasons; the next run tries them again.
        seconds: of this run, without loading the model on the driver.
        rows: rows that this run embedded.
        tokens: tokens of these rows.
        core_seconds: seconds of each shard of this run, times the threads of its worker.
    """

    target: str
    records: tuple[Record, ...]
    before: int
    failed: tuple[tuple[str, str], ...]
    seconds: float
    rows: int
    tokens: int
    core_seconds: float

    @property
    def total_rows(self) -> int:
        """Rows of all outputs of the source."""
        return sum(record.rows for record in self.records)

    @property
    def failed_rows(self) -> int:
        """Rows of all outputs that have no vector."""
        return sum(record.failed for record in self.records)

    @property
    def truncated(self) -> int:
        """Texts of all outputs that were longer than the model allows."""
        return sum(record.truncated for record in self.records)

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """Those that computed the vectors; with several the same text may differ in its last bits."""
        return tuple(sorted({record.isa for record in self.records}))


def embed(
    source: Source,
    target: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str],
    column: str | None = None,
    keep: Sequence[str] = (),
    kind: KindName | None = None,
    pair_columns: tuple[str, str] | None = None,
    activation: ScoreActivation | None = None,
    engine: EngineName = "local",
    format: Format = "parquet",
    output: str = "float32",
    prompt: str | None = None,
    prompt_name: str | None = None,
    precision: Precision = "int8",
    pooling: str | None = None,
    revision: str | None = None,
    max_seq_length: int | None = None,
    truncate_dim: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    isa: str | None = None,
    local_files_only: bool = False,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[BulkProgress], None] | None = None,
) -> BulkReport:
    """Embed the texts of files into a folder of vectors; run it again to continue or to add files.

        quaver.bulk.embed("s3://corpus/*.parquet", "s3://vectors/", model="BAAI/bge-small-en-v1.5",
                          keep=["id"], engine="ray")

    A part of a file (a shard) becomes one output, with a row for each of its rows in the same order. A row
    without a text has no vector: null in Parquet, NaN or zeros in .npy; the target says why. A finished
    shard is left out at the next run, and made again if its file changed. The vectors are the same bits as
    those of `Embedder.encode`, on any engine. A target has one driver at a time; another is refused.

    Args:
        source: files, folders or patterns such as "data/**/*.parquet", local or by URI: Parquet, JSON
            lines, CSV, Arrow or text, a text a line.
        target: folder of the outputs, local or by URI; made if it does not exist.
        model: hub id or folder. Machines of a cluster that do not have the folder are sent its files.
        column: the column with the texts; None is "text".
        keep: columns to carry along. From JSON lines and CSV they become strings.
        kind: "dense", the default: a vector for a text; "sparse": weights of words, from a
            `SparseEncoder`; "multi-vector": a vector for each token, from a `MultiVectorEncoder`;
            "scores", which pair_columns implies: the scores of a `CrossEncoder`.
        pair_columns: the columns of two texts, query and document, to score instead of `column`.
        activation: of scores: "sigmoid", "identity" for the plain scores, or None for the model's own.
        engine: "local", "ray" or "spark".
        format: "parquet", or "npy" for one array for each shard.
        output: "float32", "float16", "int8" or "binary"; weights of words have the first two, scores
            the first.
        prompt: text before every text; None with prompt_name None uses the model's document prompt,
            and for pairs its default prompt.
        prompt_name: the name of one of the model's prompts.
        precision: as for `Embedder.from_pretrained`.
        pooling: as for `Embedder.from_pretrained`.
        revision: as for `Embedder.from_pretrained`.
        max_seq_length: as for `Embedder.from_pretrained`.
        truncate_dim: as for `Embedder.from_pretrained`.
        workers: processes or actors, each with a model; None uses one for each NUMA node, or as many as
            the cluster has room for. Spark decides by its executors.
        threads: of each worker; None uses the CPUs it has.
        isa: force an instruction set, such as the one that all machines of a cluster have.
        local_files_only: never look for the model on the hub.
        shard_bytes: bytes of a source file in a shard.
        on_progress: called from time to time.

    Returns:
        the report. Shards that failed are in it: they raise no error.

    Raises:
        InputError: an argument is invalid, a column is missing or not text, or a file's format is unknown.
        BulkError: there is no file, the target was made with another model or other options, or another
            process works on it.
        BulkWriteError: the target cannot be written.
        ModelError: the model cannot be loaded, here or by a worker.
        ImportError: an extra is missing.
    """
    if not os.fspath(target):
        raise InputError(
            "target must name a folder or URI: got ''; for the current folder it is '.'"
        )
    check_choice("engine", engine, ("local", "ray", "spark"))
    check_choice("format", format, ("parquet", "npy"))
    check_choice("output", output, DTYPES)
    check_range("shard_bytes", shard_bytes)
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None:
            check_range(name, number)
    kind, texts = kind_and_columns(kind, column, pair_columns, activation)
    results = KINDS[kind].columns
    if isinstance(keep, str) or len(set(keep)) < len(keep):
        raise InputError(f"keep must be a list of different columns: got {keep!r}; name each once")
    if taken := [name for name in keep if name in results]:
        raise InputError(
            f"keep must be a list of different columns, without {' and '.join(results)}, which the results "
            f"are called: got {taken[0]!r}; rename it in the source"
        )
    if output not in KINDS[kind].outputs:
        raise InputError(
            f"{RESULTS[kind]} are stored as {' or '.join(KINDS[kind].outputs)}: got {output!r}"
        )
    if format not in KINDS[kind].formats:
        raise InputError(
            f"{RESULTS[kind]} are of different lengths, and an array is not: use parquet"
        )
    if keep and format == "npy":
        raise InputError("an array has no other columns: keep needs format='parquet'")
    shards = find_shards(source, texts, keep, shard_bytes, target)
    loading: dict[str, Any] = {
        "precision": precision,
        "revision": revision,
        "pooling": pooling,
        "isa": isa,
        "max_seq_length": max_seq_length,
        "truncate_dim": truncate_dim,
        "local_files_only": local_files_only,
    }
    groups = cpu_groups(workers) if engine == "local" else []
    here = threads if len(groups) == 1 else 1  # other processes do the work
    loaded: Model = KINDS[kind].load(os.fspath(model), {**loading, "threads": here})
    settings = Settings(
        version=VERSION,
        model=loaded.name,
        fingerprint=loaded.fingerprint,
        precision=loaded.precision,
        max_seq_length=loaded.max_seq_length,
        prompt=KINDS[kind].prompt_of(loaded, prompt, prompt_name),
        dimension=KINDS[kind].dimension(loaded),
        output=output,
        format=format,
        column=texts[0],
        keep=tuple(keep),
        shard_bytes=shard_bytes,
        kind=kind,
        second=texts[1] if len(texts) == 2 else "",
        activation=(activation or loaded.activation) if isinstance(loaded, CrossEncoder) else "",
    )
    name = os.fspath(target)
    job = Job(
        target=name if "://" in name else os.path.abspath(os.path.expanduser(name)),  # noqa: PTH100, PTH111
        settings=settings,
        source=loaded.source,
        loading={**loading, "threads": 1},
        quaver=metadata.version("quaver"),
    )
    folder = Target(job.target)
    with only_driver(folder.place) as check:
        job = replace(job, settings=folder.adopt(job.settings))
        done = folder.compact()
        shards = _as_known(shards, done)
        _drop_stale(folder, shards, done)
        left = [s for s in shards if not _is_done(done, job, s)]
        progress = _Progress(shards, left, on_progress or (lambda progress: None))
        start = time.monotonic()
        failed: list[tuple[str, str]] = []
        tokens = rows = 0
        core_seconds = 0.0
        if left:
            answers = _engine(job, left, loaded, engine, groups, workers, threads, progress.partly)
            try:
                for result in answers:
                    check()
                    if isinstance(result, Failed):
                        failed.append((result.shard.describe(), result.reason))
                        progress.finish(result.shard, 0)
                        continue
                    tokens, rows = tokens + result.tokens, rows + result.rows
                    core_seconds += result.seconds * result.threads
                    name = result.output.rpartition(".")[0]
                    progress.finish(progress.by_output[name], result.rows)
            finally:
                answers.close()
        seconds = time.monotonic() - start
        check()
        finished = folder.compact() if left else done
    records = [finished[name] for name in map(job.output_of, shards) if name in finished]
    return BulkReport(
        target=job.target,
        records=tuple(records),
        before=len(shards) - len(left),
        failed=tuple(failed),
        seconds=seconds,
        rows=rows,
        tokens=tokens,
        core_seconds=core_seconds,
    )


def find_shards(
    source: Source,
    texts: Sequence[str],
    keep: Sequence[str],
    shard_bytes: int,
    target: str | os.PathLike[str] | None = None,
) -> list[Shard]:
    """Find the shards of a source, and check the columns of the first file that can be read.

    Args:
        source: as for `embed`.
        texts: the column with the texts, or two with the texts of pairs.
        keep: other columns.
        shard_bytes: as for `embed`.
        target: a folder whose files are left out, if it is in the source.

    Returns:
        the shards in order, at least one.

    Raises:
        InputError: a column is missing or not text, or a file's format is unknown.
        BulkError: there is no such file.
    """
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if not sources:
        raise InputError("source must name a file, a folder or a pattern: got none")
    files = find_files([os.fspath(name) for name in sources], ENDINGS)
    if target is not None:
        own = f"{identity(find_place(target).name).rstrip('/')}/"
        files = [file for file in files if not identity(file.place.name).startswith(own)]
    if not files:
        raise BulkError("there is no file in the source but the outputs in the target")
    split = read_many(lambda file: split_file(file, shard_bytes), files)
    shards = [shard for parts in split for shard in parts]
    read = Reader(texts[0], keep, texts[1] if len(texts) == 2 else "")
    absent: frozenset[str] | None = None
    for shard in shards[:_CHECKED]:
        blocks = read(shard)
        try:
            block = next(blocks, None)
        except InputError:
            raise
        except Exception:  # noqa: BLE001 - the run reports whatever it is, and embeds the others
            continue
        finally:
            blocks.close()
        if block is None or not block.texts:
            continue
        lines = file_format(shard.place.path) == "jsonl"
        for column in texts:
            missing = no_column(column)
            if (
                lines
                and absent is None
                and all(block.reasons.get(i) == missing for i in range(len(block.texts)))
            ):
                raise InputError(
                    f"there is no column {column!r} in the first lines of {shard.source}"
                )
        here = block.absent if lines else frozenset()
        absent = here if absent is None else absent & here
        if not absent:
            return shards
    if absent:
        raise InputError(
            f"a kept column must be in the first lines of a file: {min(absent)!r} is in none that was "
            f"looked at, such as {shards[0].source}; if few rows have it, write it as null in the first"
        )
    return shards


_CHECKED = 10
"""Shards whose columns are looked at before the work begins."""


def _is_done(done: dict[str, Record], job: Job, shard: Shard) -> bool:
    record = done.get(job.output_of(shard))
    return record is not None and record.is_of(shard)


def _as_known(shards: Sequence[Shard], done: dict[str, Record]) -> list[Shard]:
    """Return the shards with the names by which the target has their files, so that none is there twice."""
    names: dict[str, str] = {}
    for source, name in dict.fromkeys((r.source, r.known_as or r.source) for r in done.values()):
        names.setdefault(identity(source), name)
    known = []
    for shard in shards:
        name = names.get(identity(shard.source), shard.source)
        known.append(shard if name == shard.source else replace(shard, known_as=name))
    return known


def _drop_stale(target: Target, shards: Sequence[Shard], done: dict[str, Record]) -> None:
    """Delete the outputs of files that changed: their rows would be there twice, or wrong."""
    now = {shard.name: shard for shard in shards}
    sources = {shard.known_as or shard.source for shard in shards}
    stale = [
        record
        for record in done.values()
        if (record.known_as or record.source) in sources
        and not ((shard := now.get(record.output.rpartition(".")[0])) and record.is_of(shard))
    ]
    target.drop(stale)
    for record in stale:
        del done[record.output]


def _engine(
    job: Job,
    shards: Sequence[Shard],
    model: Model,
    engine: EngineName,
    groups: Sequence[Sequence[int]],
    workers: int | None,
    threads: int | None,
    partly: Partly,
) -> Any:
    if engine == "ray":
        from quaver.bulk.ray import run_on_ray

        return run_on_ray(job, shards, workers=workers, threads=threads)
    if engine == "spark":
        from quaver.bulk.spark import run_on_spark

        return run_on_spark(job, shards, threads=threads)
    if len(groups) == 1:
        return run_here(job, shards, model, partly)
    if threads is not None:
        groups = [group[:threads] for group in groups]
    return run_processes(job, shards, groups, partly)


class _Progress:
    """Adds up what shards report."""

    def __init__(
        self, shards: Sequence[Shard], left: Sequence[Shard], report: Callable[[BulkProgress], None]
    ) -> None:
        self.by_output = {shard.name: shard for shard in left}
        self._report, self._shards = report, len(shards)
        self._total = sum(shard.weight for shard in shards)
        self._before = self._total - sum(shard.weight for shard in left)
        self._done, self._rows = self._before, 0
        self._finished = len(shards) - len(left)
        self._partly: dict[str, tuple[float, int]] = {}

    def partly(self, shard: Shard, share: float, rows: int) -> None:
        self._partly[shard.name] = share * shard.weight, rows
        self._tell()

    def finish(self, shard: Shard, rows: int) -> None:
        self._partly.pop(shard.name, None)
        self._done += shard.weight
        self._rows += rows
        self._finished += 1
        self._tell()

    def _tell(self) -> None:
        self._report(
            BulkProgress(
                bytes_done=self._done + int(sum(done for done, _ in self._partly.values())),
                bytes_total=self._total,
                bytes_before=self._before,
                rows=self._rows + sum(rows for _, rows in self._partly.values()),
                shards_done=self._finished,
                shards=self._shards,
            )
        )
