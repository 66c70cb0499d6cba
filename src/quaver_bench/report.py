"""Tables of a result: Markdown for results.md, and a short table for the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quaver.errors import InputError
from quaver_bench.engines.registry import FORMS, OURS
from quaver_bench.kinds import EMBEDDER, KINDS, Kind
from quaver_bench.result import FARTHEST, SOUND, Result, Row

Figures = dict[str, dict[str, float]]
"""Engine to its figures on judged texts."""
NOT_MEASURED = "-"
EXACT = "quaver-float32"
_OF_PEAK = "share_of_peak"
_CALLS = ("latency", "throughput", "text")
"""Parts whose rows are times of single calls."""


def markdown(result: Result, peaks: Mapping[str, float] | None = None) -> str:
    """Return the whole report.

    Args:
        result: what was measured.
        peaks: see `share_of_peak`; None leaves that column out.

    Returns:
        Markdown with a section for each part that has rows.
    """
    for row in result.rows if peaks else ():
        if (share := share_of_peak(row, peaks or {})) is not None:
            row.values[_OF_PEAK] = share
    parts = ["# How fast, on this machine", machine(result)]
    for model, facts in result.models.items():
        rows = [row for row in result.rows if row.model == model]
        if rows:
            parts.append(f"## {model} ({_about(facts)})")
            parts.append(
                "Latency and throughput start from text, tokenization included."
                if kind_of(facts).from_text
                else "Latency and throughput start from token ids."
            )
        figures = result.quality.get(model, {})
        parts += [text for make in _SECTIONS.values() if (text := make(rows, figures))]
        if figures:
            parts.append(_quality(figures, facts.get("judged", "judged texts")))
    if any(facts["weights"] == "random" for facts in result.models.values()):
        parts.append(
            "Random weights are used to measure the speed of a shape; their cosine says nothing about "
            "retrieval."
        )
    if result.missing:
        lines = [f"- {name}: {why}" for name, why in result.missing.items()]
        parts.append("## Not measured\n\n" + "\n".join(lines))
    parts.append("## Runs\n\n" + "\n".join(map(_run_line, result.runs)))
    return "\n\n".join(parts) + "\n"


def kind_of(facts: Mapping[str, str]) -> Kind:
    """Return the kind of a model of `Result.models`; older results have embedding models alone."""
    return KINDS[facts.get("kind", EMBEDDER.name)]


def _about(facts: Mapping[str, str]) -> str:
    kind = kind_of(facts)
    about = f"{facts['pooling']} pooling" if kind is EMBEDDER else kind.title
    return f"{facts['describe']}, {about}"


def read_peaks(folder: Path) -> dict[str, float]:
    """Return the peak of each instruction set, from kernels.json of a folder of results.

    Args:
        folder: the folder; without the file there are no peaks.

    Returns:
        instruction set to int8 multiply-adds per second of one core, in billions.

    Raises:
        InputError: the file is not what `make bench-kernels` writes.
    """
    path = folder / "kernels.json"
    if not path.is_file():
        return {}
    try:
        kernels = json.loads(path.read_text(encoding="utf-8"))["kernels"]
        return {found["isa"]: float(found["peak_gmacs"]) for found in kernels}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be written by make bench-kernels: {error}") from error


def share_of_peak(row: Row, peaks: Mapping[str, float]) -> float | None:
    """Return which share of the peak of its threads' cores a row of Quaver int8 has reached.

    Args:
        row: any row.
        peaks: instruction set to the peak of a core, see `read_peaks`.

    Returns:
        0 to 1; None for other engines, and where the peak is not known.
    """
    peak = peaks.get(str(row.settings.get("isa")))
    if row.engine != OURS or peak is None or "gmacs_per_second" not in row.values:
        return None
    return row.values["gmacs_per_second"] / (peak * int(row.settings["threads"]))


def own_table(result: Result) -> str:
    """Return how fast Quaver alone ran each case, as a table for the terminal.

    Args:
        result: what was measured; rows of other engines are left out.

    Returns:
        a table for each model, with its ranking of judged texts; then the machine, and what was not measured.
    """
    rows = [row for row in result.rows if row.engine in (OURS, EXACT)]
    parts = []
    for model, facts in result.models.items():
        mine = [row for row in rows if row.model == model]
        tables = [_own_cases(mine)]
        tables += [make(mine, {}) for part, make in _SECTIONS.items() if part not in _CALLS]
        if figures := result.quality.get(model):
            scores = [f"{n} {figures[n]['ndcg10']:.4f}" for n in (OURS, EXACT) if n in figures]
            tables.append(f"NDCG@10 on {facts.get('judged', 'judged texts')}: {', '.join(scores)}")
        if found := [text for text in tables if text]:
            parts += [f"{model} ({facts['describe']})", *found]
    if any(row.disturbed for row in rows):
        parts.append(
            "* Other programs took more than 5 % of the CPUs: measure again when they are done."
        )
    if rows:
        parts.append(machine(result))
    if result.missing:
        parts.append(
            "Not measured:\n" + "\n".join(f"- {n}: {why}" for n, why in result.missing.items())
        )
    return "\n\n".join(parts)


def _own_cases(rows: Sequence[Row]) -> str:
    exact = {row.key[:3]: row for row in rows if row.engine == EXACT}
    head = ["texts x tokens", "int8, ms", "texts/s", "tokens/s", "float32, ms", "speedup"]
    head.append(fidelity_title(rows))
    lines = [head]
    for row in rows:
        if row.engine != OURS or row.part not in _CALLS:
            continue
        beside = exact.get(row.key[:3])
        lines.append(
            [
                case_title(row.case) + (" *" if row.disturbed else ""),
                f"{row.values['median_ms']:.2f}",
                f"{row.values['texts_per_second']:,.0f}",
                f"{row.values['tokens_per_second']:,.0f}",
                "" if beside is None else f"{beside.values['median_ms']:.2f}",
                "" if beside is None or beside.ratio is None else f"{beside.ratio[0]:.2f}",
                fidelity(row),
            ]
        )
    if len(lines) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def case_title(case: str) -> str:
    """Return a case's name as tables show it: "32 x 256", "64 x 8 to 512", or a corpus."""
    if case.startswith("ragged"):
        return f"{case.removeprefix('ragged')} x 8 to 512"
    return case.replace("x", " x ") if case.replace("x", "").isdigit() else case


