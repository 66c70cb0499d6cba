"""What scoring documents by MaxSim takes in CPU time, beside encoding the query.

    python benchmarks/max_sim.py [MODEL]

50 documents of 128 tokens and a query of 32, on one thread of BLAS unless OPENBLAS_NUM_THREADS says otherwise: the
NumPy form of `MultiVectorEncoder.similarity` on float32, int8 and binary vectors, and the product of the matrices
alone. With a model also the time in which the engine encodes such a query.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import quaver
from quaver.engine import convert
from quaver.multi_vector_encoder import TokenVectors, max_sim

DOCUMENTS, TOKENS, QUERY = 50, 128, 32


def milliseconds(run: Callable[[], object]) -> float:
    """Return the least CPU time of 100 runs: others may use the machine."""
    times = []
    for _ in range(100):
        start = time.process_time()
        run()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="folder or hub id of a multi-vector model")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    offsets = np.arange(0, DOCUMENTS * TOKENS + 1, TOKENS)
    for dimension in (96, 128):
        drawn = [
            rng.standard_normal((n, dimension)).astype(np.float32) for n in (offsets[-1], QUERY)
        ]
        vectors, query = (convert(each, normalize=True, output="float32") for each in drawn)
        print(
            f"D={dimension}: product alone {milliseconds(partial(np.matmul, vectors, query.T)):.2f} ms",
            end="",
        )
        for output in ("float32", "int8", "binary"):
            documents = TokenVectors(convert(vectors, normalize=False, output=output), offsets)
            took = milliseconds(partial(max_sim, query, documents, dimension, mean=False))
            print(f", {output} {took:.2f} ms", end="")
        print()
    if chosen.model:
        model = quaver.MultiVectorEncoder.from_pretrained(chosen.model, threads=1)
        text = " ".join(["word"] * (QUERY - model.tokenizer.special_tokens))
        print(f"encoding a query: {milliseconds(partial(model.encode_query, text)):.2f} ms")


if __name__ == "__main__":
    main()
