"""The progress of a study: the current step, and the time left."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from quaver_bench.forecast import Forecast, Step, engines_of

Planned = tuple[str, Step]
"""Name of a model, and a step."""


@dataclass(frozen=True)
class Plan:
    """What one process measures.

    Attributes:
        steps: of all models.
        engines: names of the engines, in the order in which they are loaded.
        share: of the time budget of a case.
    """

    steps: Sequence[Planned]
    engines: Sequence[str]
    share: float = 1.0


@dataclass
class StudyProgress:
    """A bar on stderr over the expected time, or plain lines if stderr is not a terminal.

    Attributes:
        plan: what this process measures.
        forecast: learns what calls take.
        later: what processes in other environments measure afterwards.
        quiet: show only the bar: no rows, and no lines where stderr is no terminal.
    """

    plan: Plan
    forecast: Forecast
    later: Sequence[Plan] = ()
    quiet: bool = False
    _left: list[Planned] = field(init=False)
    _loaded: Counter[str] = field(init=False, default_factory=Counter)
    _begin: float = field(init=False, default_factory=time.monotonic)
    _step_begin: float | None = field(init=False, default=None)
    _bar: Any = field(init=False)

    def __post_init__(self) -> None:
        """Start the bar."""
        from tqdm import tqdm

        self._left = list(self.plan.steps)
        self._bar = tqdm(
            total=round(self.time_left()),
            disable=None,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar:20}| {desc}",
        )

    def time_left(self) -> float:
        """Return the expected seconds of what is not done."""
        left = self._seconds(self.plan, self._left, self._loaded)
        if self._step_begin is not None:
            left -= min(time.monotonic() - self._step_begin, self._expected(self._left[0]))
        return left + sum(self.later_seconds())

    def later_seconds(self) -> list[float]:
        """Return the expected seconds of each later plan."""
        return [self._seconds(plan, plan.steps, Counter()) for plan in self.later]

    def _seconds(self, plan: Plan, steps: Sequence[Planned], loaded: Counter[str]) -> float:
        models = {model for model, step in steps if step.part != "start"}
        loads = (name for model in models for name in plan.engines[loaded[model] :])
        return self.forecast.loading(loads) + sum(
            self.forecast.step(step, model, engines_of(step, plan.engines), plan.share)
            for model, step in steps
        )

    def _expected(self, planned: Planned) -> float:
        model, step = planned
        return self.forecast.step(step, model, engines_of(step, self.plan.engines))

    @contextmanager
    def step(self, step: Step, model: str) -> Iterator[None]:
        """Run a step inside."""
        self._left.remove((model, step))
        self._left.insert(0, (model, step))
        self._step_begin = time.monotonic()
        self.say(f"{model} {step.part} {step.case}")
        try:
            yield
        finally:
            self._step_begin = None
        self._left.pop(0)
        self.refresh()

    def skip(self, step: Step, model: str) -> None:
        """Remove a step from the plan."""
        self._left.remove((model, step))
        self.refresh()

    def resize(self, step: Step, model: str, lengths: Sequence[int]) -> Step:
        """Return a step with the lengths of its texts, which were not known before."""
        found = Step(step.part, step.case, tuple(lengths))
        self._left[self._left.index((model, step))] = (model, found)
        return found

    def loaded(self, model: str, engine: str, seconds: float) -> None:
        """Note that the next engine was loaded, or could not be."""
        self._loaded[model] += 1
        self.forecast.loaded(engine, seconds)

    def say(self, doing: str) -> None:
        """Show the current activity."""
        left = self.time_left()
        if self._bar.disable and not self.quiet:
            line = f"{time.strftime('%H:%M:%S')} about {_clock(left)} left: {doing}"
            print(line, file=sys.stderr, flush=True)
        self._bar.set_description_str(f"about {_clock(left)} left, {doing}"[:100], refresh=False)
        self.refresh()

    def print(self, line: str) -> None:
        """Print a line above the bar, unless quiet."""
        if self.quiet:
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
