"""Plots of a result: an overview, latency over length, throughput over batch, throughput against quality lost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quaver.errors import needs_extra
from quaver_bench.engines.registry import FAMILIES, OURS
from quaver_bench.inputs import case_lengths
from quaver_bench.report import cpu_title, in_order, machine_line
from quaver_bench.result import Result, Row
from quaver_bench.summary import WELL_KNOWN, fastest_of_each, form_title

_MAX_LINES = 8
"""Lines in one picture: Quaver and each engine's fastest form; all forms are in the tables."""
# Okabe and Ito's palette without its yellow, which is too light for lines, and Tol's wine and olive:
# distinguishable with every kind of color vision. Quaver is black and thick.
_COLORS = {
    "quaver": "#000000",
    "openvino": "#0072B2",
    "onnxruntime": "#D55E00",
    "torch": "#009E73",
    "sentence-transformers": "#CC79A7",
    "fastembed": "#E69F00",
    "ctranslate2": "#56B4E9",
    "llamacpp": "#999933",
    "ipex": "#7F7F7F",
    "zentorch": "#882255",
    "flashrank": "#44AA99",
}
# Forms of an engine differ in marker and dashes, so no plot relies on color alone.
_MARKERS = "osD^vP"
_DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
_SIZE = (8.0, 5.2)
_RATE = "texts_per_second"


def write_plots(result: Result, folder: Path) -> list[Path]:
    """Draw the plots that the result has rows for, as PNG and SVG, and remove the others.

    Args:
        result: the result; each plot draws the first model that has such rows.
        folder: folder for the files.

    Returns:
        the files.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    with needs_extra("bench"):
        import matplotlib
    written = []
    # Text stays text in an SVG, and the same result always makes the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "quaver", "font.size": 10}):
        for name, draw in (
            ("overview", _overview),
            ("latency", _latency),
            ("throughput", _throughput),
            ("quality", _quality),
        ):
            figure = draw(result)
            for suffix, metadata in (("png", None), ("svg", {"Date": None})):
                path = folder / f"{name}.{suffix}"
                if figure is None:
                    path.unlink(missing_ok=True)
                    continue
                figure.savefig(path, dpi=150, metadata=metadata)
                written.append(path)
    return written


def _rows(result: Result, part: str, keep: Callable[[Row], bool]) -> list[Row]:
    """Rows of the first model that has them, in the order of the tables, with the model's vectors."""
    sound = [row for row in in_order(result.rows) if row.sound]
    found = [row for row in sound if row.part == part and keep(row)]
    models = [model for model in result.models if any(row.model == model for row in found)]
    return [row for row in found if models and row.model == models[0]]


def _numbers(row: Row) -> tuple[int, int]:
    """Return texts and tokens of a case such as "32x256"; zeros for other names."""
    texts, found, tokens = row.case.partition("x")
    return (int(texts), int(tokens)) if found and (texts + tokens).isdigit() else (0, 0)


def _matched(rows: Sequence[Row], unit: str) -> dict[tuple[str, str, str, str], float]:
    """Return the drawn value of each row.

    An engine of another environment is drawn by its ratio to Quaver there, times Quaver's value here,
    because the state of the machine differs between two processes.
    """
    ours = {row.case: row.values[unit] for row in rows if row.engine == OURS}
    drawn = {}
    for row in rows:
        drawn[row.key] = row.values[unit]
        if "environment" in row.settings and row.ratio and row.case in ours:
            times = 1 / row.ratio[0] if unit == _RATE else row.ratio[0]
            drawn[row.key] = ours[row.case] * times
    return drawn


