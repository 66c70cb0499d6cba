"""A report as tables: Markdown, or cells for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quaver.evaluate.fidelity import Cosines
from quaver.evaluate.report import EvaluationReport, TaskResult
from quaver.evaluate.statistics import Difference
from quaver.evaluate.task import METRICS


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        head: headings; the first column is left-aligned, the others are right-aligned.
        rows: as many cells each as there are headings.
        means: indices of the rows with means of other rows.
        shared: number of columns, from the left, that belong to every system; 0 if each row is a system.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    means: frozenset[int] = frozenset()
    shared: int = 0


def loss_table(report: EvaluationReport) -> Table:
    """Return a table with a row for each task, the mean of each kind, and that of all tasks.

    Args:
        report: the report.

    Returns:
        columns: task, queries, the baseline's score, and for each system its score, the relative
        difference and that difference's 95 % interval.
    """
    columns = (f"{s}|difference|95 % interval".split("|") for s in report.systems)
    head = ["task", "metric", "queries", report.baseline, *(c for group in columns for c in group)]
    rows: list[list[str]] = []
    means = set()
    for kind in report.kinds:
        for result in report.of_kind(kind):
            cells = [f"{result.baseline.mean():.4f}"]
            for system in report.systems:
                cells += _difference(result.differences[system])
            rows.append([result.task.name, METRICS[kind], str(len(result.baseline)), *cells])
        means.add(len(rows))
        rows.append(
            _mean_row(f"mean of {kind}", METRICS[kind], report.of_kind(kind), report.means[kind])
        )
    if len(report.kinds) > 1:
        means.add(len(rows))
        metrics = ", ".join(METRICS[kind] for kind in report.kinds)
        rows.append(_mean_row("mean of all", metrics, report.tasks, report.overall))
    for other in report.others:
        cells = [f"{other.baseline:.4f}"]
        for system in report.systems:
            cells += [f"{other.scores[system]:.4f}", percent(other.relative(system)), "-"]
        rows.append([other.task, other.metric, "-", *cells])
    return Table(head, rows, frozenset(means), shared=4)


def _mean_row(
    name: str, metric: str, results: Sequence[TaskResult], found: Mapping[str, Difference]
) -> list[str]:
    """Return a row of `loss_table` with the means over several tasks."""
    cells = [f"{next(iter(found.values())).baseline:.4f}"]
    for difference in found.values():
        cells += _difference(difference)
    return [name, metric, str(sum(len(result.baseline) for result in results)), *cells]


def fidelity_table(report: EvaluationReport) -> Table:
    """Return a table of how close each system stays to the baseline, a row each.

    Args:
        report: the report.

    Returns:
        columns: system, cosines raw and centred, top 10 in common, same first document, and the
        mean difference of a candidate's score if a system has one.
    """
    three = ("mean", "1st percentile", "minimum")
    head = ["", *(f"cosine {c}" for c in three), *(f"centred {c}" for c in three)]
    head += ["top 10 in common", "same first"]
    near = {s: found for s in report.systems if (found := report.fidelity(s)) is not None}
    scores = any(found.score_difference is not None for found in near.values())
    head += ["score difference"] if scores else []
    rows = []
    for system, found in near.items():
        cells = [*_cosines(found.raw), *_cosines(found.centred)]
        cells += [_share(found.overlap_10), _share(found.same_first)]
        if scores:
            cells.append("-" if found.score_difference is None else f"{found.score_difference:.4f}")
        rows.append([system, *cells])
    return Table(head, rows)


def by_system(table: Table) -> list[Table]:
    """Return the same figures in fewer columns, for a narrow terminal.

    Args:
        table: from `loss_table` or `fidelity_table`.

    Returns:
        for `loss_table` one table for each system; for `fidelity_table` one with a column for each
        system.
    """
    if not table.shared:
        turned = list(zip(table.head, *table.rows, strict=True))
        return [Table(turned[0], turned[1:])]
    # The metric moves into the names of the rows of means.
    kept = [number for number in range(table.shared) if table.head[number] != "metric"]
    metric = table.head.index("metric")
    parts = []
    for first in range(table.shared, len(table.head), 3):
        columns = [*kept, *range(first, first + 3)]
        rows = [[row[number] for number in columns] for row in table.rows]
        for number in table.means:
            rows[number][0] += f", {table.rows[number][metric]}"
        parts.append(Table([table.head[number] for number in columns], rows, table.means))
    return parts


def markdown(table: Table) -> str:
    """Return a table in Markdown; the rows of means are bold."""
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)]]
    for number, row in enumerate(table.rows):
        bold = number in table.means
        lines.append([f"**{_safe(c)}**" if bold else _safe(c) for c in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_report(report: EvaluationReport) -> str:
    """Return a report in Markdown: both tables and a caption.

    Args:
        report: the report.

    Returns:
        the text, with a final line end.
    """
    parts = [markdown(loss_table(report))]
    nearness = fidelity_table(report)
    if nearness.rows:
        parts.append(markdown(nearness))
    parts.append(caption(report))
    return "\n\n".join(parts) + "\n"


def caption(report: EvaluationReport) -> str:
    """Return a paragraph on what the numbers mean and how they were measured."""
    run: dict[str, Any] = dict(report.run)
    parts = [
        "Differences are relative to the float32 column, measured in the same run on the same "
        "queries; the interval is a paired bootstrap over queries (10,000 draws). A mean counts each "
        "task once: queries are averaged within a task, then the tasks, and the draws are within "
        "each task. Centred cosines: the mean of the float32 document vectors is subtracted from "
        "both."
    ]
    graded = [r.task for r in report.tasks if r.task.relevance != 1 and r.task.kind == "reranking"]
    parts += [f"{t.name}: relevant from score {t.relevance}." for t in graded]
    parts += [str(run[key]) for key in ("note", "machine") if run.get(key)]
    parts += [f"{run['date']}."] if "date" in run else []
    parts += [f"`{run['command']}`"] if "command" in run else []
    return " ".join(parts)


def percent(share: float, *, digits: int = 2) -> str:
    """Return a share as a signed percentage: -0.0012 is "-0.12 %"."""
    text = f"{100 * share:+.{digits}f}"
    return ("0" + text[2:] if float(text) == 0 else text) + " %"


def _difference(found: Difference) -> list[str]:
    interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return [f"{found.mean:.4f}", percent(found.relative), interval]


def _cosines(found: Cosines | None) -> list[str]:
    if found is None:
        return ["-"] * 3
    # Round down: 0.99899 must not look as if it met a bound of 0.999.
    return [f"{int(v * 1e5) / 1e5:.5f}" for v in (found.mean, found.percentile_1, found.minimum)]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _safe(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())
