"""Measure searches: time, recall and memory.

    python benchmarks/index/speed.py MODEL CORPUS.jsonl ... --texts 22977 --keep kb
    python benchmarks/index/search_speed.py kb CORPUS.jsonl ... --out RESULT.json

Questions are eight consecutive words of a text. Times are from text to hits: encoding the question,
searching, and reading the passages. Memory is measured twice: when the store has just been opened, and
after the questions, when the pages that they used are mapped too. Recall is measured against the exact
order of all float32 vectors. To get the same store with smaller vectors: ``quaver export kb
kb.parquet`` and ``quaver import kb-int8 kb.parquet --vectors int8``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from corpus import finish, memory, questions

from quaver import Embedder, Index

K = 10
BLOCK = 4096
"""Vectors that are compared exactly at a time."""


def latencies(index: Index, asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the milliseconds from text to hits by mode: by the clock, and of the CPU."""
    found = {}
    for mode in ("dense", "bm25", "hybrid"):
        walls, cpus = [], []
        for question in asked:
            wall, cpu = time.perf_counter(), time.process_time()
            index.search(question, k=K, mode=mode)  # type: ignore[arg-type]
            walls.append(1000 * (time.perf_counter() - wall))
            cpus.append(1000 * (time.process_time() - cpu))
        cuts = statistics.quantiles(walls, n=100)
        found[mode] = {
            "p50_ms": cuts[49],
            "p99_ms": cuts[98],
            "cpu_p50_ms": statistics.median(cpus),
        }
    return found


def encoding(embedder: Embedder, asked: list[str]) -> float:
    """Return the median milliseconds of encoding a question."""
    times = []
    for question in asked:
        begin = time.perf_counter()
        embedder.encode_query(question)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def recall(index: Index, asked: Sequence[str]) -> float:
    """Return the share of the K nearest vectors that the store finds.

    A repeated text has the same score twice, and either is correct: a hit counts if its score is among the K
    best. Vectors are read in blocks, because a large store's do not fit in memory.
    """
    queries = np.stack([index.embedder.encode_query(question) for question in asked])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.full((K, len(asked)), -np.inf, np.float32)
    stored = index.store.scan(with_vectors=True)
    while block := list(islice(stored, BLOCK)):
        matrix = np.stack([row.vector for row in block if row.vector is not None])
        best = np.partition(np.concatenate([best, matrix @ queries.T]), -K, axis=0)[-K:]
    found = 0
    for question, least in zip(asked, (best.min(axis=0) - 1e-6).tolist(), strict=True):
        hits = index.search(question, k=K, mode="dense")
        found += sum(hit.score >= least for hit in hits)
    return found / (K * len(asked))


def main() -> None:
    """Read the arguments, measure, and write the results."""
    parser = argparse.ArgumentParser(description="Measure searching.")
    parser.add_argument("store", help="the store")
    parser.add_argument("corpora", type=Path, nargs="+", help=".jsonl files of its texts")
    parser.add_argument("--model", help="the store's model, if it has moved")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--no-recall", action="store_true", help="leave out the exact comparison")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments = parser.parse_args()
    model = Embedder.from_pretrained(arguments.model) if arguments.model else None
    asked = questions(arguments.corpora, arguments.questions)
    with Index.open(arguments.store, model) as index:
        embedder, manifest = index.embedder, index.store.manifest
        opened = memory()
        for question in asked[:20]:
            index.search(question)
        result: dict[str, Any] = {
            "model": embedder.name,
            "isa": embedder.isa,
            "threads": embedder.threads,
            "passages": index.store.count(),
            "vectors": manifest.vectors,
            "questions": len(asked),
            "encoding_ms": encoding(embedder, asked),
            "search": latencies(index, asked),
            "memory_opened": opened,
            "memory_after_questions": memory(),
        }
        if not arguments.no_recall:
            result["recall_at_10"] = recall(index, asked[:200])
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
