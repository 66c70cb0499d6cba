"""The study: every part and case of a model; rows are saved after each case."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from quaver_bench.calls import corpus_title, measure_case, measure_text
from quaver_bench.clients import measure_clients
from quaver_bench.corpus import read_corpus
from quaver_bench.engines import Setup
from quaver_bench.forecast import Step
from quaver_bench.inputs import Ids, lognormal_lengths
from quaver_bench.models import Model
from quaver_bench.plan import has, judging_step, steps_of
from quaver_bench.progress import StudyProgress
from quaver_bench.quality import JUDGED, judged_names, ndcg
from quaver_bench.result import Result, Row
from quaver_bench.stage import REFERENCES, Options, Stage
from quaver_bench.start import measure_start

_CALIBRATION_TEXTS = 64
_CALIBRATION_SEED = 1_000_000


def measure(
    model: Model,
    options: Options,
    result: Result,
    *,
    before: Result,
    save: Callable[[], object],
    progress: StudyProgress,
) -> None:
    """Measure all parts of a model.

    Args:
        model: the model.
        options: what to measure.
        result: gets the rows; its last run is this one.
        before: an earlier result; cases that it has of every engine, or reasons for, are skipped.
        save: called after each case.
        progress: shows the progress.

    Raises:
        CannotRunError: Quaver cannot run the model.
        QuaverError: the corpus or the tokenizer cannot be read.
    """
    stage = _stage(model, options, result, progress)
    result.models[model.name] = {
        "describe": model.describe,
        "weights": model.weights,
        "pooling": model.pooling,
        "kind": model.kind.name,
    }
    if options.judgments and model.judged:
        result.models[model.name]["judged"] = judged_names(options.judgments)
    steps = []
    for step in steps_of(options):
        if has(before, model.name, step, options.forms, corpus_title(stage)):
            progress.skip(step, model.name)
        elif step.part == "text":
            lengths = map(len, _tokenized_corpus(stage))
            steps.append(progress.resize(step, model.name, list(lengths)))
        else:
            steps.append(step)
    unjudged = _unjudged(stage, before)
    judging = judging_step(options.judgments)
    if options.judgments and model.judged and not unjudged:
        progress.skip(judging, model.name)
    took: dict[str, float] = result.runs[-1].setdefault("seconds", {})

    def noted(what: str, begin: float) -> None:
        took[f"{model.name}, {what}"] = round(time.monotonic() - begin, 1)

    if any(step.part != "start" for step in steps) or unjudged:
        begin = time.monotonic()
        stage.load()
        noted("loading", begin)
    if unjudged:
        begin = time.monotonic()
        with progress.step(judging, model.name):
            _judge(stage, result, before, unjudged)
        noted(JUDGED, begin)
        save()
    for step in steps:
        if step.part == "start":  # the last step, in its own processes
            stage.release()
        begin = time.monotonic()
        with progress.step(step, model.name):
            rows = _measured(stage, step)
        noted(f"{step.part} {step.case}", begin)
        result.add(rows)
        for row in rows:
            if step.lengths:
                seconds = row.values["median_ms"] / 1000
                progress.forecast.learn(step, model.name, row.engine, seconds)
            progress.print(shown(row))
        save()
    stage.release()


def _tokenized_corpus(stage: Stage) -> list[Ids]:
    ids = stage.source.tokenize(stage.corpus.texts)
    return [text[: stage.setup.max_length] for text in ids]


def _stage(model: Model, options: Options, result: Result, progress: StudyProgress) -> Stage:
    folder, makes = model.folder, model.kind.source
    tokenizer = folder.tokenizer(min(512, model.longest))  # every model is measured up to 512
    corpus = read_corpus(options.corpus, tokenizer, options.count)
    source = makes(model.tokenizer_file(), corpus.texts, random_ids=options.random_ids)
    lengths = [min(n, tokenizer.max_length) for n in lognormal_lengths(_CALIBRATION_TEXTS)]
    # Each pair with a query of its own.
    parts = [[length] for length in lengths] if makes.pairs else [lengths]
    requests = [
        source.request(part, seed=_CALIBRATION_SEED + i, batch=1) for i, part in enumerate(parts)
    ]
    ids = [text for request in requests for text in request.ids]
    texts = [text for request in requests for text in request.texts or () if isinstance(text, str)]
    texts = texts or list(corpus.texts[:_CALIBRATION_TEXTS])
    setup = Setup(model, options.threads, tokenizer.max_length, ids, texts)
    run = len(result.runs) - 1
    return Stage(options, setup, corpus, source, progress, run, result.missing)


def _measured(stage: Stage, step: Step) -> list[Row]:
    if step.part == "start":
        return measure_start(stage)
    if step.part == "concurrency":
        return measure_clients(stage, int(step.case))
    if step.part == "text":
        return measure_text(stage)
    return measure_case(stage, step.part, step.case)


def _unjudged(stage: Stage, before: Result) -> set[str]:
    """Return the forms that still have to rank the judged texts; none for a model that cannot."""
    model = stage.model
    if not stage.options.judgments or not model.judged:
        return set()
    known = set(_judged(stage, before))
    for form in stage.options.forms:
        reasons = {f"{form.name} ({model.name})", f"{form.name} ({model.name}, {JUDGED})"}
        if reasons & before.missing.keys():
            known.add(form.name)
    return {form.name for form in stage.options.forms} - known


def _judged(stage: Stage, before: Result) -> dict[str, dict[str, float]]:
    """Return a result's figures of every engine on the same judged texts."""
    name = stage.model.name
    same = before.models.get(name, {}).get("judged") == judged_names(stage.options.judgments)
    return before.quality.get(name, {}) if same else {}


def _judge(stage: Stage, result: Result, before: Result, names: set[str]) -> None:
    """Rank judged texts with engines; note NDCG@10 and its difference to float32."""
    tasks, model = stage.options.judgments, stage.model
    found = {}
    for name, engine in stage.engines.items():
        if name not in names:
            continue
        stage.progress.say(f"{name}: ranking {judged_names(tasks)}")
        score = stage.attempt(name, JUDGED, partial(ndcg, engine, tasks, model.folder.prompts))
        if score is not None:
            found[name] = {"ndcg10": round(score, 5)}
    whole = {**_judged(stage, before), **found}
    reference = next((name for name in REFERENCES if name in whole), None)
    for figures in found.values():
        if reference is not None:
            difference = figures["ndcg10"] - whole[reference]["ndcg10"]
            figures["difference"] = round(difference, 5)
    result.quality.setdefault(model.name, {}).update(found)


def shown(row: Row) -> str:
    """Return a row as a line for the terminal."""
    units = {
        "p50_ms": "p50 {:.2f} ms",
        "p99_ms": "p99 {:.2f} ms",
        "texts_per_second": "{:.1f} texts/s",
        "queries_per_second": "{:.1f} queries/s",
        "first_vector_seconds": "first vector after {:.2f} s",
        "peak_mb": "peak {:.0f} MB",
    }
    figures = [text.format(row.values[key]) for key, text in units.items() if key in row.values]
    ratio = "" if row.ratio is None else f"; Quaver int8 is {row.ratio[0]:.2f} times as fast"
    if not row.sound:
        ratio = f"; computes something else: {row.distance}"
    disturbed = ", disturbed" if row.disturbed else ""
    return f"  {row.case:>10} {row.engine:<26} {', '.join(figures)}{ratio}{disturbed}"
