"""Effect of calibration text: the loss of GPTQ on other texts, of the same kind and of other kinds.

    python benchmarks/calibration.py MODEL --calibration TEXTS.jsonl... --read TEXTS.jsonl...

SAMPLES texts come from the calibration files, the same number from each. The loss is measured on 40 other
texts of every --read file, and on the first sentence of each; it is 1 - mean cosine to float32, in parts of 10,000.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.folder import ModelFolder
from quaver.quantization.calibration import calibration_texts
from quaver.quantization.convert import Recipe, convert, convert_calibrated
from quaver.quantization.loss import LossMeter

READ = 40


def others(path: Path, calibrated: set[str]) -> list[str]:
    """Return texts that were not used to calibrate, evenly spread, and their first sentences."""
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"].strip() for line in lines]
    texts = [text for text in texts if text and text not in calibrated]
    chosen = texts[:: len(texts) // READ][:READ]
    return chosen + [text.split(". ")[0] for text in chosen]


def main() -> int:
    """Quantize with both roundings and print a row for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of an embedding model in floats")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True, help=".jsonl files")
    parser.add_argument("--read", type=Path, nargs="+", required=True, help=".jsonl files")
    parser.add_argument("--samples", type=int, default=128, help="calibration texts in all")
    options = parser.parse_args()
    folder = ModelFolder.open(options.model)
    spec = encoder_spec(folder.config, pooling=folder.pooling, normalize=folder.normalize)
    weights = encoder_weights(spec, folder.tensors())
    length = spec.length_within(folder.max_seq_length)
    tokenizer = folder.tokenizer(length)
    each = options.samples // len(options.calibration)
    texts = [text for path in options.calibration for text in calibration_texts(path, each).texts]
    batch = tokenizer.encode(texts)
    roundings: dict[str, EncoderWeights] = {"nearest": convert(spec, weights).quantized}
    recipe = Recipe("dynamic", "gptq", "mse")
    found = convert_calibrated(spec, weights, recipe, batch, lambda _: None)
    roundings["gptq"] = found.quantized
    print(f"calibrated on {len(texts)} texts, {len(batch.ids)} tokens")
    sums = dict.fromkeys(roundings, 0.0)
    for path in options.read:
        read = tokenizer.encode(others(path, set(texts)))
        meter = LossMeter(replace(spec, normalize=False), weights, read, kind="embedder")
        losses = {name: 1e4 * meter.loss(made) for name, made in roundings.items()}
        sums = {name: sums[name] + loss for name, loss in losses.items()}
        print(f"{path.parent.name:24}", *(f"{name} {v:.2f}" for name, v in losses.items()))
    mean = {name: total / len(options.read) for name, total in sums.items()}
    print(f"{'mean':24}", *(f"{name} {v:.2f}" for name, v in mean.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
