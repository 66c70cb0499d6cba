"""Compare Quaver with transformers in float32 on real passages; fail if they differ.

Needs torch and transformers:

    python tools/parity.py MODEL_FOLDER PASSAGES

MODEL_FOLDER holds all-MiniLM-L6-v2. PASSAGES is a .jsonl file with a "text" in each line, or a
folder of documents that Quaver reads and splits.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from make_golden import embed
from quaver.embedder import Embedder

# Bounds on real English text: float32 by component, int8 by cosine.
LARGEST_FLOAT32_ERROR = 1e-5
SMALLEST_INT8_MEAN = 0.9990
SMALLEST_INT8_COSINE = 0.985


def passages(source: Path, model: Embedder, count: int) -> list[str]:
    """Read `count` passages, evenly spread over the source.

    Args:
        source: .jsonl file, or a folder of documents.
        model: limits the length of passages.
        count: number of passages.

    Returns:
        The texts.
    """
    if source.is_dir():
        from quaver.documents import read_document, scan_folder
        from quaver.documents.split import split

        room = model.max_seq_length - model.tokenizer.special_tokens
        documents = map(read_document, scan_folder(source).files)
        texts = [p.text for document in documents for p in split(document, model.tokenizer, room)]
    else:
        with source.open(encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
    chosen = np.linspace(0, len(texts) - 1, min(count, len(texts)), dtype=int)
    return [texts[i] for i in chosen]


def report(name: str, vectors: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Print a row: mean, first percentile and minimum of the cosine, largest error of a component.

    Args:
        name: name of the row.
        vectors: float32 (N, D), unit rows.
        truth: float32 (N, D), unit rows.

    Returns:
        Mean and minimum cosine, largest error.
    """
    cosines = (vectors.astype(np.float64) * truth).sum(axis=1)
    error = float(np.abs(vectors - truth).max())
    mean, low, least = cosines.mean(), np.percentile(cosines, 1), cosines.min()
    print(f"{name:8} {mean:.6f}  {low:.6f}  {least:.6f}  {error:.1e}")
    return float(mean), float(least), error


def main() -> int:
    """Compare, print, and check the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("passages", type=Path, help=".jsonl file or folder of documents")
    parser.add_argument("--count", type=int, default=250, help="passages to compare")
    options = parser.parse_args()
    float32 = Embedder.from_pretrained(options.folder, precision="float32")
    int8 = Embedder.from_pretrained(options.folder, precision="int8")
    texts = passages(options.passages, float32, options.count)
    truth = embed(options.folder, texts)
    print(f"{len(texts)} passages of {options.passages.name} against transformers, isa {int8.isa}")
    print("         mean cos  1st pct   minimum   largest error")
    *_, error = report("float32", float32.encode(texts), truth)
    mean, least, _ = report("int8", int8.encode(texts), truth)
    broken = []
    if not error <= LARGEST_FLOAT32_ERROR:
        broken.append(f"float32 error {error:.2g}, promised at most {LARGEST_FLOAT32_ERROR}")
    if not mean >= SMALLEST_INT8_MEAN:
        broken.append(f"int8 mean cosine {mean:.6f}, promised {SMALLEST_INT8_MEAN} or more")
    if not least >= SMALLEST_INT8_COSINE:
        broken.append(f"int8 smallest cosine {least:.6f}, promised {SMALLEST_INT8_COSINE} or more")
    for line in broken:
        print(f"PARITY BROKEN: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