def _overview(result: Result) -> Any:
    """Draw a bar for the fastest form of each well-known engine, with texts of different lengths."""
    rows = _rows(
        result,
        "throughput",
        lambda row: row.case.startswith("ragged") and row.cosine is not None,
    )
    named = {form.name for family in WELL_KNOWN for form in FAMILIES[family]}
    found = fastest_of_each({row.engine: row for row in rows})
    shown = [row for row in found if row.engine in named]
    if len(shown) < 2:
        return None
    from matplotlib.figure import Figure

    drawn = _matched(rows, _RATE)
    figure = Figure(figsize=(8.0, 0.5 * len(shown) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    longest = max(drawn[row.key] for row in shown)
    for place, row in enumerate(shown):
        rate = drawn[row.key]
        axes.barh(place, rate, color="#0072B2" if row.engine == OURS else "#9aa5ad", height=0.7)
        axes.text(rate + longest / 80, place, f"{rate:,.0f}", va="center", fontsize=12)
        axes.text(longest * 1.3, place, f"{row.cosine:.4f}", va="center", ha="right", fontsize=12)
    axes.text(longest * 1.3, -0.75, "cosine to float32", ha="right", fontsize=10, color="#555555")
    axes.text(0, -0.75, "texts per second", fontsize=10, color="#555555")
    axes.set_yticks(range(len(shown)), [form_title(row.engine) for row in shown], fontsize=12)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(shown) - 0.5, -1.1)
    axes.set_xlim(0, longest * 1.31)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    run, count = result.runs[shown[0].run], shown[0].case.removeprefix("ragged")
    figure.suptitle(
        f"{shown[0].model}: {count} texts of 8 to 512 tokens, two cores"
        if run["threads"] == 2
        else f"{shown[0].model}: {count} texts of 8 to 512 tokens, {run['threads']} threads",
        fontsize=13,
        x=0.01,
        ha="left",
    )
    figure.supxlabel(
        f"{cpu_title(run)}{_kind(run)}; each engine in its fastest form, in turns",
        fontsize=9.5,
        color="#555555",
        x=0.01,
        ha="left",
    )
    return figure


def _kind(run: dict[str, Any]) -> str:
    best = next(
        (flag for flag in ("avx512_vnni", "avx_vnni", "avx2") if flag in run["cpu_flags"]), ""
    )
    return f" with {best}" if best else ""


def _latency(result: Result) -> Any:
    rows = _rows(result, "latency", lambda row: _numbers(row)[0] == 1)
    title = "Latency of one text: median; Quaver's to p99 shaded"
    matched = _matched(rows, "p50_ms")
    figure, axes = _lines(
        result, rows, lambda row: _numbers(row)[1], lambda row: matched[row.key], title
    )
    if figure is None:
        return None
    ours = [row for row in rows if row.engine == OURS]
    lengths = [_numbers(row)[1] for row in ours]
    low, high = ([row.values[f"p{p}_ms"] for row in ours] for p in (50, 99))
    axes.fill_between(lengths, low, high, color=_COLORS["quaver"], alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("length of the text, tokens")
    axes.set_ylabel("latency, milliseconds (log; lower is better)")
    return figure


def _throughput(result: Result) -> Any:
    rows = _rows(result, "throughput", lambda row: _numbers(row)[0] > 1)
    lengths = {_numbers(row)[1] for row in rows}
    if len(lengths) > 1:
        longest = max(lengths, key=[_numbers(row)[1] for row in rows].count)
        rows = [row for row in rows if _numbers(row)[1] == longest]
    title = f"Throughput of batches of {_numbers(rows[0])[1]} tokens" if rows else ""
    matched = _matched(rows, _RATE)
    figure, axes = _lines(
        result, rows, lambda row: _numbers(row)[0], lambda row: matched[row.key], title
    )
    if figure is None:
        return None
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch, texts")
    axes.set_ylabel("throughput, texts per second (higher is better)")
    return figure


def _quality(result: Result) -> Any:
    """Draw speed against quality lost, in the case with most engines, then most texts.

    There are two panels if judged texts were ranked: cosine, and NDCG@10.
    """
    rows = [
        row
        for row in _rows(result, "throughput", lambda row: True)
        if result.models[row.model]["weights"] == "real" and row.cosine is not None
    ]
    if not rows:
        return None
    cases = [row.case for row in rows]
    case = max(dict.fromkeys(cases), key=lambda name: (cases.count(name), len(case_lengths(name))))
    rows = [row for row in rows if row.case == case]
    chosen = {row.engine for row in fastest_of_each({row.engine: row for row in rows})}
    rows = [row for row in rows if row.engine in {*chosen, "quaver-float32"}]
    judged = any(row.ndcg10_difference is not None for row in rows)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], 5.8), layout="constrained")
    panels = figure.subplots(1, 2 if judged else 1, sharey=True, squeeze=False)[0]
    least, matched = 1e-6, _matched(rows, _RATE)
    for row in rows:
        lost = max(least, 1.0 - (row.cosine or 0.0))
        _dot(panels[0], row, rows, (lost, matched[row.key]))
    panels[0].set_xscale("log")
    panels[0].set_xlim(least / 3, 1.0)
    panels[0].set_xlabel(f"1 - mean cosine to float32\n(log; left is better; {least:g} or less)")
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("throughput, texts per second (higher is better)")
    if judged:
        for row in rows:
            if row.ndcg10_difference is not None:
                lost = 0.0 - 100 * row.ndcg10_difference
                _dot(panels[1], row, rows, (lost, matched[row.key]))
        panels[1].axvline(0, color="#999999", linewidth=1, zorder=1)
        panels[1].set_xlabel(
            "NDCG@10 lost, points of 100\non "
            f"{result.models[rows[0].model].get('judged', 'judged texts')} (left is better)"
        )
        _plain(panels[1])
    _label_dots(panels[0], panels[-1])
    return _finished(figure, panels[0], result, rows, f"Speed against quality lost, {case}")


