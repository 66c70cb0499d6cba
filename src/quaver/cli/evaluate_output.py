"""What `quaver evaluate` leaves behind: tables on the terminal, files, a model card."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from quaver.cli.terminal import harmless
from quaver.errors import InputError
from quaver.evaluate import (
    EvaluationReport,
    Table,
    by_system,
    caption,
    draw,
    fidelity_table,
    is_quantized_folder,
    loss_table,
    markdown_report,
    write_between,
)

_NAME = 12
"""Characters in a line that a task's name keeps in a narrow terminal."""
_BETWEEN = 3
"""Characters between two columns."""


def show_report(report: EvaluationReport, *, as_json: bool, as_markdown: bool) -> None:
    """Print a report: as tables, as JSON or as Markdown."""
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    elif as_markdown:
        print(markdown_report(report), end="")
    else:
        console = Console(highlight=False)
        for table in (loss_table(report), fidelity_table(report)):
            if table.rows:
                _print(table, console)
        console.print(Text(harmless(caption(report)), "dim"))


def _print(table: Table, console: Console) -> None:
    """Print a table; where the terminal is too narrow for it, its figures in fewer columns."""
    unbounded = console.options.update(width=10_000)
    grids = [_grid(table)]
    if Measurement.get(console, unbounded, grids[0]).maximum > console.width:
        grids = [_grid(part) for part in by_system(table)]
    for grid in grids:
        # A terminal narrower than the figures folds the lines; none is cut off.
        narrowest = sum((column.min_width or 0) + _BETWEEN for column in grid.columns)
        console.print(grid, width=max(narrowest, console.width), crop=False)
        console.print()


def _grid(table: Table) -> Grid:
    grid = Grid(box=SIMPLE, pad_edge=False, show_edge=False)
    for number, name in enumerate(table.head):
        # Headings and names may be folded, figures not.
        widest = max((len(row[number]) for row in table.rows), default=0)
        grid.add_column(
            Text(name, overflow="fold"),
            justify="right" if number else "left",
            overflow="fold",
            min_width=widest if number else min(widest, _NAME),
        )
    for number, row in enumerate(table.rows):
        cells = [Text(harmless(cell)) for cell in row]
        grid.add_row(*cells, style="bold" if number in table.means else None)
    return grid


def make_folder(folder: Path) -> None:
    """Make the folder of --out before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder: {folder}: {error.strerror}") from error


def write_report(report: EvaluationReport, folder: Path) -> None:
    """Write results.json, results.md, results.png and queries.csv."""
    try:
        text = json.dumps(report.to_json(), indent=1) + "\n"
        (folder / "results.json").write_text(text, encoding="utf-8")
        (folder / "results.md").write_text(markdown_report(report), encoding="utf-8")
        with (folder / "queries.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["task", "query", report.baseline, *report.systems])
            for result in report.tasks:
                columns = [result.baseline, *(result.scores[s] for s in report.systems)]
                for query, *row in zip(result.task.queries, *columns, strict=True):
                    table.writerow([result.task.name, query, *(f"{v:.6f}" for v in row)])
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    if report.tasks:
        draw(report, folder / "results.png")


def write_cards(report: EvaluationReport, models: Mapping[str, str]) -> None:
    """Write the loss into the model card of every model that is a local int8 folder.

    Args:
        report: the report.
        models: column to folder or hub id.
    """
    for name, model in models.items():
        if is_quantized_folder(Path(model)):
            file = Path(model) / "README.md"
            write_between(file, markdown_report(report.only(name)))
            print(f"quaver: the loss stands in {file}", file=sys.stderr)
