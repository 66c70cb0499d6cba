"""The work on one shard, the same on every engine and for every kind of model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.bulk.kinds import KINDS, Kind, Model
from quaver.bulk.output import Output
from quaver.bulk.place import list_file
from quaver.bulk.shard import Block, Reader, Shard, no_column
from quaver.bulk.target import Record, Settings, Target, to_json
from quaver.errors import (
    BulkError,
    BulkWriteError,
    EngineError,
    InputError,
    ModelFolderError,
    QuaverError,
)
from quaver.models import TokenBatch

TRIES = 3
"""Attempts at a shard whose file or worker fails."""
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before the third."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to embed any shard of a run; small, and can be pickled.

    Attributes:
        target: a path or URI.
        settings: of the target.
        source: the name that loads the model: a hub id, or an absolute path.
        loading: other arguments of `Embedder.from_pretrained`.
        quaver: version of Quaver on the driver.
    """

    target: str
    settings: Settings
    source: str
    loading: Mapping[str, Any] = field(default_factory=dict)
    quaver: str = ""

    def output_of(self, shard: Shard) -> str:
        """Return the name of a shard's output."""
        return f"{shard.name}.{self.settings.format}"

    def load(self, threads: int | None = None) -> Model:
        """Load the model.

        Args:
            threads: of the engine; None uses those of `loading`.

        Returns:
            the model that the driver has.

        Raises:
            ModelNotFoundError: this machine has no such folder.
            ModelFolderError: it has other files.
        """
        loading = dict(self.loading) if threads is None else {**self.loading, "threads": threads}
        model: Model = KINDS[self.settings.kind].load(self.source, loading)
        if model.fingerprint != self.settings.fingerprint:
            raise ModelFolderError(
                f"every worker needs the same model: {self.source} has other files on one of them "
                "than on the driver"
            )
        return model


@dataclass(frozen=True)
class Failed:
    """A shard that could not be embedded.

    Attributes:
        shard: the shard.
        reason: why.
    """

    shard: Shard
    reason: str


Result = Record | Failed
Tick = Callable[[float, int], None]
"""Called with the share of a shard that is embedded, and its rows so far."""


class Worker:
    """Embeds shards with one loaded model."""

    def __init__(self, job: Job, model: Model) -> None:
        """Prepare for a run.

        Args:
            job: the run.
            model: its model, from `Job.load`.
        """
        settings = job.settings
        self._job, self._model = job, model
        self._kind = KINDS[settings.kind](
            model, prompt=settings.prompt, output=settings.output, activation=settings.activation
        )
        self._target = Target(job.target)
        self._read = Reader(settings.column, settings.keep, settings.second, self._kind.rows)

    def __call__(self, shard: Shard, tick: Tick | None = None) -> Result:
        """Embed a shard, unless another attempt has finished it.

        Args:
            shard: the shard.
            tick: called after each block.

        Returns:
            its record, or why it has none.

        Raises:
            BulkWriteError: the target cannot be written, so other shards would fail too.
            QuaverError: the model cannot be used.
        """
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE * attempt)
            try:
                done = self._target.record_of(shard, self._job.output_of(shard))
                return done or self._embed(shard, tick or (lambda share, rows: None))
            except BulkWriteError:
                raise
            except (InputError, EngineError) as error:
                return Failed(shard, str(error))
            except BulkError as error:
                failed = Failed(shard, str(error))
                if not isinstance(error.__cause__, OSError):  # trying again reads the same
                    break
            except QuaverError:
                raise
            except Exception as error:  # noqa: BLE001 - a library may raise anything for a file
                return Failed(
                    shard, f"unexpected {type(error).__name__}: {error}; please report it"
                )
        return failed

    def _embed(self, shard: Shard, tick: Tick) -> Record:
        start = time.monotonic()
        listed = list_file(shard.place)
        if listed is None or (listed.size, listed.modified) != (shard.size, shard.modified):
            raise BulkError(f"{shard.source} changed during the run: run the same command again")
        settings, kind = self._job.settings, self._kind
        name = self._job.output_of(shard)
        output = Output(
            self._target.place / name,
            self._target.aside(name),
            format=settings.format,  # type: ignore[arg-type]
            fields=kind.fields(),
            about={"quaver": to_json(settings)},
        )
        failures: dict[int, str] = {}
        tokens = truncated = 0
        try:
            for block, present, batch in self._tokenized(shard):
                for position, reason in sorted(block.reasons.items()):
                    failures[output.rows + position] = reason
                result = None
                if batch is not None:
                    result = kind.compute(batch)
                    tokens += batch.tokens
                    truncated += batch.truncated
                if settings.format == "npy":
                    output.write_array(kind.array(result, present))
                else:
                    output.write(kind.store(result, present), block.kept)
                tick(block.share, output.rows)
            for column in self._read.texts:  # a row without it is an exception, a file a mistake
                if failures and [*failures.values()] == [no_column(column)] * output.rows:
                    raise InputError(f"no line of {shard.describe()} has the column {column!r}")
            self._target.write_failures(shard, failures)
            output.commit()
        finally:
            output.abandon()
        record = Record(
            output=name,
            **asdict(shard),
            rows=output.rows,
            failed=len(failures),
            tokens=tokens,
            truncated=truncated,
            bytes=output.size,
            sha256=output.sha256,
            fingerprint=settings.fingerprint,
            isa=self._model.isa,
            threads=self._model.threads,
            quaver=self._job.quaver,
            seconds=round(time.monotonic() - start, 3),
            finished=round(time.time(), 3),
        )
        self._target.add(shard, record)
        return record

    def _tokenized(
        self, shard: Shard
    ) -> Iterator[tuple[Block, NDArray[np.bool_], TokenBatch | None]]:
        """Yield blocks, where they have texts, and the tokens; a thread prepares the next one."""
        with ThreadPoolExecutor(1, thread_name_prefix="quaver-bulk") as ahead:
            blocks = self._read(shard)

            def prepare() -> tuple[Block, NDArray[np.bool_], TokenBatch | None] | None:
                block = next(blocks, None)
                return None if block is None else tokenized(self._kind, block)

            coming: Future[Any] = ahead.submit(prepare)
            try:
                while (prepared := coming.result()) is not None:
                    coming = ahead.submit(prepare)
                    yield prepared
            finally:
                ahead.submit(blocks.close).result()  # closes the file in the thread that reads it


def tokenized(kind: Kind, block: Block) -> tuple[Block, NDArray[np.bool_], TokenBatch | None]:
    """Tokenize the texts of a block.

    Args:
        kind: the model.
        block: rows, some of them without a text.

    Returns:
        the block, in which what the model cannot take has a reason instead; bool (N,), whether a row
        has a text; and the tokens of those that have, None without any.
    """
    texts = [text for text in block.texts if text is not None]
    try:
        batch = kind.tokenize(texts) if texts else None
    except InputError:  # find the texts that are invalid, such as a lone surrogate
        reasons, kept = dict(block.reasons), list(block.texts)
        for position, text in enumerate(block.texts):
            if text is None:
                continue
            try:
                kind.tokenize([text])
            except InputError as error:
                reasons[position], kept[position] = f"not a text: {error}", None
        return tokenized(kind, replace(block, texts=kept, reasons=reasons))
    present = np.array([text is not None for text in block.texts], np.bool_)
    return block, present, batch


def is_missing(source: str) -> bool:
    """Whether a model is a folder that this machine does not have; a hub id never is."""
    path = Path(source)
    return path.is_absolute() and not path.is_dir()