def _dot(axes: Any, row: Row, rows: Sequence[Row], place: tuple[float, float]) -> None:
    color, marker, _ = _style(row.engine, rows)
    axes.scatter(
        *place,
        s=130 if row.engine == OURS else 60,
        color=color,
        marker=marker,
        edgecolors="white",  # separates overlapping marks
        linewidths=0.6,
        label=row.engine,
        zorder=3,
    )


def _label_dots(all_dots: Any, axes: Any) -> None:
    """Write the name of each dot of a panel at its height, right of the last panel; move close names apart."""
    dots = sorted(all_dots.collections, key=lambda dot: float(dot.get_offsets()[0][1]))
    gap = float(dots[-1].get_offsets()[0][1]) / 22
    last = -math.inf
    for dot in dots:
        last = max(float(dot.get_offsets()[0][1]), last + gap)
        axes.annotate(
            dot.get_label(),
            (1.03, last),
            xycoords=("axes fraction", "data"),
            va="center",
            color=dot.get_facecolor()[0],
            fontsize=9,
            fontweight="bold" if dot.get_label() == OURS else "normal",
        )


def _lines(
    result: Result,
    rows: Sequence[Row],
    x: Callable[[Row], int],
    y: Callable[[Row], float],
    title: str,
) -> tuple[Any, Any]:
    """Draw a line for each engine, or nothing if there are fewer than two x values."""
    places = sorted({x(row) for row in rows})
    if len(places) < 2:
        return None, None
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    longest = {row.engine: row for row in rows if x(row) == places[-1]}
    engines = [row.engine for row in fastest_of_each(longest)][:_MAX_LINES]
    for engine in engines or dict.fromkeys(row.engine for row in rows):
        mine = sorted((x(row), y(row)) for row in rows if row.engine == engine)
        color, marker, dashes = _style(engine, rows)
        axes.plot(
            *zip(*mine, strict=True),
            color=color,
            marker=marker,
            markersize=5,
            linestyle=dashes,
            linewidth=2.6 if engine == OURS else 1.3,
            label=engine,
            zorder=3 if engine == OURS else 2,
        )
    axes.set_xscale("log", base=2)
    _label_lines(axes, places)
    axes.set_xticks(places, [str(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    return _finished(figure, axes, result, rows, title), axes


def _label_lines(axes: Any, places: Sequence[int]) -> None:
    """Write each line's name after its end, and move close names apart."""
    axes.set_xlim(right=places[-1] * (places[-1] / places[0]) ** 0.42)
    lines = sorted(axes.get_lines(), key=lambda line: line.get_ydata()[-1])
    values = [float(value) for line in lines for value in line.get_ydata()]
    logarithmic = min(values) > 0 and max(values) / min(values) > 30
    scale = np.log if logarithmic else np.asarray
    gap = float(scale(max(values)) - scale(min(values)) if logarithmic else max(values)) / 22
    last = -math.inf
    for line in lines:
        at = max(float(scale(line.get_ydata()[-1])), last + gap)
        last = at
        axes.annotate(
            line.get_label(),
            (line.get_xdata()[-1], line.get_ydata()[-1]),
            xytext=(line.get_xdata()[-1] * 1.09, float(np.exp(at)) if logarithmic else at),
            color=line.get_color(),
            fontsize=9,
            va="center",
            fontweight="bold" if line.get_label() == OURS else "normal",
        )


def _style(engine: str, rows: Sequence[Row]) -> tuple[str, str, Any]:
    """Return the color of the engine, and the marker and dashes of the form."""
    for family, forms in FAMILIES.items():
        names = [form.name for form in forms]
        if engine in names:
            place = names.index(engine) % len(_MARKERS)
            return _COLORS[family], _MARKERS[place], _DASHES[place]
    others = [row.engine for row in rows]
    return "#999999", _MARKERS[others.index(engine) % len(_MARKERS)], "--"


def _finished(figure: Any, axes: Any, result: Result, rows: Sequence[Row], title: str) -> Any:
    model = rows[0].model
    axes.set_title(
        f"{title}\n{model} ({result.models[model]['describe']})", loc="left", fontsize=11
    )
    _plain(axes)
    run = result.runs[rows[0].run]
    caption = f"{machine_line(run)}. Quaver {run['versions'].get('quaver', '')}, {run['date']}."
    if any("environment" in row.settings for row in rows):
        caption += (
            " Engines of another environment ran in turns with Quaver there, and are drawn by their "
            "ratio to it."
        )
    width = round(130 * figure.get_figwidth() / _SIZE[0])
    figure.supxlabel(textwrap.fill(caption, width), fontsize=7, color="#555555", x=0.01, ha="left")
    return figure


def _plain(axes: Any) -> None:
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
