"""Quantize a model with calibration text, measure the loss, and use the new folder.

python examples/article/quantize.py [MODEL] [TARGET]

The same from a shell: quaver quantize MODEL TARGET --scheme static --calibration FILE --samples 32
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CALIBRATION = Path(__file__).parent.parent / "tasks" / "pubmedqa-100" / "corpus.jsonl"
QUESTION = "Does a vegetarian diet affect cardiovascular risk?"
SAMPLES = 32
"""So that the example is done soon; 128, the default, are better."""


def main(model: str = MODEL, target: str | None = None) -> None:
    """Quantize with one range for each layer, found on calibration text; compare with float32."""
    with tempfile.TemporaryDirectory(prefix="quaver-") as scratch:
        folder = Path(target or Path(scratch) / "int8")
        report = quaver.quantize(
            model, folder, scheme="static", calibration=CALIBRATION, samples=SAMPLES
        )
        assert report.loss is not None
        print(f"{report.source}, {len(report.layers)} layers, {report.seconds:.0f} s")
        print(f"{report.source_bytes / 1e6:.1f} MB -> {report.target_bytes / 1e6:.1f} MB")
        print(f"loss on {report.samples} texts: {report.loss:.2%}")
        assert report.target_bytes < report.source_bytes
        assert report.loss < 0.02

        exact = quaver.Embedder.from_pretrained(model, precision="float32")
        quantized = quaver.Embedder.from_pretrained(folder)
        near = exact.similarity(exact.encode_query(QUESTION), quantized.encode_query(QUESTION))
        print(f'"{QUESTION}"\ncosine to float32: {float(near):.4f}')
        assert near > 0.97


if __name__ == "__main__":
    main(*sys.argv[1:])
