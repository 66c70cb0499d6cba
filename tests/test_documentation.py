"""Figures that several pages repeat must equal those of the results file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
RECORD = REPOSITORY / "benchmarks" / "results" / "quality" / "minilm-l6-zen3" / "results.json"


def down(value: float) -> str:
    """Four digits, rounded down, as the record's tables have them."""
    return f"{int(value * 1e4) / 1e4:.4f}"


@pytest.mark.parametrize(
    ("page", "before", "system", "figure"),
    [
        ("README.md", "a mean cosine of ", "dynamic", "mean"),
        ("docs/results.md", r"\| Quaver int8, dynamic .* % .*\) \| ", "dynamic", "mean"),
        (
            "docs/results.md",
            r"\| Quaver int8, dynamic .* % .*\) \| [\d.]+ \| ",
            "dynamic",
            "percentile_1",
        ),
        ("docs/results.md", r"\| Quaver int8, static .* % .*\) \| ", "static", "mean"),
        (
            "docs/results.md",
            r"\| Quaver int8, static .* % .*\) \| [\d.]+ \| ",
            "static",
            "percentile_1",
        ),
        ("docs/guide/evaluate.md", r"\| cosine to float32, mean \| ", "dynamic", "mean"),
        ("docs/guide/evaluate.md", r"\| cosine to float32, mean \| [\d.]+ \| ", "static", "mean"),
        (
            "docs/guide/evaluate.md",
            "OpenVINO's vectors have a mean cosine of ",
            "openvino-int8",
            "mean",
        ),
        (
            "docs/guide/evaluate.md",
            r"\| cosine to float32, 1st percentile \| ",
            "dynamic",
            "percentile_1",
        ),
        (
            "docs/guide/evaluate.md",
            r"\| cosine to float32, 1st percentile \| [\d.]+ \| ",
            "static",
            "percentile_1",
        ),
        ("docs/guide/evaluate.md", "ONNX Runtime's ", "onnxruntime-int8-dynamic", "mean"),
        (
            "docs/guide/quantize.md",
            r"\| the same over the 21,379 texts .*?\) \| ",
            "dynamic",
            "mean",
        ),
        ("docs/internals/engine.md", "int8 has a mean cosine of ", "dynamic", "mean"),
        ("docs/internals/engine.md", "a first percentile of ", "dynamic", "percentile_1"),
        ("docs/internals/engine.md", "a\nminimum of ", "dynamic", "minimum"),
    ],
)
def test_a_cosine_is_the_same_on_every_page(
    page: str, before: str, system: str, figure: str
) -> None:
    found = re.search(f"{before}(0[.][0-9]+)", (REPOSITORY / page).read_text(encoding="utf-8"))
    assert found, f"{page} has no figure after {before!r}"
    fidelity = json.loads(RECORD.read_text(encoding="utf-8"))["fidelity"]
    assert found[1] == down(fidelity[system]["raw"][figure])
