"""The progress of a study: the current step, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A planned case of a model.

    Attributes:
        part: one of `quaver_bench.result.PARTS`.
        case: name of the case.
        tokens: number of tokens in one call; 0 if the time does not depend on it.
    """

    part: str
    case: str
    tokens: int


class StudyProgress:
    """A bar on stderr over the expected time, or plain lines if stderr is not a terminal.

    A case takes its time budget, or longer if the minimum number of rounds takes longer. Their time is estimated
    from earlier cases, in seconds per token of all engines together.
    """

    def __init__(
        self, steps: Sequence[Step], *, seconds: float, least: int, quiet: bool = False
    ) -> None:
        """Start.

        Args:
            steps: the cases of all models.
            seconds: time budget of a case.
            least: minimum number of rounds of a case.
            quiet: show only the bar: no rows, and no lines where stderr is no terminal.
        """
        from tqdm import tqdm

        self._left = list(steps)
        self._seconds, self._least, self._quiet = seconds, least, quiet
        self._per_token = 0.0
        self._begin = time.monotonic()
        self._bar: Any = tqdm(
            total=round(self.time_left()),
            disable=None,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar:20}| {desc}",
        )

    def time_left(self) -> float:
        """Return the expected seconds of the remaining steps."""
        return sum(self._expected(step) for step in self._left)

    def _expected(self, step: Step) -> float:
        return max(self._seconds, (self._least + 1) * step.tokens * self._per_token)

    @contextmanager
    def step(self, step: Step, model: str) -> Iterator[None]:
        """Run a step inside, and learn from its duration."""
        begin = time.monotonic()
        self.say(f"{model} {step.part} {step.case}")
        yield
        took = time.monotonic() - begin
        if step.tokens:
            self._per_token = min(took, 1e6) / ((self._least + 1) * step.tokens)
        self._left.remove(step)
        self.refresh()

    def skip(self, step: Step) -> None:
        """Remove a step from the plan."""
        self._left.remove(step)
        self.refresh()

    def say(self, doing: str) -> None:
        """Show the current activity."""
        left = self.time_left()
        if self._bar.disable and not self._quiet:
            print(f"{time.strftime('%H:%M:%S')} {doing}", file=sys.stderr, flush=True)
        self._bar.set_description_str(f"about {_clock(left)} left, {doing}"[:100], refresh=False)
        self.refresh()

    def print(self, line: str) -> None:
        """Print a line above the bar, unless quiet."""
        if self._quiet:
            return
        self._bar.write(line, file=sys.stderr)

    def refresh(self) -> None:
        """Redraw the bar."""
        elapsed = time.monotonic() - self._begin
        self._bar.n = round(elapsed)
        self._bar.total = max(1, round(elapsed + self.time_left()))
        self._bar.refresh()

    def __enter__(self) -> StudyProgress:
        """Return this object."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self._bar.leave = False
        self._bar.close()


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
