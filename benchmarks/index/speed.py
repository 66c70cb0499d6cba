"""Measure indexing, and the share of the time that the engine is busy.

    python benchmarks/index/speed.py MODEL CORPUS.jsonl ... --texts 10977 --out RESULT.json

The texts (one JSON object with "text" per line) are written as .txt files and indexed with
``Index.update``, so reading, splitting, tokenizing, encoding and storing all count. If there are too few
texts, they are repeated with changes. Two figures show how well these steps overlap:

- busy share: the time inside the engine's native call, divided by the time of the whole update;
- efficiency: the time in which the engine encodes the same number of tokens with nothing else running,
  divided by the time of the whole update. It includes the CPU time that reading and storing take away.

``--keep`` keeps the store, for ``search_speed.py``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from corpus import finish, memory, write_folder
from numpy.typing import NDArray

from quaver import Embedder, Index
from quaver.engine.engine import Engine
from quaver.models.tokenizer import TokenBatch

_AGAIN = 24


class Clock:
    """Measures the time of the engine's native calls.

    Attributes:
        seconds: Spent in native calls.
        batches: The batches that were encoded.
    """

    def __init__(self) -> None:
        """Wrap the engine's encode method."""
        self.seconds = 0.0
        self.batches: list[TokenBatch] = []
        self._encode = Engine.encode

        def timed(engine: Engine, batch: TokenBatch) -> NDArray[np.float32]:
            begin = time.perf_counter()
            vectors = self._encode(engine, batch)
            self.seconds += time.perf_counter() - begin
            self.batches.append(batch)
            return vectors

        Engine.encode = timed  # type: ignore[method-assign]

    def alone(self, engine: Engine) -> float:
        """Estimate the seconds that the engine needs for all batches by itself, from a sample of them."""
        step = max(1, len(self.batches) // _AGAIN)
        sample = self.batches[::step]
        begin = time.perf_counter()
        for batch in sample:
            self._encode(engine, batch)
        share = sum(b.tokens for b in sample) / sum(b.tokens for b in self.batches)
        return (time.perf_counter() - begin) / share


def main() -> None:
    """Read the arguments, measure, and write the results."""
    parser = argparse.ArgumentParser(description="Measure indexing.")
    parser.add_argument("model", help="model folder or hub id")
    parser.add_argument("corpora", type=Path, nargs="+", help=".jsonl files of texts")
    parser.add_argument("--texts", type=int, default=10_000, help="how many texts to index")
    parser.add_argument("--vectors", default="float32", help="float32, int8 or binary")
    parser.add_argument("--keep", type=Path, help="keep the store in this folder")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments = parser.parse_args()
    embedder = Embedder.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "docs"
        write_folder(folder, arguments.corpora, arguments.texts)
        clock = Clock()
        store = arguments.keep or Path(place) / "kb"
        with Index.create(store, embedder, vectors=arguments.vectors) as index:
            report = index.update(folder)
            alone = clock.alone(embedder._engine)
            result: dict[str, Any] = {
                "model": embedder.name,
                "isa": embedder.isa,
                "threads": embedder.threads,
                "texts": arguments.texts,
                "passages": report.added,
                "tokens": sum(batch.tokens for batch in clock.batches),
                "vectors": arguments.vectors,
                "seconds": report.seconds,
                "passages_per_second": report.passages_per_second,
                "engine_busy_share": clock.seconds / report.seconds,
                "efficiency": alone / report.seconds,
                "memory": memory(),
            }
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
