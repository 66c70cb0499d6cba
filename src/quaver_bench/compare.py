"""Compare two results: the same engines in the same cases."""

from __future__ import annotations

from dataclasses import dataclass

from quaver_bench.engines.registry import OURS
from quaver_bench.report import in_order, machine, number, table
from quaver_bench.result import Result, Row
from quaver_bench.stored import COMPARED


@dataclass(frozen=True)
class Change:
    """A row that both results have.

    Attributes:
        before: the row of the first result.
        after: the row of the second.
    """

    before: Row
    after: Row

    @property
    def unit(self) -> str:
        """Name of the compared figure."""
        return COMPARED[self.after.part][0]

    @property
    def speedup(self) -> float:
        """How many times as fast the second is; below 1 if it is slower."""
        name, more = COMPARED[self.after.part]
        before, after = self.before.values[name], self.after.values[name]
        return after / before if more else before / after

    @property
    def lead(self) -> float | None:
        """Factor by which Quaver's lead over this engine changed; None for Quaver itself.

        Unlike `speedup` it does not depend on the state of the machine, because both ratios were
        measured in turns.
        """
        if self.before.ratio is None or self.after.ratio is None:
            return None
        return self.after.ratio[0] / self.before.ratio[0]


def changes(before: Result, after: Result) -> list[Change]:
    """Return the rows that both results have, in the order of the second."""
    known = {row.key: row for row in before.rows}
    return [Change(known[row.key], row) for row in in_order(after.rows) if row.key in known]


def comparison(before: Result, after: Result) -> str:
    """Return the changes as Markdown.

    Args:
        before: the first result.
        after: the second.

    Returns:
        a table, the machines if they differ, and the rows that only one result has.
    """
    found = changes(before, after)
    cells = [
        [
            change.after.model,
            change.after.part,
            change.after.case,
            change.after.engine,
            change.unit.replace("_", " "),
            number(change.before.values[change.unit]),
            number(change.after.values[change.unit]),
            f"{change.speedup:.2f}",
            "-" if change.lead is None else f"{change.lead:.2f}",
        ]
        for change in found
    ]
    head = ["model", "part", "case", "engine", "unit", "before", "after", "times as fast"]
    parts = [table([*head, f"lead of {OURS} times"], cells, words=5)]
    if not found:
        parts = ["The two results have no row in common."]
    if machine(before) != machine(after):
        parts.append(
            f"Different machines or settings.\n\nBefore: {machine(before)}\n\nAfter: {machine(after)}"
        )
    for title, one, other in (("before", before, after), ("after", after, before)):
        keys = {row.key for row in other.rows}
        alone = [row for row in one.rows if row.key not in keys]
        if alone:
            engines = sorted({row.engine for row in alone})
            parts.append(f"{len(alone)} rows only {title}: {', '.join(engines)}")
    return "\n\n".join(parts)
