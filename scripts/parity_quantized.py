"""Load folders of `quaver quantize` with transformers and compressed-tensors; fail when the two disagree.

Needs torch, transformers and compressed-tensors:

    python scripts/parity_quantized.py MODEL_FOLDER PASSAGES

MODEL_FOLDER holds all-MiniLM-L6-v2; PASSAGES is a folder of documents, half for calibrating and
half for comparing. The cross-encoder has MODEL_FOLDER's encoder and a random head.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import quaver
from make_golden import embed
from parity import passages

# Both round the same weights to the same integers and activations to 256 steps; Quaver rounds inside
# of attention too, and the order of sums decides which of two neighbours a step becomes.
SMALLEST_MEAN, SMALLEST = 0.9995, 0.998
SMALLEST_CORRELATION = 0.999
COMPARED = 48


def check(what: str, got: float, bound: float) -> bool:
    """Print a row and say whether it holds."""
    print(f"{what:58} {got:.6f}  (>= {bound})")
    return got >= bound


def compare_embedder(folder: Path, scheme: str, texts: list[str], exact: np.ndarray) -> bool:
    """Compare the vectors of a quantized folder; and both with float32."""
    ours = quaver.Embedder.from_pretrained(folder).encode(texts)
    theirs = embed(folder, texts)
    cosines = (ours.astype(np.float64) * theirs).sum(axis=1)
    lost = [1 - float((v.astype(np.float64) * exact).sum(axis=1).mean()) for v in (ours, theirs)]
    print(f"{scheme}: loss to float32 {lost[0]:.2e} in Quaver, {lost[1]:.2e} in transformers")
    mean = check(f"{scheme}: mean cosine to transformers", float(cosines.mean()), SMALLEST_MEAN)
    return check(f"{scheme}: smallest cosine", float(cosines.min()), SMALLEST) and mean


def write_cross_encoder(source: Path, target: Path) -> None:
    """Put a random head on an encoder, and make it a folder of its own."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def compare_cross_encoder(folder: Path, scheme: str, texts: list[str]) -> bool:
    """Compare the scores of a quantized cross-encoder over pairs of neighbours."""
    pairs = [(" ".join(a.split()[:12]), b) for a in texts[:12] for b in texts[:12:3]]
    ours = quaver.CrossEncoder.from_pretrained(folder).predict(pairs, activation="identity")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = []
    with torch.inference_mode():
        for query, document in pairs:
            tokens = tokenizer(
                query, document, truncation=True, max_length=256, return_tensors="pt"
            )
            theirs.append(float(model(**tokens).logits[0, 0]))
    correlation = float(np.corrcoef(ours, theirs)[0, 1])
    return check(
        f"{scheme} cross-encoder: correlation of scores", correlation, SMALLEST_CORRELATION
    )


def main() -> int:
    """Quantize, load, compare, judge."""
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
