"""A report as a picture: each task's difference with its interval, and the single queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quaver.errors import InputError, needs_extra
from quaver.evaluate.report import EvaluationReport
from quaver.evaluate.statistics import Difference

# Okabe and Ito's colors, which people with any color vision can distinguish; shapes help too.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = ("o", "s", "^", "D", "v", "P")


def draw(report: EvaluationReport, path: Path) -> None:
    """Write the picture.

    Left: the relative difference of every task and of the means with its 95 % interval, in percent.
    Right: the differences of single queries in points of the metric, sorted, all tasks together.

    Args:
        report: has at least one task with judgments.
        path: the file, .png or .svg.

    Raises:
        InputError: the file cannot be written.
        ImportError: the extra "evaluate" is not installed.
    """
    with needs_extra("evaluate"):
        from matplotlib.figure import Figure
    lines = _lines(report)
    height = 1.8 + len(lines) * (0.22 + 0.14 * len(report.systems))
    figure = Figure(figsize=(11, max(4, height)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for number, system in enumerate(report.systems):
        color, shape = _COLORS[number % 6], _SHAPES[number % 6]
        shift = 0.18 * (number - (len(report.systems) - 1) / 2)
        for place, (name, found) in enumerate(lines):
            d = found[system]
            left.plot([100 * d.low, 100 * d.high], [place + shift] * 2, color=color, lw=1.4)
            left.plot(
                100 * d.relative,
                place + shift,
                shape,
                color=color,
                ms=8 if name.startswith("mean") else 5,
                label=system if place == 0 else None,
            )
        changes = np.sort(np.concatenate([r.scores[system] - r.baseline for r in report.tasks]))
        share = np.linspace(0, 100, len(changes))
        worse, better = np.mean(changes < -1e-9), np.mean(changes > 1e-9)
        note = f"{system}: {100 * worse:.0f} % worse, {100 * better:.0f} % better"
        right.plot(share, 100 * changes, color=color, lw=1.6, label=note)
    left.axvline(0, color="black", lw=0.8)
    for place, (name, _) in enumerate(lines):
        if name.startswith("mean"):
            left.axhspan(place - 0.5, place + 0.5, color="0.93", zorder=0)
    left.set_yticks(range(len(lines)), [name for name, _ in lines])
    left.invert_yaxis()
    left.set_xlabel(f"difference to {report.baseline}, % of its score (95 % interval)")
    left.grid(axis="x", color="0.85", lw=0.6)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    right.axhline(0, color="black", lw=0.8)
    right.set_xlabel("queries, sorted by difference (share, %)")
    right.set_ylabel("its difference, points (100 = perfect)")
    right.grid(color="0.85", lw=0.6)
    right.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _lines(report: EvaluationReport) -> list[tuple[str, dict[str, Difference]]]:
    lines = []
    for kind in report.kinds:
        lines += [(r.task.name, r.differences) for r in report.of_kind(kind)]
        lines.append((f"mean of {kind}", report.means[kind]))
    if len(report.kinds) > 1:
        lines.append(("mean of all", report.overall))
    return lines
