"""Short tables of a result, for README.md and docs/results.md."""

from __future__ import annotations

from quaver_bench.engines.registry import FAMILIES, OURS
from quaver_bench.kinds import EMBEDDER
from quaver_bench.report import (
    NOT_MEASURED,
    case_title,
    cpu_title,
    fidelity,
    kind_of,
    machine,
    number,
    table,
)
from quaver_bench.result import Result, Row

_CASES = ("1x16", "1x128", "1x512", "32x256", "8x256", "ragged256", "ragged64")
_FAMILIES = ("openvino", "onnxruntime", "torch", "sentence-transformers")
_OTHERS = ("fastembed", "ctranslate2", "llamacpp", "ipex", "zentorch", "flashrank")
_BEST = "openvino-int8"


def summary(result: Result) -> str:
    """Return short tables: a few cases, OpenVINO's int8, and each engine's fastest form.

    Args:
        result: what was measured.

    Returns:
        a heading and a Markdown table for each model, over latency, throughput and text. Engines that were
        not measured with a model are left out of its table.
    """
    lines: dict[str, list[list[str]]] = {}
    for (model, case), rows in _by_case(result).items():
        if (ours := rows.get(OURS)) is None:
            continue
        cells = [
            case_title(case) + (" \\*" if ours.disturbed else ""),
            f"{number(ours.values['median_ms'])} ({fidelity(ours)})",
            _peer(rows.get(_BEST), None),
        ]
        cells += [_peer(_fastest(rows, family), family) for family in _FAMILIES]
        cells.append(_peer(_fastest(rows, *_OTHERS), ""))
        lines.setdefault(model, []).append(cells)
    titles = [f"{name}, fastest form" for name in _FAMILIES[:-1]] + [_FAMILIES[-1]]
    parts = []
    for model, rows_of_model in lines.items():
        kind = kind_of(result.models[model])
        others = [
            name for name in _OTHERS if any(kind.name in form.kinds for form in FAMILIES[name])
        ]
        head = ["texts x tokens", OURS, _BEST, *titles, f"fastest of {', '.join(others)}"]
        columns = [
            column
            for column in zip(head, *rows_of_model, strict=True)
            if set(column[1:]) != {NOT_MEASURED}
        ]
        head, *measured = map(list, zip(*columns, strict=True))
        parts.append(f"### {model} ({result.models[model]['describe']})")
        parts.append(table(head, measured, words=1))
    return "\n\n".join(parts)


_SHORT_CASES = ("1x16", "1x512", "32x256", "ragged256")
WELL_KNOWN = {
    "quaver": "Quaver",
    "openvino": "OpenVINO",
    "ipex": "IPEX",
    "onnxruntime": "ONNX Runtime",
    "torch": "PyTorch",
    "llamacpp": "llama.cpp",
}
"""Engines of the README's table and picture, and their titles. sentence-transformers is PyTorch a second time."""
_TUNED = "-tuned"
"""Ending of a form with the same weights as the form without it, and settings for throughput."""


def short_table(result: Result) -> str:
    """Return the README's table: a row for each well-known engine, for the first model.

    Args:
        result: what was measured.

    Returns:
        a Markdown table, fastest engine first. A row is one form of an engine, the fastest one of the last
        case; its cosine is of that case. A cell has the milliseconds of a call, and how many times as long
        that is as Quaver's.
    """
    cases = _short_cases(result)
    lines = []
    for row in _short_rows(cases):
        plain = row.engine.removesuffix(_TUNED)
        found = [rows.get(row.engine) or rows.get(plain) for rows in cases.values()]
        title = form_title(row.engine)
        cosine = NOT_MEASURED if row.cosine is None else f"{row.cosine:.4f}"
        lines.append([f"**{title}**" if row.engine == OURS else title, *map(_times, found), cosine])
    head = [f"{case_title(case)}, ms" for case in cases]
    return table([next(iter(result.models)), *head, "cosine to float32"], lines, words=1)


def short_caption(result: Result) -> str:
    """Return the one paragraph below `short_table`."""
    run = result.runs[0]
    tuned = any(row.engine.endswith(_TUNED) for row in _short_rows(_short_cases(result)))
    parts = [
        "Median milliseconds per call (texts x tokens), each engine in the form that is fastest in the last case; the "
        "cosines are of that case.",
        "In brackets, how many times as long as Quaver: the median over rounds in which both took turns, which can "
        "differ from the quotient of the two medians.",
        "OpenVINO's batches are tuned for throughput, its single texts for latency."
        if tuned
        else "",
        f"{cpu_title(run)}, {run['threads']} threads.",
    ]
    return " ".join(part for part in parts if part)


