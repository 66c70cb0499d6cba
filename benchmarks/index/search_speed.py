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
from pathlib import Path
from typing import Any

import numpy as np
from corpus import finish, memory, questions

from quaver import Embedder, Index

K = 10


def latencies(index: Index, asked: list[str]) -> dict[str, dict[str, float]]:
    """Return the milliseconds from text to hits by mode."""
    found = {}
    for mode in ("dense", "bm25", "hybrid"):
        times = []
        for question in asked:
            begin = time.perf_counter()
            index.search(question, k=K, mode=mode)  # type: ignore[arg-type]
            times.append((time.perf_counter() - begin) * 1000)
        cuts = statistics.quantiles(times, n=100)
        found[mode] = {"p50_ms": cuts[49], "p99_ms": cuts[98]}
    return found


def encoding(embedder: Embedder, asked: list[str]) -> float:
    """Return the median milliseconds of encoding a question."""
    times = []
    for question in asked:
        begin = time.perf_counter()
        embedder.encode_query(question)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def recall(index: Index, asked: list[str]) -> float:
    """Return the share of the K nearest vectors that the store finds."""
    rows = [row for row in index.store.scan(with_vectors=True) if row.vector is not None]
    matrix = np.stack([row.vector for row in rows if row.vector is not None])
    shares = []
    for question in asked:
        scores = matrix @ index.embedder.encode_query(question)
        # A repeated text has the same score twice; either is correct.
        least = np.sort(scores)[-K] - 1e-6
        nearest = {rows[i].passage.id for i in np.flatnonzero(scores >= least)}
        hits = index.search(question, k=K, mode="dense")
        shares.append(len(nearest & {hit.id for hit in hits}) / K)
    return statistics.mean(shares)


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
