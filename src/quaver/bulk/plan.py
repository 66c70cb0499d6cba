"""Estimate what embedding a corpus takes, from a sample of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quaver.bulk.kinds import KINDS, KindName, kind_and_columns
from quaver.bulk.place import read_many
from quaver.bulk.run import SHARD_BYTES, Source, find_shards
from quaver.bulk.shard import Block, Reader, Shard, Text, file_format, read_footer
from quaver.bulk.worker import tokenized
from quaver.engine import Precision
from quaver.errors import BulkError, check_range

SAMPLE = 2000
"""Rows of a sample."""
_PLACES = 8
"""Shards that a sample is taken from."""


@dataclass(frozen=True)
class BulkPlan:
    """A model of a run, not a measurement of it: the sample stands for the corpus, and cores add up.

    Attributes:
        shards: of the corpus, each one output.
        bytes: of its files.
        rows: estimated; of Parquet files as they say.
        tokens: estimated, after truncation.
        output_bytes: estimated, of the results in float32, without kept columns.
        sampled_rows: rows of the sample.
        sampled_tokens: their tokens.
        tokens_per_second: measured on the sample, on this machine.
        threads: of that measurement.
        kind: "dense", "sparse", "multi-vector" or "scores".
        precision: what was computed in.
    """

    shards: int
    bytes: int
    rows: int
    tokens: int
    output_bytes: int
    sampled_rows: int
    sampled_tokens: int
    tokens_per_second: float
    threads: int
    kind: KindName = "dense"
    precision: Precision = "int8"

    @property
    def core_hours(self) -> float:
        """Hours of one core like those of this machine."""
        return self.tokens / self.tokens_per_second * self.threads / 3600

    def hours(self, cores: int) -> float:
        """Return the hours that cores take together, if each worker has the threads of the measurement.

        Args:
            cores: of all machines.
        """
        return self.core_hours / min(cores, self.shards * self.threads)


def plan(
    source: Source,
    *,
    model: str | os.PathLike[str],
    column: str | None = None,
    kind: KindName | None = None,
    pair_columns: tuple[str, str] | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    precision: Precision = "int8",
    pooling: str | None = None,
    revision: str | None = None,
    max_seq_length: int | None = None,
    threads: int | None = None,
    sample: int = SAMPLE,
    shard_bytes: int = SHARD_BYTES,
) -> BulkPlan:
    """Estimate what `embed` would do, by embedding a sample of the corpus here.

    Args:
        source: as for `embed`.
        model: hub id or folder.
        column: the column with the texts; None is "text".
        kind: as for `embed`.
        pair_columns: as for `embed`.
        prompt: as for `embed`.
        prompt_name: as for `embed`.
        precision: as for `Embedder.from_pretrained`.
        pooling: as for `Embedder.from_pretrained`.
        revision: as for `Embedder.from_pretrained`.
        max_seq_length: as for `Embedder.from_pretrained`.
        threads: of the measurement; None uses the CPUs of this process.
        sample: rows to embed, from the beginnings of up to eight shards, spread over the corpus.
        shard_bytes: as for `embed`.

    Returns:
        the plan.

    Raises:
        InputError: as for `embed`.
        BulkError: there is no file, or no text in the sample.
        ModelError: the model cannot be loaded.
    """
    check_range("sample", sample)
    kind, columns = kind_and_columns(kind, column, pair_columns)
    shards = find_shards(source, columns, (), shard_bytes)
    places = min(_PLACES, len(shards))
    chosen = [shards[(2 * i + 1) * len(shards) // (2 * places)] for i in range(places)]
    read = Reader(columns[0], (), columns[1] if len(columns) == 2 else "")
    texts: list[Text] = []
    rows = 0
    read_bytes = 0.0
    for number, shard in enumerate(chosen):
        found, seen, share = _first(read, shard, (sample - rows) // (len(chosen) - number))
        texts += found
        rows += seen
        read_bytes += share * shard.weight
    if not texts or not read_bytes:
        raise BulkError(f"a plan needs texts: the first rows of {len(chosen)} shards have none")
    loaded = KINDS[kind].load(
        os.fspath(model),
        {
            "precision": precision,
            "pooling": pooling,
            "revision": revision,
            "max_seq_length": max_seq_length,
            "threads": threads,
        },
    )
    made = KINDS[kind](
        loaded,
        prompt=KINDS[kind].prompt_of(loaded, prompt, prompt_name),
        output="float32",
        activation="identity",
    )
    tokens, stored, results, seconds = 0, 0, 0, 0.0
    for begin in range(0, len(texts), made.rows):
        _, _, batch = tokenized(made, Block([*texts[begin : begin + made.rows]], {}, None, 1.0))
        if batch is None:
            continue
        if not tokens:
            made.compute(batch.select(0, 1))  # the first call prepares memory
        start = time.perf_counter()
        result = made.compute(batch)
        seconds += time.perf_counter() - start
        tokens += batch.tokens
        results += len(batch)
        stored += _bytes(made.store(result, np.ones(len(batch), np.bool_)))
    if not tokens:
        raise BulkError(f"a plan needs texts: the model takes none of {len(texts)} in the sample")
    total = sum(shard.weight for shard in shards)
    all_rows = _known_rows(shards) or round(rows * total / read_bytes)
    return BulkPlan(
        shards=len(shards),
        bytes=total,
        rows=all_rows,
        tokens=round(tokens * all_rows / rows),
        output_bytes=round(stored * all_rows / results),
        sampled_rows=rows,
        sampled_tokens=tokens,
        tokens_per_second=tokens / seconds,
        threads=loaded.threads,
        kind=kind,
        precision=loaded.precision,
    )


def _bytes(columns: Sequence[Any]) -> int:
    """Return the bytes of the numbers in columns, without where each row begins."""
    total = 0
    for column in columns:
        while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
            column = column.flatten()
        total += column.nbytes
    return total


def _known_rows(shards: Sequence[Shard]) -> int:
    """Return the rows of a corpus of Parquet files, which say how many they have; 0 for another one."""
    if any(file_format(shard.place.path) != "parquet" for shard in shards):
        return 0
    return sum(read_many(_parquet_rows, shards))


def _parquet_rows(shard: Shard) -> int:
    if shard.last >= 0:
        return shard.last - shard.first
    try:
        rows, _ = read_footer(shard.place)
    except BulkError:
        return 0  # the run leaves it out
    return rows


def _first(read: Reader, shard: Shard, wanted: int) -> tuple[list[Text], int, float]:
    """Return the first texts of a shard, its rows that were read, and their share of it."""
    kept: list[Text] = []
    rows, share = 0, 0.0
    blocks = read(shard)
    try:
        for block in blocks:
            texts = block.texts[: max(wanted - rows, 1)]
            kept += [text for text in texts if text is not None]
            rows += len(texts)
            share += (block.share - share) * len(texts) / max(len(block.texts), 1)
            if rows >= wanted:
                # CSV and compressed files do not say how much of them was read.
                size = sum(len("".join(text).encode(errors="replace")) for text in kept)
                return kept, rows, share or min(1.0, size / max(shard.weight, 1))
    except BulkError:
        return [], 0, 0.0
    finally:
        blocks.close()
    return kept, rows, 1.0