def machine(result: Result) -> str:
    """Return the machines of a result, one per line."""
    return "  \n".join(dict.fromkeys(map(machine_line, result.runs)))


def machine_line(run: dict[str, Any]) -> str:
    """Return CPU, instruction sets, threads and settings of a run.

    Args:
        run: one of `Result.runs`.
    """
    settings = run["settings"]
    held = "".join(f", {name}={value}" for name, value in run["environment"].items())
    return (
        f"{run['cpu']}{_model(run)} ({', '.join(run['cpu_flags'])}), Quaver on {run['quaver_isa']}, "
        f"{_threads(run)} on CPUs {', '.join(map(str, run['affinity']))}, "
        f"governor {settings['governor']}, {settings['allocator']}, "
        f"transparent huge pages {settings['transparent_huge_pages']}{held}"
    )


# Family to its generations, each from a model on. Source: Linux, arch/x86/kernel/cpu/amd.c.
_AMD = {
    23: {0x00: "Zen", 0x30: "Zen 2"},
    25: {0x00: "Zen 3", 0x10: "Zen 4", 0x20: "Zen 3", 0x60: "Zen 4"},
    26: {0x00: "Zen 5", 0x50: "", 0x60: "Zen 5", 0x80: ""},
}


def cpu_title(run: dict[str, Any]) -> str:
    """Return a CPU as a reader knows it, such as "AMD EPYC (Zen 5)".

    Args:
        run: one of `Result.runs`.

    Returns:
        the name with the generation; with family and model if the generation is unknown.
    """
    found = re.fullmatch(r"family (\d+) model (\d+)", run.get("cpu_model", ""))
    generation = ""
    if found and run["cpu"].startswith("AMD"):
        starts = _AMD.get(int(found[1]), {})
        generation = next(
            (name for start, name in reversed(starts.items()) if int(found[2]) >= start), ""
        )
    return f"{run['cpu']} ({generation})" if generation else run["cpu"] + _model(run)


def _model(run: dict[str, Any]) -> str:
    """Return family and model, because in virtual machines different CPUs can have the same name."""
    return f", {run['cpu_model']}" if run.get("cpu_model") else ""


def _threads(run: dict[str, Any]) -> str:
    threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    instances = run.get("instances", 1)
    return threads if instances == 1 else f"{instances} instances with {threads} each"


