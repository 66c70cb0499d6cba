"""How long a study takes: a model of `timing.alternate` with what is known of each engine's calls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quaver_bench.engines.registry import FORMS
from quaver_bench.inputs import PADDED_BATCH
from quaver_bench.timing import expected_rounds, expected_seconds

CLIENTS_BLOCK = 0.6
"""Seconds of a block of `clients`."""
_WARM_CLIENTS = 0.4
"""Seconds of an engine before its first block of `clients`."""
_PACE = 1 / 40e9
"""Seconds for a multiply-add of an engine of which nothing is known, as no other."""
_OWN_LOADING, _LOADING = 1.0, 20.0
"""Seconds to load Quaver, and another engine, for which the model is converted or quantized, before one was
loaded."""
_STARTING = 6.0
"""Seconds of `start` for an engine: up to four processes."""


@dataclass(frozen=True)
class Step:
    """A planned case.

    Attributes:
        part: one of `quaver_bench.result.PARTS`, or JUDGING.
        case: name of the case.
        lengths: number of tokens of each text in one call; empty if the time does not depend on them.
    """

    part: str
    case: str
    lengths: tuple[int, ...] = ()

    @property
    def ragged(self) -> bool:
        """Whether texts have different lengths, so a call may take PATIENCE times as long."""
        return len(set(self.lengths)) > 1

    def tokens(self, engine: str) -> int:
        """Return the number of tokens that an engine computes in one call, with padding if it pads."""
        form = FORMS[engine]
        if form.batches or not form.pads or not self.ragged:
            return sum(self.lengths)
        ordered = sorted(self.lengths, reverse=True)
        batches = [ordered[i : i + PADDED_BATCH] for i in range(0, len(ordered), PADDED_BATCH)]
        return sum(batch[0] * len(batch) for batch in batches)


JUDGING = "judging"
"""The part of a step that ranks judged texts."""
PATIENCE = 3
"""How many times `--longest` a call with texts of different lengths may take: no smaller batch predicts it."""


def engines_of(step: Step, engines: Sequence[str]) -> list[str]:
    """Return those of some engines that are measured in a step: in single queries, none for batches alone."""
    single = step.part in ("latency", "concurrency", "start")
    return [name for name in engines if not (single and FORMS[name].batches)]


def _own(engine: str) -> bool:
    """Return whether an engine is a form of Quaver, which needs no environment."""
    return not FORMS[engine].environment


class Forecast:
    """The expected seconds of steps.

    The seconds of a call are those of the engine's known call with the nearest number of multiply-adds, times
    the quotient of the two. An engine without a known call has the median pace of the others.
    """

    def __init__(
        self,
        products: Mapping[str, float],
        *,
        seconds: float,
        least: int,
        longest: float,
    ) -> None:
        """Begin without a known call.

        Args:
            products: name of each model to its multiply-adds for a token.
            seconds: time budget of a case.
            least: minimum number of rounds of a case.
            longest: seconds of a call beyond which an engine is left out.
        """
        self._products = dict(products)
        self._seconds, self._least, self._longest = seconds, least, longest
        self._known: dict[str, list[tuple[float, float]]] = {}
        self._loading: list[float] = []

    def learn(self, step: Step, model: str, engine: str, seconds: float) -> None:
        """Note the seconds of a call."""
        products = step.tokens(engine) * self._products[model]
        if products and seconds > 0:
            self._known.setdefault(engine, []).append((products, seconds))

    def loaded(self, engine: str, seconds: float) -> None:
        """Note how long an engine took to load."""
        if not _own(engine):
            self._loading.append(seconds)

    def loading(self, engines: Iterable[str]) -> float:
        """Return the expected seconds to load engines."""
        # The guess counts as one engine: the first does not stand for all.
        other = statistics.fmean([_LOADING, *self._loading])
        return sum(_OWN_LOADING if _own(engine) else other for engine in engines)

    def call(self, step: Step, model: str, engine: str) -> float:
        """Return the expected seconds of a call."""
        products = step.tokens(engine) * self._products[model]
        known = self._known.get(engine)
        if not known:
            paces = [calls[-1][1] / calls[-1][0] for calls in self._known.values()]
            return products * (statistics.median(paces) if paces else _PACE)
        nearest, seconds = min(known, key=lambda call: abs(math.log(call[0] / products)))
        return seconds * products / nearest

    def step(self, step: Step, model: str, engines: Iterable[str], share: float = 1.0) -> float:
        """Return the expected seconds of a step.

        Args:
            step: the step.
            model: name of the model.
            engines: names of the engines that are measured in it.
            share: of the time budget of a case.
        """
        names = list(engines)
        budget = self._seconds * share
        if step.part == "start":
            return _STARTING * len(names)
        if step.part == "concurrency":
            block = CLIENTS_BLOCK * len(names)
            rounds = expected_rounds(block, seconds=budget, least=self._least)
            return _WARM_CLIENTS * len(names) + rounds * block
        calls = [self.call(step, model, name) for name in names]
        if step.part == JUDGING:
            return sum(calls)
        limit = self._longest * (PATIENCE if step.ragged else 1)
        measured = [seconds for seconds in calls if seconds <= limit]
        # Where no smaller batch predicts it, an engine is left out after a call.
        tried = [seconds for seconds in calls if seconds > limit] if step.ragged else []
        first = 4 if step.part == "latency" else 1
        before = first * sum(measured) + sum(tried)
        return before + expected_seconds(measured, seconds=budget, least=self._least)
