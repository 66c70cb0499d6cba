"""Estimate what embedding a corpus takes, from a sample of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from quaver.bulk.place import reading
from quaver.bulk.run import SHARD_BYTES, Source, find_shards
from quaver.bulk.shard import Reader, Shard, file_format
from quaver.embedder import Embedder, encode_tokenized, tokenize_documents
from quaver.errors import BulkError, check_range, needs_extra

with needs_extra("bulk"):
    from pyarrow import parquet

SAMPLE = 2000
"""Rows of a sample."""
_PLACES = 8
"""Shards that a sample is taken from."""
_READERS = 16
"""Files opened at a time."""


@dataclass(frozen=True)
class BulkPlan:
    """A model of a run, not a measurement of it: the sample stands for the corpus, and cores add up.

    Attributes:
        shards: of the corpus, each one output.
        bytes: of its files.
        rows: estimated; of Parquet files as they say.
        tokens: estimated, after truncation.
        output_bytes: estimated, of float32 vectors.
        sampled_rows: rows of the sample.
        sampled_tokens: their tokens.
        tokens_per_second: measured on the sample, on this machine.
        threads: of that measurement.
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
    column: str = "text",
    threads: int | None = None,
    sample: int = SAMPLE,
    shard_bytes: int = SHARD_BYTES,
) -> BulkPlan:
    """Estimate what `embed` would do, by embedding a sample of the corpus here.

    Args:
        source: as for `embed`.
        model: hub id or folder.
        column: the column with the texts.
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
    shards = find_shards(source, (column,), (), shard_bytes)
    places = min(_PLACES, len(shards))
    chosen = [shards[(2 * i + 1) * len(shards) // (2 * places)] for i in range(places)]
    texts: list[str] = []
    rows = 0
    read_bytes = 0.0
    for number, shard in enumerate(chosen):
        found, seen, share = _first(shard, column, (sample - rows) // (len(chosen) - number))
        texts += found
        rows += seen
        read_bytes += share * shard.weight
    if not texts or not read_bytes:
        raise BulkError(f"a plan needs texts: the first rows of {len(chosen)} shards have none")
    embedder = Embedder.from_pretrained(os.fspath(model), threads=threads)
    tokens = tokenize_documents(embedder, texts)
    encode_tokenized(embedder, tokens.select(0, 1))  # the first call prepares memory
    start = time.perf_counter()
    encode_tokenized(embedder, tokens)
    seconds = time.perf_counter() - start
    total = sum(shard.weight for shard in shards)
    all_rows = _known_rows(shards) or round(rows * total / read_bytes)
    return BulkPlan(
        shards=len(shards),
        bytes=total,
        rows=all_rows,
        tokens=round(tokens.tokens * all_rows / rows),
        output_bytes=all_rows * embedder.dimension * 4,
        sampled_rows=rows,
        sampled_tokens=tokens.tokens,
        tokens_per_second=tokens.tokens / seconds,
        threads=embedder.threads,
    )


def _known_rows(shards: Sequence[Shard]) -> int:
    """Return the rows of a corpus of Parquet files, which say how many they have; 0 for another one."""
    if any(file_format(shard.place.path) != "parquet" for shard in shards):
        return 0
    with ThreadPoolExecutor(_READERS) as readers:
        return sum(readers.map(_parquet_rows, shards))


def _parquet_rows(shard: Shard) -> int:
    if shard.last >= 0:
        return shard.last - shard.first
    place = shard.place
    try:
        with reading(place), place.filesystem.open_input_file(place.path) as stream:
            return int(parquet.read_metadata(stream).num_rows)
    except BulkError:
        return 0  # the run leaves it out


def _first(shard: Shard, column: str, wanted: int) -> tuple[list[str], int, float]:
    """Return the first texts of a shard, its rows that were read, and their share of it."""
    kept: list[str] = []
    rows, share = 0, 0.0
    blocks = Reader(column, ())(shard)
    try:
        for block in blocks:
            texts = block.texts[: max(wanted - rows, 1)]
            kept += [text for text in texts if isinstance(text, str)]
            rows += len(texts)
            share += (block.share - share) * len(texts) / max(len(block.texts), 1)
            if rows >= wanted:
                # CSV and compressed files do not say how much of them was read.
                size = sum(len(text.encode(errors="replace")) for text in kept)
                return kept, rows, share or min(1.0, size / max(shard.weight, 1))
    except BulkError:
        return [], 0, 0.0
    finally:
        blocks.close()
    return kept, rows, 1.0