def form_title(engine: str) -> str:
    """Return the title of a form of a well-known engine, such as "OpenVINO int8".

    Args:
        engine: name of the form.
    """
    family = next(name for name in WELL_KNOWN if engine in {form.name for form in FAMILIES[name]})
    kind = next((kind for kind in ("int8", "bf16") if kind in engine), "float32")
    return f"{WELL_KNOWN[family]} {kind}"


def _short_cases(result: Result) -> dict[str, dict[str, Row]]:
    """Return case to engine to row, of the first model."""
    model = next(iter(result.models))
    return {
        case: rows
        for (name, case), rows in _by_case(result).items()
        if name == model and case in _SHORT_CASES
    }


def _short_rows(cases: dict[str, dict[str, Row]]) -> list[Row]:
    """Return the rows of the last case that the table has a line for, fastest first."""
    last = list(cases.values())[-1] if cases else {}
    known = {form.name for name in WELL_KNOWN for form in FAMILIES[name]}
    return [row for row in fastest_of_each(last) if row.engine in known]


def _times(row: Row | None) -> str:
    if row is None:
        return NOT_MEASURED
    if row.ratio is None:
        return f"**{number(row.values['median_ms'])}**"
    return f"{number(row.values['median_ms'])} ({row.ratio[0]:.1f}x)"


def fastest_of_each(rows: dict[str, Row]) -> list[Row]:
    """Return Quaver int8 and the fastest sound form of each other engine, fastest first.

    Args:
        rows: engine to its row of one case.
    """
    found = [rows[OURS]] if OURS in rows else []
    best = (_fastest(rows, family) for family in FAMILIES if family != "quaver")
    found += sorted(
        (row for row in best if row is not None), key=lambda row: row.ratio[0] if row.ratio else 0.0
    )
    return found


def _by_case(result: Result) -> dict[tuple[str, str], dict[str, Row]]:
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in result.rows:
        kind = kind_of(result.models[row.model])
        wanted = row.case in (_CASES if kind is EMBEDDER else kind.cases)
        if row.part == "text" or (row.part in ("latency", "throughput") and wanted):
            found.setdefault((row.model, row.case), {})[row.engine] = row
    models = list(result.models)
    return dict(sorted(found.items(), key=lambda item: models.index(item[0][0])))


def _fastest(rows: dict[str, Row], *families: str) -> Row | None:
    """Return the fastest form by its ratio to Quaver, which ran in turns with it."""
    names = {form.name for family in families for form in FAMILIES[family]}
    found = [row for name, row in rows.items() if name in names and row.ratio]
    return min(found, key=lambda row: row.ratio[0] if row.ratio else 0.0, default=None)


def _peer(row: Row | None, family: str | None) -> str:
    """Return a cell; the form is named without the family, in full for "", or not at all for None."""
    if row is None or row.ratio is None:
        return NOT_MEASURED
    form = "" if family in (None, row.engine) else row.engine.removeprefix(f"{family}-")
    inside = ", ".join(part for part in (form, fidelity(row)) if part)
    return f"{number(row.values['median_ms'])} ({inside}) **{row.ratio[0]:.2f}**"


def caption(result: Result) -> str:
    """Return the caption of `summary`.

    Args:
        result: what was measured.

    Returns:
        a paragraph.
    """
    commits = ", ".join(dict.fromkeys(run["commit"] or "unknown" for run in result.runs))
    random = any(facts["weights"] == "random" for facts in result.models.values())
    disturbed = any(row.disturbed for row in result.rows)
    scores = any(row.score_difference is not None for row in result.rows)
    others = any(kind_of(facts).from_text for facts in result.models.values())
    parts = [
        "Median milliseconds per call; in brackets, the mean cosine to float32 on the same texts. Bold: how many "
        "times as fast quaver-int8 is, the median over rounds in which the engines took turns in one process "
        "(llama.cpp, IPEX and zentorch in processes of their own, in turns with Quaver). Rows with a corpus "
        "start from text and include tokenization; the others start from token ids. Other engines get padded "
        "batches of texts sorted by length (fastembed: unsorted).",
        "Models of other kinds than embedding models start from text in every row."
        if others
        else "",
        "For a cross-encoder the brackets have the mean difference of its scores to those of float32, in logits."
        if scores
        else "",
        "Random weights are used to measure the speed of a shape; their cosine says nothing about retrieval."
        if random
        else "",
        "\\* Other programs took more than 5 % of the CPUs." if disturbed else "",
        f"{machine(result)}; commit {commits}; {result.runs[-1]['date']}.",
    ]
    return " ".join(part for part in parts if part)
