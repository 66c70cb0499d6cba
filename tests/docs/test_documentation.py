"""Figures that several pages repeat must equal those of the results file."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
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


def interval(found: dict[str, float], sign: int) -> tuple[str, str]:
    """Return a difference and its interval in percent, as the pages write them; -1 turns gains into losses."""
    ends = sorted((sign * found["low"], sign * found["high"]))
    return f"{100 * sign * found['relative']:+.2f} %", "{:+.2f} to {:+.2f}".format(
        *(100 * end for end in ends)
    )


def test_the_loss_in_the_readme_is_that_of_the_results() -> None:
    means = json.loads(RECORD.read_text(encoding="utf-8"))["means"]
    retrieval, between = interval(means["retrieval"]["systems"]["dynamic"], 1)
    reranking, _ = interval(means["reranking"]["systems"]["dynamic"], 1)
    text = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert f"{retrieval} of NDCG@10 (95 % interval {between}), and {reranking} of MAP" in text


@pytest.mark.parametrize("kind", ["retrieval", "reranking"])
def test_the_losses_in_the_guide_are_those_of_the_results(kind: str) -> None:
    systems = json.loads(RECORD.read_text(encoding="utf-8"))["means"][kind]["systems"]
    cells = [
        "{} ({})".format(*interval(systems[system], -1)).removeprefix("+")
        for system in ("dynamic", "static")
    ]
    text = (REPOSITORY / "docs/guide/evaluate.md").read_text(encoding="utf-8")
    assert f"| {kind}, mean relative loss" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {kind}, mean relative"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == cells


PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_paths_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"(?<![\w./-])(?:src|native|tests|tools|benchmarks|docs|examples)/[\w./-]*\w/?", text
    )
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert not missing


PUBLIC = ("quaver", "quaver.bulk", "quaver.errors", "quaver.evaluate", "quaver.store")
"""Modules on the reference pages; those of frameworks are in `quaver.integrations`."""


@pytest.mark.parametrize(
    "script",
    sorted((REPOSITORY / "examples").rglob("*.py")),
    ids=lambda path: path.relative_to(REPOSITORY).as_posix(),
)
def test_an_example_imports_only_public_modules(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    named = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.partition(".")[0] == "quaver"
    }
    private = {name for name in named if name not in PUBLIC}
    assert not {name for name in private if not name.startswith("quaver.integrations.")}


def test_a_filter_that_a_page_shows_finds_a_sample_document() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    shown = {
        source
        for page in pages
        for line in re.findall(r"^    .+$", page.read_text(encoding="utf-8"), re.M)
        for source in re.findall(r'"source=([^"]+)"', line)
    }
    assert shown
    for source in shown:
        assert (REPOSITORY / "examples" / "python-docs" / source).is_file(), source
