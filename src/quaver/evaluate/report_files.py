"""A report as files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from quaver.errors import InputError
from quaver.evaluate.plot import draw
from quaver.evaluate.report import EvaluationReport
from quaver.evaluate.table import markdown_report


def write_report(report: EvaluationReport, folder: Path) -> None:
    """Write results.json, results.md, results.png and queries.csv.

    Args:
        report: the report.
        folder: an existing folder.

    Raises:
        InputError: a file cannot be written.
    """
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
