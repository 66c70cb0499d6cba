"""The short table of a result, for the README. Every number is read from the rows."""

from __future__ import annotations

from quaver.bench.engines.registry import FAMILIES, OURS
from quaver.bench.report import NOT_MEASURED, machine, number, table
from quaver.bench.result import Result, Row

_CASES = ("1x16", "1x128", "1x512", "32x256", "8x256", "ragged256", "ragged64")
_FAMILIES = ("openvino", "onnxruntime", "torch", "sentence-transformers")
_BEST = "openvino-int8"


def summary(result: Result) -> str:
    """Return the short table: a few cases, the peer in int8, and each engine's fastest form.

    Args:
        result: what was measured.

    Returns:
        A Markdown table over latency, throughput and text.
    """
    lines = []
    for (model, case), rows in _by_case(result).items():
        if (ours := rows.get(OURS)) is None:
            continue
        cells = [
            f"{model} ({result.models[model]['describe']})",
            _case_title(case) + (" \\*" if ours.disturbed else ""),
            f"{number(ours.values['median_ms'])} ({ours.cosine:.4f})",
            _peer(rows.get(_BEST), None),
        ]
        for family in _FAMILIES:
            names = {form.name for form in FAMILIES[family]}
            found = [row for name, row in rows.items() if name in names]
            fastest = min(found, key=lambda row: row.values["median_ms"], default=None)
            cells.append(_peer(fastest, family))
        lines.append(cells)
    titles = [f"{name}, fastest form" for name in _FAMILIES[:-1]] + [_FAMILIES[-1]]
    return table(["model", "texts x tokens", OURS, _BEST, *titles], lines, words=2)


def _by_case(result: Result) -> dict[tuple[str, str], dict[str, Row]]:
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in result.rows:
        if row.part == "text" or (row.part in ("latency", "throughput") and row.case in _CASES):
            found.setdefault((row.model, row.case), {})[row.engine] = row
    models = list(result.models)
    return dict(sorted(found.items(), key=lambda item: models.index(item[0][0])))


def _case_title(case: str) -> str:
    if case.startswith("ragged"):
        return f"{case.removeprefix('ragged')} x 8 to 512"
    return case.replace("x", " x ") if case.replace("x", "").isdigit() else case


def _peer(row: Row | None, family: str | None) -> str:
    if row is None or row.ratio is None:
        return NOT_MEASURED
    form = row.engine.removeprefix(f"{family}-") if family and family != row.engine else ""
    said = ", ".join(part for part in (form, f"{row.cosine:.4f}") if part)
    return f"{number(row.values['median_ms'])} ({said}) **{row.ratio[0]:.2f}**"


def caption(result: Result) -> str:
    """Return what the numbers of `summary` mean and where they come from.

    Args:
        result: what was measured.

    Returns:
        A paragraph.
    """
    commits = ", ".join(dict.fromkeys(run["commit"] or "unknown" for run in result.runs))
    random = any(facts["weights"] == "random" for facts in result.models.values())
    disturbed = any(row.disturbed for row in result.rows)
    parts = [
        "Milliseconds for one call, median; in brackets the mean cosine to float32 on the same "
        "texts. Bold: how many times as fast quaver-int8 is, the median over rounds in which the "
        "engines took turns in one process. Lines with a corpus are from text, tokenization "
        "included; the others from token ids. Other engines get texts sorted by length, in padded "
        "batches.",
        "Random weights serve for speed at shapes whose weights are not at hand; their cosine says "
        "nothing about retrieval."
        if random
        else "",
        "\\* Other programs took more than 5 % of the CPUs." if disturbed else "",
        f"{machine(result)}; commit {commits}; {result.runs[-1]['date']}.",
    ]
    return " ".join(part for part in parts if part)
