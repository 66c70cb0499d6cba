"""The time left of a study, on the rows of studies that were run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from quaver_bench import timing
from quaver_bench.engines.registry import FORMS, OURS, QUICK, choose_forms
from quaver_bench.forecast import CLIENTS_BLOCK, JUDGING, Forecast, Step, engines_of
from quaver_bench.inputs import PADDED_BATCH, case_lengths, lognormal_lengths, pad
from quaver_bench.kinds import EMBEDDER, KINDS
from quaver_bench.plan import judging_step
from quaver_bench.progress import Plan, StudyProgress
from quaver_bench.quality import read_judgments
from quaver_bench.result import Result, Row, read_result
from quaver_bench.timing import expected_rounds, expected_seconds, take_turns

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
_PROBED = 512


def products(result: Result) -> dict[str, float]:
    """Return the multiply-adds of each model for a token of a text of 256, from its description."""
    found = {}
    for name, facts in result.models.items():
        hidden, layers = map(int, re.findall(r"\d+", facts["describe"])[:2])
        found[name] = layers * (12.0 * hidden**2 + 2 * hidden * 256)
    return found


def lengths(row: Row) -> tuple[int, ...]:
    if row.part in ("latency", "throughput"):
        return tuple(case_lengths(row.case))
    if row.part == "text":
        count = int(row.case.split()[-2])
        tokens = row.values["tokens_per_second"] * row.values["median_ms"] / 1000
        return tuple(int(n) for n in np.linspace(0.45, 1.55, count) * tokens / count)
    return ()


def option(run: dict[str, str], name: str, default: float) -> float:
    found = re.search(rf"--{name} ([\d.]+)", run["command"])
    return float(found[1]) if found else default


@dataclass
class Ran:
    """A study that was run: its steps, and how long each took by the times of its rows."""

    forecast: Forecast
    model: dict[Step, str]
    rows: dict[Step, list[Row]]
    took: dict[Step, float]
    engines: list[str]

    def expected(self, steps: Sequence[Step]) -> float:
        return sum(
            self.forecast.step(step, self.model[step], engines_of(step, self.engines))
            for step in steps
        )

    def learn(self, step: Step) -> None:
        for row in self.rows[step]:
            if step.lengths:
                seconds = row.values["median_ms"] / 1000
                self.forecast.learn(step, row.model, row.engine, seconds)


def ran(place: str, number: int) -> Ran:
    result = read_result(RESULTS / place)
    run = result.runs[number]
    forecast = Forecast(
        products(result),
        seconds=option(run, "seconds", 20),
        least=int(option(run, "rounds", 3)),
        longest=option(run, "longest", 30),
    )
    found = Ran(forecast, {}, {}, {}, [])
    for row in result.rows:
        if row.run == number:
            case = f"{row.case} of {row.model}"  # a step is of one model
            step = Step(row.part, case, lengths(row))
            step = next((s for s in found.rows if (s.part, s.case) == (row.part, case)), step)
            found.rows.setdefault(step, []).append(row)
            found.model[step] = row.model
            found.took[step] = found.took.get(step, 0.0) + seconds_of(row)
    found.engines = list(dict.fromkeys(r.engine for rows in found.rows.values() for r in rows))
    probe(found)
    return found


def seconds_of(row: Row) -> float:
    rounds = row.rounds + row.dropped
    if row.part == "start":
        return (rounds + 1) * row.values["first_vector_seconds"]
    if row.part == "concurrency":
        return rounds * CLIENTS_BLOCK + 0.4
    call = row.values["median_ms"] / 1000
    first = (4 if row.part == "latency" else 1) * call + (2 * call if call < timing.SETTLED else 0)
    return first + rounds * (call if call > timing.SLOW else call + max(timing.BLOCK, call))


def probe(found: Ran) -> None:
    """Learn a call of about as many tokens as the one after loading, of each engine."""
    calls: dict[tuple[str, str], tuple[int, float]] = {}
    for step, rows in found.rows.items():
        tokens = sum(step.lengths)
        for row in rows:
            key = row.engine, row.model
            if tokens >= _PROBED and tokens < calls.get(key, (1 << 30, 0.0))[0]:
                calls[key] = tokens, row.values["median_ms"] / 1000
    for (engine, model), (tokens, seconds) in calls.items():
        found.forecast.learn(Step("throughput", "probe", (tokens,)), model, engine, seconds)


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("amd-epyc-zen5-2cores", 0),  # the whole study of MiniLM
        ("amd-epyc-zen5-2cores", 2),
        ("amd-epyc-zen5-2cores", 5),
        ("amd-epyc-zen4-2cores", 1),
        ("amd-epyc-zen4-2cores", 3),
        ("amd-epyc-zen4-2cores", 4),
        ("amd-epyc-zen3-2cores", 0),
        ("amd-epyc-zen3-2cores", 1),
        ("amd-epyc-zen3-2cores", 3),
    ],
)
def test_the_time_left_is_within_a_fifth_after_a_tenth(place: str, number: int) -> None:
    study = ran(place, number)
    whole, passed = sum(study.took.values()), 0.0
    left = list(study.took)
    while passed < whole / 10:
        step = left.pop(0)
        study.learn(step)
        passed += study.took[step]
    assert study.expected(left) == pytest.approx(whole - passed, rel=0.2)


@pytest.mark.parametrize("place", ["amd-epyc-zen5-2cores", "amd-epyc-zen3-2cores"])
def test_quick_takes_five_minutes_at_most(place: str) -> None:
    result = read_result(RESULTS / place)
    model = next(iter(result.models))
    forecast = Forecast(products(result), seconds=6, least=3, longest=30)
    for row in result.rows:
        if lengths(row) and row.part != "text":
            step = Step(row.part, row.case, lengths(row))
            forecast.learn(step, row.model, row.engine, row.values["median_ms"] / 1000)
    steps = [
        Step("latency" if c[:2] == "1x" else "throughput", c, tuple(case_lengths(c)))
        for c in EMBEDDER.quick
    ]
    steps += [Step("text", "text", tuple(lognormal_lengths(100))), Step("start", "start")]
    steps += [Step("concurrency", "1"), Step("concurrency", "4")]
    names = [OURS, "quaver-float32", *QUICK]
    seconds = sum(forecast.step(step, model, engines_of(step, names)) for step in steps)
    assert seconds + forecast.loading(names) < 300


# Shapes that stand for the models of `make bench`: that of its MODEL is the first of a result.
SHAPES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}
FOLDERS = {"pairs": ("cross-encoder", "small"), "multi": ("multi-vector", "small")}


def studies() -> list[tuple[str, str]]:
    """Return the models and options of each `quaver bench` that `make bench` runs, with real models of two kinds."""
    command = ["make", "-n", "bench", "RERANKER=pairs", "MULTI=multi", "SPARSE="]
    root = RESULTS.parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        loop = re.search(r"for model in (.*?)\s*; do", line)
        models = re.findall(r'"[^"]*"|\S+', loop[1]) if loop else [""]
        for begun in re.findall(r"quaver bench (?!--report)(.*?)(?:\|\||$)", line):
            found += [(model.strip('"'), begun) for model in models]
    return found


@pytest.mark.parametrize("place", ["amd-epyc-zen5-2cores", "amd-epyc-zen3-2cores"])
def test_make_bench_takes_ninety_minutes_at_most(place: str) -> None:
    """On the paces of earlier studies, with every model converted anew."""
    result = read_result(RESULTS / place)
    first = next(iter(result.models))
    counts = products(result)
    counts |= {n: layers * (12.0 * h**2 + 512 * h) for n, (h, layers) in SHAPES.items()}
    seconds = 0.0
    for model, line in studies():
        given = f"{model} {line}"
        size = next((s for s in SHAPES if f"--shapes {s}" in given), first)
        kind, size = FOLDERS.get(model, ("embedder", size))
        forecast = Forecast(
            counts,
            seconds=option({"command": given}, "seconds", 20),
            least=int(option({"command": given}, "rounds", 3)),
            longest=option({"command": given}, "longest", 30),
        )
        for row in result.rows:
            if lengths(row) and row.part != "text":
                step = Step(row.part, row.case, lengths(row))
                forecast.learn(step, row.model, row.engine, row.values["median_ms"] / 1000)
        named = re.search(r"--against (\S+)", given)
        assert named, given
        forms = choose_forms(named[1].split(","), KINDS[kind])
        if "--environments none" in given:
            forms = [form for form in forms if form.environment in ("", "peers")]
        names = [form.name for form in forms]
        chosen = re.search(r"--cases (\S+)", given)
        cases = chosen[1].split(",") if chosen else KINDS[kind].cases
        steps = []
        for case in cases:
            part = "latency" if len(case_lengths(case)) == 1 else "throughput"
            steps.append(Step(part, case, tuple(case_lengths(case))))
        if "--parts" not in given and kind == "embedder":
            count = int(option({"command": given}, "count", 256))
            steps += [Step("text", "text", tuple(2 * n for n in lognormal_lengths(count)))]
            steps += [Step("concurrency", "1"), Step("concurrency", "4"), Step("start", "start")]
            steps += [
                judging_step(read_judgments(RESULTS.parent.parent / "examples/tasks/pubmedqa-100"))
            ]
        taken = sum(forecast.step(step, size, engines_of(step, names)) for step in steps)
        seconds += taken + forecast.loading(names)
    assert seconds / 60 + 10 + 12 < 90  # decoders, which are bounded; and memory, kernels, batches


def test_the_rounds_are_those_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.ForeignLoad, "share", lambda self: 0.0)
    clock = [0.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock[0])
    for block in (0.9, 1.1, 4.0, 7.0, 30.0):
        for seconds, least in ((6.0, 3), (6.0, 2), (0.0, 3)):

            def run(block: float = block) -> None:
                clock[0] += block

            turns = take_turns({"a": run}, seconds=seconds, least=least)
            assert len(turns.rounds) == expected_rounds(block, seconds=seconds, least=least)
    assert expected_seconds([], seconds=8, least=3) == 0.0
    # Two warm calls, and three rounds: an untimed call, then half a second of calls.
    assert expected_seconds([0.1], seconds=0, least=3, block=0.5) == pytest.approx(2.0)
    assert expected_seconds([2.0], seconds=0, least=3) == pytest.approx(6.0)


def test_tokens_are_those_that_an_engine_computes() -> None:
    mixed = tuple(lognormal_lengths(70))
    texts = [np.zeros(n, np.int64) for n in mixed]
    padded = sum(batch.ids.size for batch in pad(texts, PADDED_BATCH))
    step = Step("throughput", "ragged70", mixed)
    assert step.tokens("torch-float32") == padded > sum(mixed)
    assert step.tokens(OURS) == step.tokens("openvino-int8-tuned") == sum(mixed)
    assert Step("throughput", "4x9", (9,) * 4).tokens("torch-float32") == 36


def test_an_engine_of_which_nothing_is_known_is_like_the_others() -> None:
    forecast = Forecast({"m": 1e6, "large": 4e6}, seconds=1, least=1, longest=5)
    step = Step("throughput", "1", (100,))
    first = forecast.call(step, "m", OURS)
    forecast.learn(step, "m", OURS, 0.2)
    assert forecast.call(step, "m", OURS) == pytest.approx(0.2)
    assert forecast.call(step, "m", "torch-float32") == pytest.approx(0.2)
    assert forecast.call(step, "large", OURS) == pytest.approx(0.8)
    assert first > 0


def test_what_takes_too_long_is_not_counted_as_measured() -> None:
    forecast = Forecast({"m": 1e6}, seconds=1, least=2, longest=5)
    known = Step("throughput", "8x100", (100,) * 8)
    forecast.learn(known, "m", OURS, 1.0)
    forecast.learn(known, "m", "torch-float32", 8.0)
    alone = forecast.step(known, "m", [OURS])
    assert forecast.step(known, "m", [OURS, "torch-float32"]) == alone
    # Of texts of different lengths no smaller batch predicts it: it is called once.
    mixed = Step("throughput", "ragged", (100, 900))
    tried = forecast.step(mixed, "m", [OURS, "torch-float32"]) - forecast.step(mixed, "m", [OURS])
    assert tried == pytest.approx(forecast.call(mixed, "m", "torch-float32"))


def test_progress_counts_loading_steps_and_other_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from quaver_bench import progress

    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    steps = [("m", Step("start", "start")), ("m", Step("latency", "1x8", (8,)))]
    forecast = Forecast({"m": 1e6}, seconds=10, least=1, longest=5)
    plan = Plan(steps, [OURS, "torch-float32"])
    with StudyProgress(plan, forecast, later=[Plan(steps[1:], [OURS])], quiet=True) as bar:
        start = forecast.step(steps[0][1], "m", plan.engines)
        one = forecast.step(steps[1][1], "m", plan.engines)
        (later,) = bar.later_seconds()
        loading = forecast.loading(plan.engines)
        assert loading > forecast.loading([OURS]) > 0
        assert bar.time_left() == pytest.approx(start + one + loading + later)
        for engine in plan.engines:
            bar.loaded("m", engine, 1.0)
        assert forecast.loading(plan.engines) < loading
        (later,) = bar.later_seconds()
        assert bar.time_left() == pytest.approx(start + one + later)
        with bar.step(steps[1][1], "m"):
            clock[0] += one / 2
            assert bar.time_left() == pytest.approx(start + one / 2 + later)
            clock[0] += 10 * one
            assert bar.time_left() == pytest.approx(start + later)
        assert bar.time_left() == pytest.approx(start + later)
        bar.skip(steps[0][1], "m")
        assert bar.time_left() == pytest.approx(later)


def test_a_judging_step_takes_a_call_of_each_engine() -> None:
    forecast = Forecast({"m": 1e6}, seconds=10, least=3, longest=1e-9)
    step = Step(JUDGING, "judged texts", (100, 200))
    forecast.learn(step, "m", OURS, 3.0)
    assert forecast.step(step, "m", [OURS]) == pytest.approx(3.0)


def test_engines_for_batches_alone_are_in_no_step_of_single_texts() -> None:
    assert engines_of(Step("throughput", "x"), list(FORMS)) == list(FORMS)
    assert "openvino-int8-tuned" not in engines_of(Step("latency", "x"), list(FORMS))
