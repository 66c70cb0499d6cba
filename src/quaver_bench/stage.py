"""A model with its loaded engines, which every part measures."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from quaver_bench.corpus import Corpus
from quaver_bench.engines import CannotRunError, Engine, Form, Run, Setup
from quaver_bench.engines.registry import FORMS, OURS
from quaver_bench.forecast import Step
from quaver_bench.inputs import Request, TextSource, pad, padding_share
from quaver_bench.instances import InstancesEngine
from quaver_bench.kinds import Rows
from quaver_bench.models import Model
from quaver_bench.progress import StudyProgress
from quaver_bench.quality import Judgments
from quaver_bench.result import Row
from quaver_bench.timing import Timing, alternate

T = TypeVar("T")
_PROBES, _PROBED = 4, 128
"""Texts of the call that is timed after loading, and their tokens."""
REFERENCES = ("torch-float32", "quaver-float32")
"""Engines whose vectors are the reference; the first that is loaded is used."""


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long.

    Attributes:
        forms: the engines, including Quaver int8; all run the kind of the models.
        parts: some of `quaver_bench.result.PARTS`.
        cases: names for `get_case`.
        threads: threads of every engine.
        seconds: time for each case, all engines together, without loading.
        least: minimum number of rounds of a case.
        longest: an engine whose call takes more seconds is left out; three times as many with texts of
            different lengths.
        corpus: see `read_corpus`.
        count: number of texts of the corpus.
        clients: numbers of clients.
        random_ids: use random ids instead of text.
        judgments: tasks with judged texts; may be empty.
        cpus: CPUs of each instance of an engine, if there are several.
    """

    forms: Sequence[Form]
    parts: Sequence[str]
    cases: Sequence[str]
    threads: int
    seconds: float
    least: int
    longest: float
    corpus: Path | None
    count: int
    clients: Sequence[int]
    random_ids: bool
    judgments: Sequence[Judgments]
    cpus: Sequence[Sequence[int]] = ((),)

    @property
    def instances(self) -> int:
        """Number of processes of each engine that run at the same time."""
        return len(self.cpus)


