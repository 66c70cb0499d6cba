"""How fast a folder becomes an index and a question finds its passages, and in how much memory.

    python benchmarks/index/speed.py MODEL CORPUS.jsonl --texts 50000 --vectors int8 --out RESULT.json

The corpus (one JSON object with "text" a line) is written as a folder of .txt files and indexed by
``Index.update``, so that reading, splitting, encoding and storing all count; where it has too few
texts, they are repeated with changes. Questions are eight words in a row of some text.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from quaver import Embedder, Index
from quaver.embedder import EncodeReport

K = 10
WORDS = 8


class Clocked(Embedder):
    """A model that knows how long it worked while an index was made."""

    busy = 0.0

    def encode_with_report(self, *args: Any, **options: Any) -> EncodeReport:
        """Encodes, and takes the time."""
        begin = time.perf_counter()
        try:
            return super().encode_with_report(*args, **options)
        finally:
            self.busy += time.perf_counter() - begin


def texts(corpus: Path) -> Iterator[str]:
    """Yields the texts of a corpus, then again and again with changes."""
    for turn in count():
        with corpus.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                text = json.loads(line)["text"]
                yield text if turn == 0 else f"Copy {turn} of text {number}. {text}"


def write_folder(folder: Path, corpus: Path, number: int) -> list[str]:
    """Writes texts as files, a thousand to a folder; returns some of them to ask about."""
    sample = []
    for i, text in enumerate(islice(texts(corpus), number)):
        path = folder / f"{i // 1000}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if i < 5000:
            sample.append(text)
    return sample


def questions(sample: list[str], number: int) -> list[str]:
    """Returns words in a row of some of the texts."""
    chance = random.Random(5)
    found = []
    while len(found) < number:
        words = chance.choice(sample).split()
        if len(words) >= WORDS:
            first = chance.randrange(len(words) - WORDS + 1)
            found.append(" ".join(words[first : first + WORDS]))
    return found


def memory() -> dict[str, float]:
    """Returns megabytes: the most that was resident, and what is the process's own now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    own = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb": peak / 1024, "anonymous_mb": int(own) / 1024}


def latencies(index: Index, asked: list[str]) -> dict[str, dict[str, float]]:
    """Returns milliseconds from text to hits, by mode."""
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


def recall(index: Index, asked: list[str]) -> float:
    """Returns which share of the exactly nearest K the store finds."""
    rows = [row for row in index.store.scan(with_vectors=True) if row.vector is not None]
    matrix = np.stack([row.vector for row in rows if row.vector is not None])
    shares = []
    for question in asked:
        scores = matrix @ index.embedder.encode_query(question)
        exact = {rows[i].passage.id for i in np.argsort(-scores)[:K]}
        hits = index.search(question, k=K, mode="dense")
        shares.append(len(exact & {hit.id for hit in hits}) / len(exact))
    return statistics.mean(shares)


def main() -> None:
    """Reads the arguments, measures, and writes the results."""
    parser = argparse.ArgumentParser(description="Measure indexing, searching and memory.")
    parser.add_argument("model", help="model folder or hub id")
    parser.add_argument("corpus", type=Path, help="a .jsonl file of texts")
    parser.add_argument("--texts", type=int, default=10_000, help="how many texts to index")
    parser.add_argument("--vectors", default="float32", help="float32, int8 or binary")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--no-recall", action="store_true", help="leave out the exact comparison")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments = parser.parse_args()
    embedder = Clocked.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "docs"
        asked = questions(
            write_folder(folder, arguments.corpus, arguments.texts), arguments.questions
        )
        with Index.create(Path(place) / "kb", embedder, vectors=arguments.vectors) as index:
            report = index.update(folder)
            result: dict[str, Any] = {
                "model": embedder.name,
                "texts": arguments.texts,
                "passages": report.added,
                "vectors": arguments.vectors,
                "seconds": report.seconds,
                "passages_per_second": report.passages_per_second,
                "engine_busy_share": embedder.busy / report.seconds,
                "indexing": memory(),
            }
        with Index.open(Path(place) / "kb", embedder) as index:
            index.search(asked[0])
            result["search"] = latencies(index, asked)
            result["searching"] = memory()
            if not arguments.no_recall:
                result["recall_at_10"] = recall(index, asked[:200])
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