def _run_line(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    commit = f", commit {run['commit']}" if run["commit"] else ""
    return f"- {run['date']}{commit}: `{run['command']}` (Python {run['python']}, {versions})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Return a Markdown table.

    Args:
        head: titles of the columns.
        rows: the cells.
        words: number of leading columns with words; the others are aligned right.
    """
    sides = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, sides, *rows))


def _section(
    part: str, title: str, columns: dict[str, Callable[[Row], str]]
) -> Callable[[list[Row], Figures], str]:
    def make(rows: list[Row], figures: Figures) -> str:
        mine = in_order(row for row in rows if row.part == part)
        if not mine:
            return ""
        judged = ["NDCG@10 lost"] if figures else []
        shown = {
            title: show
            for title, show in columns.items()
            if show is not _peak or any(_OF_PEAK in row.values for row in mine)
        }
        head = ["case", "engine", *shown, fidelity_title(mine), *judged]
        head += ["Quaver int8 is faster by", "rounds (dropped)"]
        cells = [
            [
                row.case,
                row.engine,
                *(show(row) for show in shown.values()),
                fidelity(row, 5),
                *([_lost(figures, row.engine)] if figures else []),
                ratio(row),
                f"{row.rounds} ({row.dropped})" + (" *" if row.disturbed else ""),
            ]
            for row in mine
        ]
        text = f"### {title}\n\n{table(head, cells, words=2)}"
        if any(row.disturbed for row in mine):
            text += "\n\n\\* Other programs took more than 5 % of the CPUs in most rounds."
        if wrong := _wrong(mine):
            text += f"\n\n{wrong}"
        return text

    return make


def _wrong(rows: Iterable[Row]) -> str:
    """Return a note on the engines whose vectors or scores are not the model's."""
    found: dict[str, Row] = {}
    for row in rows:
        if not row.sound and (row.engine not in found or _worse(row, found[row.engine])):
            found[row.engine] = row
    names = ", ".join(f"{name} ({row.distance})" for name, row in found.items())
    return names and (
        f"Computes something else here: {names}. Below a mean cosine to float32 of {SOUND:g} the vectors "
        f"are not the model's, and beyond a mean difference of {FARTHEST:g} the scores: such a row has no "
        "ratio and is in no plot, and its speed means nothing."
    )


def _worse(row: Row, other: Row) -> bool:
    if row.score_difference is not None and other.score_difference is not None:
        return row.score_difference > other.score_difference
    return (row.cosine or 0.0) < (other.cosine or 0.0)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return rows sorted by case, in the order of measuring, then by engine."""
    kept = list(rows)
    cases = list(dict.fromkeys(row.case for row in kept))
    engines = list(FORMS)
    return sorted(
        kept,
        key=lambda row: (
            cases.index(row.case),
            engines.index(row.engine) if row.engine in engines else len(engines),
        ),
    )


def number(value: float | None) -> str:
    """Return a number with three significant digits, two below 1, or a dash."""
    if value is None:
        return NOT_MEASURED
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(row: Row) -> str:
    """Return how many times as fast Quaver int8 is, with quartiles."""
    if not row.sound:
        return "computes something else"
    if row.ratio is None:
        return NOT_MEASURED
    middle, low, high = row.ratio
    return f"**{middle:.2f}** ({low:.2f} to {high:.2f})"


def _value(name: str) -> Callable[[Row], str]:
    return lambda row: number(row.values.get(name))


def fidelity(row: Row, digits: int = 4) -> str:
    """Return the figure that compares a row with float32: a cosine, or a difference of scores."""
    if row.score_difference is not None:
        return f"{row.score_difference:.{digits - 1}f}"
    return NOT_MEASURED if row.cosine is None else f"{row.cosine:.{digits}f}"


def fidelity_title(rows: Iterable[Row]) -> str:
    """Return the title of a column of `fidelity`."""
    scores = any(row.score_difference is not None for row in rows)
    return "score difference" if scores else "cosine"


def _lost(figures: Figures, engine: str) -> str:
    found = figures.get(engine, {}).get("difference")
    return NOT_MEASURED if found is None else f"{0.0 - found:.4f}"


def _padding(row: Row) -> str:
    return NOT_MEASURED if row.padding is None else f"{100 * row.padding:.0f} %"


def _peak(row: Row) -> str:
    share = row.values.get(_OF_PEAK)
    return NOT_MEASURED if share is None else f"{100 * share:.0f} %"


_LATENCY = {f"{p} ms": _value(f"{p}_ms") for p in ("p50", "p95", "p99")}
_RATES = {"texts/s": _value("texts_per_second"), "tokens/s": _value("tokens_per_second")}
_SECTIONS = {
    "latency": _section("latency", "Latency: one text or pair", _LATENCY),
    "throughput": _section(
        "throughput",
        "Throughput: many texts or pairs",
        {
            "ms": _value("median_ms"),
            **_RATES,
            "padding": _padding,
            "GMAC/s": _value("gmacs_per_second"),
            "of peak": _peak,
        },
    ),
    "text": _section(
        "text",
        "Real text: tokenization included",
        {
            **_RATES,
            "MB/s": _value("megabytes_per_second"),
            "padding": _padding,
        },
    ),
    "concurrency": _section(
        "concurrency",
        "Concurrency: single queries from many clients, tokenization included",
        {"queries/s": _value("queries_per_second"), **_LATENCY},
    ),
    "start": _section(
        "start",
        "Start: a fresh process, from its start to the first vector",
        {
            "imported s": _value("import_seconds"),
            "load s": _value("load_seconds"),
            "first query ms": _value("first_query_ms"),
            "first vector s": _value("first_vector_seconds"),
            "peak MB": _value("peak_mb"),
            "model MB": _value("model_mb"),
            "packages MB": _value("packages_mb"),
        },
    ),
}


def _signed(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:+.4f}"


def _quality(figures: Figures, judged: str) -> str:
    cells = [
        [name, f"{found['ndcg10']:.4f}", _signed(found.get("difference"))]
        for name, found in figures.items()
    ]
    head = ["engine", "NDCG@10", "difference to float32"]
    return f"### Quality: ranking of {judged}\n\n{table(head, cells)}"