@dataclass(frozen=True)
class Stage:
    """The inputs and engines of all parts.

    Attributes:
        options: what to measure.
        setup: what every engine gets.
        corpus: real text.
        source: cuts pieces from it.
        engines: the loaded engines by name.
        pace: engine to its seconds per token in the last batch of texts of equal length.
        progress: shows the progress.
        run: index of this run in the result.
        missing: engine, model and case to the reason why it was not measured; added to.
    """

    options: Options
    setup: Setup
    corpus: Corpus
    source: TextSource
    progress: StudyProgress
    run: int
    missing: dict[str, str]
    engines: dict[str, Engine] = field(default_factory=dict)
    pace: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The model."""
        return self.setup.model

    def load(self) -> None:
        """Load the engines; note those that cannot be loaded.

        Raises:
            CannotRunError: Quaver int8 cannot run the model.
        """
        probe = Step("latency", "probe", (min(_PROBED, self.setup.max_length),) * _PROBES)
        for form in self.options.forms:
            self.progress.say(f"{self.model.name}: loading {form.name}")
            begin = time.monotonic()
            engine = self.attempt(form.name, "", partial(self._loaded, form))
            if engine is not None:
                self.engines[form.name] = engine
                seconds = self.attempt(form.name, None, partial(self._probed, engine, probe))
                if seconds is not None:
                    self.progress.forecast.learn(probe, self.model.name, form.name, seconds)
            self.progress.loaded(self.model.name, form.name, time.monotonic() - begin)

    def _probed(self, engine: Engine, probe: Step) -> float:
        """Return the seconds of a call of a loaded engine, for the time left."""
        run = engine.prepare(self.source.request(probe.lengths, seed=0, batch=_PROBES))
        run()
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    def release(self) -> None:
        """Release the engines and their memory."""
        self.engines.clear()
        if (torch_engines := sys.modules.get("quaver_bench.engines.pytorch")) is not None:
            torch_engines.load_encoder.cache_clear()
        gc.collect()

    def _loaded(self, form: Form) -> Engine:
        if self.options.instances == 1:
            return form.load(self.setup)
        return InstancesEngine(form, self.setup, self.options.cpus)

    @property
    def reference(self) -> str:
        """The engine whose vectors are the reference."""
        return next((name for name in REFERENCES if name in self.engines), OURS)

    @property
    def processes(self) -> list[int]:
        """Ids of the engines' processes, without this one."""
        several = [e for e in self.engines.values() if isinstance(e, InstancesEngine)]
        return [process for engine in several for process in engine.processes]

    def attempt(self, engine: str, case: str | None, action: Callable[[], T]) -> T | None:
        """Run an action of an engine; if it fails, note the reason and return None.

        Args:
            engine: name of the engine.
            case: name of the case; "" for all cases; None notes nothing.
            action: the action.

        Returns:
            the result of the action, or None.

        Raises:
            CannotRunError: Quaver int8, the base of the comparison, cannot be measured.
        """
        try:
            return action()
        except CannotRunError as error:
            if engine == OURS:
                raise
            why = str(error)
        except Exception as error:
            if engine == OURS:
                raise
            why = f"{type(error).__name__}: {error}"
        if case is not None:
            self.miss(engine, case, why)
        return None

    def miss(self, engine: str, case: str, why: str) -> None:
        """Note the reason why an engine, or one case of it, was not measured."""
        lines = why.strip().splitlines() or ["no reason given"]
        key = f"{engine} ({self.model.name}{', ' if case else ''}{case})"
        self.missing[key] = lines[0][:300] + (" ..." if len(lines) > 1 else "")
        self.progress.say(f"{key} was not measured: {self.missing[key]}")

    def too_long(self, engine: str, case: str, tokens: int) -> bool:
        """Return whether a batch would take an engine too long, and note it.

        The time is estimated from the batch before. Quaver int8 and the reference are never left out.
        """
        expected = self.pace.get(engine, 0.0) * tokens
        if expected <= self.options.longest or engine in (OURS, self.reference):
            return False
        limit = f"{self.options.longest:g} s"
        self.miss(engine, case, f"a call would take some {expected:.0f} s, the limit is {limit}")
        return True

    def alternate(
        self,
        calls: Mapping[str, Sequence[Run]],
        took: Mapping[str, float],
        *,
        patience: int = 1,
    ) -> Timing:
        """Time calls in turns, according to the options.

        Args:
            calls: engine to its calls.
            took: engine to the seconds of an earlier call.
            patience: factor of the longest time of a call.

        Returns:
            the times.
        """
        return alternate(
            calls,
            took={name: time for name, time in took.items() if not FORMS[name].compiles},
            seconds=self.options.seconds,
            least=self.options.least,
            longest=patience * self.options.longest,
            own=self.processes,
            on_round=self.progress.refresh,
        )

    def rows(
        self,
        part: str,
        case: str,
        timing: Timing,
        values: Mapping[str, dict[str, float]],
        vectors: Mapping[str, Rows],
        request: Request,
    ) -> list[Row]:
        """Make the rows of a case that was timed.

        Args:
            part: one of `quaver_bench.result.PARTS`.
            case: name of the case in the tables.
            timing: the times.
            values: engine to its figures.
            vectors: engine to its rows of the same texts, as `Kind.plain` makes them.
            request: these texts.

        Returns:
            a row for each engine that was timed.
        """
        for name, why in timing.left_out.items():
            self.miss(name, case, why)
        near = self.fidelity(vectors)
        rows = []
        for name, figures in values.items():
            row = Row(part, self.model.name, case, name, self.run, figures)
            setattr(row, self.model.kind.figure, near[name])
            if name != OURS and OURS in values:
                row.compare(*timing.ratio(OURS, name))
            row.settings = dict(self.engines[name].settings)
            row.padding = _padding(FORMS[name], row.settings, request)
            row.rounds, row.dropped = len(timing.calls[name]), timing.dropped
            row.disturbed = timing.disturbed
            rows.append(row)
        return rows

    def fidelity(self, rows: Mapping[str, Rows]) -> dict[str, float]:
        """Return how near each engine's rows are to those of the reference, by the kind's figure."""
        if not rows:
            return {}
        truth = rows[next((name for name in REFERENCES if name in rows), OURS)]
        near = self.model.kind.fidelity
        return {name: round(near(found, truth), 6) for name, found in rows.items()}


def _padding(form: Form, settings: Mapping[str, Any], request: Request) -> float:
    """Return the share of an engine's computed tokens that is padding, 0 to 1."""
    if not form.pads:
        return 0.0
    size = settings.get("batch", request.batch)  # its own, if it searches for one
    return round(padding_share(pad(request.ids, size, by_length=form.sorts)), 4)
