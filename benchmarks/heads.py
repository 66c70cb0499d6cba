"""What int8 costs a sparse encoder or a multi-vector model, and what it gives.

    python benchmarks/heads.py sparse MODEL --tasks examples/tasks
    python benchmarks/heads.py multi-vector MODEL --tasks examples/tasks

Prints NDCG@10 of float32 and int8 with the 95 % interval of their difference, the share of the ten best documents
that stay, and the time for the documents of the first task.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import quaver
from quaver.evaluate import find_folders, markdown_report, read_task


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["sparse", "multi-vector"])
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("--tasks", type=Path, required=True, help="folders in BEIR layout")
    chosen = parser.parse_args()
    opens = quaver.SparseEncoder if chosen.kind == "sparse" else quaver.MultiVectorEncoder
    models = {
        precision: opens.from_pretrained(chosen.model, precision=precision)
        for precision in ("float32", "int8")
    }
    tasks = [read_task(folder) for folder in find_folders(chosen.tasks)]
    report = quaver.compare_models(models, tasks, baseline="float32")
    print(markdown_report(report))
    texts = list(tasks[0].corpus.values())
    encoded = {}
    for precision, model in models.items():
        start = time.perf_counter()
        encoded[precision] = model.encode_document(texts)
        print(f"{precision}: {1e3 * (time.perf_counter() - start) / len(texts):.2f} ms a document")
    if chosen.kind == "sparse":
        exact, rounded = (vectors.to_dense() for vectors in encoded.values())
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
        cosines = np.einsum("nd,nd->n", exact, rounded) / np.maximum(lengths, 1e-30)
        words = np.diff(encoded["int8"].indptr).mean()
        print(f"cosine: mean {cosines.mean():.5f}, least {cosines.min():.5f}; {words:.0f} words")
    else:
        rows = len(encoded["int8"].vectors) / len(texts)
        print(f"{rows:.0f} vectors of {models['int8'].dimension} features a document")


if __name__ == "__main__":
    main()
