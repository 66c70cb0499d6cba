"""Load folders of `quaver quantize` with transformers and compressed-tensors; fail if the two differ.

Needs torch, transformers and compressed-tensors:

    python tools/parity_quantized.py MODEL_FOLDER PASSAGES

MODEL_FOLDER holds all-MiniLM-L6-v2; PASSAGES is a folder of documents, half to calibrate and
half to compare. The cross-encoder has MODEL_FOLDER's encoder and a random head.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CompressedTensorsConfig,
)

import quaver
from make_golden import embed
from parity import passages

# The folder says "dequantize": both convert the same integers to the same floats, and Quaver computes
# in float32 like transformers. Only the order of sums differs.
LARGEST_DIFFERENCE = 1e-5
# Without it, transformers also rounds activations to 256 steps, in another order of operations than
# Quaver, which rounds inside attention too. With fixed ranges, transformers 5.24 with compressed-tensors
# 0.20 loses seven times as much as Quaver; these rows compare the two.
SMALLEST_MEAN = {"dynamic": 0.999, "static": 0.99}
SMALLEST = {"dynamic": 0.99, "static": 0.98}
SMALLEST_CORRELATION = 0.9
COMPARED = 48
ROUNDED = {"quantization_config": CompressedTensorsConfig(dequantize=False)}


def check(what: str, got: float, bound: float) -> bool:
    """Print a row; return whether it is within its bound."""
    print(f"{what:58} {got:.6f}  (>= {bound})")
    return got >= bound


def check_equal(what: str, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Print the largest difference; return whether it is small enough."""
    largest = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"{what:58} {largest:.1e}  (<= {LARGEST_DIFFERENCE})")
    return largest <= LARGEST_DIFFERENCE


def compare_embedder(folder: Path, scheme: str, texts: list[str], exact: np.ndarray) -> bool:
    """Compare the vectors of a quantized folder; and both with float32."""
    weights = quaver.Embedder.from_pretrained(folder, precision="float32").encode(texts)
    same = check_equal(f"{scheme}: largest difference, weights", weights, embed(folder, texts))
    ours = quaver.Embedder.from_pretrained(folder).encode(texts)
    theirs = embed(folder, texts, **ROUNDED)
    cosines = (ours.astype(np.float64) * theirs).sum(axis=1)
    lost = [1 - float((v.astype(np.float64) * exact).sum(axis=1).mean()) for v in (ours, theirs)]
    print(f"{scheme}: loss to float32 {lost[0]:.2e} in Quaver, {lost[1]:.2e} in transformers")
    mean = check(
        f"{scheme}: mean cosine to transformers", float(cosines.mean()), SMALLEST_MEAN[scheme]
    )
    return (
        check(f"{scheme}: smallest cosine", float(cosines.min()), SMALLEST[scheme])
        and mean
        and same
    )


def write_cross_encoder(source: Path, target: Path) -> None:
    """Add a random head to an encoder, and save it as a folder."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def compare_cross_encoder(folder: Path, scheme: str, texts: list[str]) -> bool:
    """Compare the scores of a quantized cross-encoder over pairs of neighboring texts."""
    pairs = [(" ".join(a.split()[:12]), b) for a in texts[:12] for b in texts[:12:3]]
    weights, ours = (
        quaver.CrossEncoder.from_pretrained(folder, precision=precision).predict(
            pairs, activation="identity"
        )
        for precision in ("float32", "int8")
    )
    same = check_equal(
        f"{scheme} cross-encoder: largest difference, weights", weights, logits(folder, pairs)
    )
    correlation = float(np.corrcoef(ours, logits(folder, pairs, **ROUNDED))[0, 1])
    held = check(
        f"{scheme} cross-encoder: correlation of scores", correlation, SMALLEST_CORRELATION
    )
    return held and same


def logits(folder: Path, pairs: list[tuple[str, str]], **options: Any) -> np.ndarray:
    """Score pairs one at a time with transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, **options
    ).eval()
    scores = []
    with torch.inference_mode():
        for query, document in pairs:
            tokens = tokenizer(
                query, document, truncation=True, max_length=512, return_tensors="pt"
            )
            scores.append(float(model(**tokens).logits[0, 0]))
    return np.array(scores)


def main() -> int:
    """Quantize, load, compare, and check the bounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("passages", type=Path, help="folder of documents")
    options = parser.parse_args()
    model = quaver.Embedder.from_pretrained(options.folder, precision="float32")
    texts = passages(options.passages, model, 2 * COMPARED)
    calibration, compared = texts[::2], texts[1::2]
    exact = model.encode(compared)
    held = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_cross_encoder(options.folder, work / "cross-encoder")
        for scheme in ("dynamic", "static"):
            for source in (options.folder, work / "cross-encoder"):
                quaver.quantize(
                    source,
                    work / scheme / source.name,
                    scheme=scheme,
                    calibration=calibration if scheme == "static" else None,
                    samples=32,
                )
            folder = work / scheme
            held += [
                compare_embedder(folder / options.folder.name, scheme, compared, exact),
                compare_cross_encoder(folder / "cross-encoder", scheme, compared),
            ]
    if not all(held):
        print("PARITY BROKEN: transformers and Quaver disagree about a folder", file=sys.stderr)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
