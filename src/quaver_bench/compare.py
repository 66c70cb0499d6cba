"""Compare two results: the same engines in the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quaver_bench.engines.registry import OURS
from quaver_bench.report import NOT_MEASURED, fidelity, in_order, machine, number, table
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

    @property
    def intervals(self) -> tuple[Interval, Interval] | None:
        """Median and quartiles before and after: of the ratios to Quaver, else of the milliseconds of a call.

        None if a row has neither.
        """
        if self.before.ratio is not None and self.after.ratio is not None:
            return _interval(self.before.ratio), _interval(self.after.ratio)
        rows = self.before.values, self.after.values
        names = ("median_ms", "quartile1_ms", "quartile3_ms")
        if self.lead is None and all(name in row for row in rows for name in names):
            before, after = (_interval([row[name] for name in names]) for row in rows)
            return before, after
        return None

    @property
    def spread(self) -> float | None:
        """Half of the distance of the quartiles over the median, the larger one of both results."""
        if self.intervals is None:
            return None
        return max((high - low) / (2 * middle) for middle, low, high in self.intervals)

    @property
    def verdict(self) -> str:
        """Whether the quartiles of both results overlap, so that the change is noise; else its direction."""
        if self.intervals is None:
            return NOT_MEASURED
        (_, low, high), (_, after_low, after_high) = self.intervals
        if low <= after_high and after_low <= high:
            return "noise"
        more = after_low > high
        return ("more" if more else "less") if self.lead is not None else _pace(more)


Interval = tuple[float, float, float]


def _interval(values: Sequence[float]) -> Interval:
    middle, low, high = values
    return middle, low, high


def _pace(slower: bool) -> str:
    return "slower" if slower else "faster"


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
            NOT_MEASURED if change.lead is None else f"{change.lead:.2f}",
            NOT_MEASURED if change.spread is None else f"{100 * change.spread:.0f} %",
            change.verdict,
            _both(fidelity(change.before), fidelity(change.after)),
        ]
        for change in found
    ]
    head = ["model", "part", "case", "engine", "unit", "before", "after", "times as fast"]
    head += [f"lead of {OURS} times", "spread", "change", "cosine or score difference"]
    parts = [table(head, cells, words=5)]
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


def _both(before: str, after: str) -> str:
    return before if before == after else f"{before} to {after}"
