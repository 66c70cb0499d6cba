"""Latency, throughput and real text: calls of many engines timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from quaver_bench.engines import Engine, Run, Vectors
from quaver_bench.engines.registry import FORMS
from quaver_bench.forecast import PATIENCE
from quaver_bench.inputs import PADDED_BATCH, Request, case_lengths, get_case
from quaver_bench.kinds import Output, Rows
from quaver_bench.result import Row, rounded
from quaver_bench.stage import Stage
from quaver_bench.timing import Timing

_COMPARED = 4
"""Calls of a case whose outputs are compared with those of float32."""
_TUNING_TEXTS = 256


def measure_case(stage: Stage, part: str, name: str) -> list[Row]:
    """Time the calls of a case, from token ids to vectors, or from text for kinds that start from it.

    Args:
        stage: model and engines.
        part: "latency" or "throughput".
        name: name of the case, see `case_lengths`.

    Returns:
        a row for each engine.
    """
    if (longest := max(case_lengths(name))) > stage.setup.max_length:
        why = f"the model reads {stage.setup.max_length} tokens at most: the case has {longest}"
        stage.miss("every engine", name, why)
        return []
    case = get_case(name, stage.source)
    ragged = len(set(case_lengths(name))) > 1
    calls: dict[str, list[Run]] = {}
    vectors: dict[str, Vectors] = {}
    took: dict[str, float] = {}
    for engine_name, engine in stage.engines.items():
        if FORMS[engine_name].batches and part == "latency":
            continue
        if not ragged and stage.too_long(engine_name, name, case.tokens):
            continue
        stage.progress.say(f"{name}: {engine_name}")
        made = stage.attempt(
            engine_name, name, partial(_prepared, engine, case.requests, stage.model.kind.plain)
        )
        if made is not None:
            calls[engine_name], vectors[engine_name], took[engine_name] = made
    stage.progress.say(f"{name}: all in turns")
    timing = stage.alternate(calls, took, patience=PATIENCE if ragged else 1)
    count = stage.options.instances
    products = count * stage.model.multiply_adds(case_lengths(name))
    values = {}
    for engine_name in timing.calls:
        found = call_values(
            timing, engine_name, texts=count * case.texts, tokens=count * case.tokens
        )
        found["gmacs_per_second"] = rounded(products / timing.median(engine_name) / 1e9)
        if case.texts > 1 and not ragged:
            stage.pace[engine_name] = timing.median(engine_name) / case.tokens
        values[engine_name] = found
    return stage.rows(part, name, timing, values, vectors, case.requests[0])


def _prepared(
    engine: Engine, requests: Sequence[Request], plain: Callable[[Output], Rows]
) -> tuple[list[Run], Rows, float]:
    """Return the calls, the rows of the first few, and the seconds of the last one that was run."""
    calls = [engine.prepare(request) for request in requests]
    found, took = [], 0.0
    for call in calls[:_COMPARED]:
        begin = time.perf_counter()
        output = call()
        took = time.perf_counter() - begin
        found.append(plain(output))
    return calls, np.concatenate(found), took


def measure_text(stage: Stage) -> list[Row]:
    """Time the corpus from text to vectors, tokenization included.

    Args:
        stage: model and engines.

    Returns:
        a row for each engine.
    """
    texts = list(stage.corpus.texts)
    case = corpus_title(stage)
    ids = [text[: stage.setup.max_length] for text in stage.source.tokenize(texts)]
    tokens = sum(map(len, ids))
    calls: dict[str, list[Run]] = {}
    vectors: dict[str, Vectors] = {}
    took: dict[str, float] = {}
    sample = Request(tuple(ids[:_TUNING_TEXTS]), tuple(texts[:_TUNING_TEXTS]), PADDED_BATCH)
    for name, engine in stage.engines.items():
        stage.progress.say(f"{name}: {len(texts)} texts, not timed")

        def encoded(engine: Engine = engine) -> tuple[Vectors, float]:
            engine.prepare(sample)  # some engines search for their best settings here
            begin = time.perf_counter()
            return engine.encode(texts), time.perf_counter() - begin

        if (found := stage.attempt(name, "text", encoded)) is not None:
            vectors[name], took[name] = found
            calls[name] = [partial(engine.encode, texts)]
    stage.progress.say(f"{case}: all in turns")
    timing = stage.alternate(calls, took, patience=PATIENCE)
    values = {}
    for name in timing.calls:
        values[name] = call_values(timing, name, texts=len(texts), tokens=tokens)
        megabytes = stage.corpus.megabytes / timing.median(name)
        values[name]["megabytes_per_second"] = rounded(megabytes)
    return stage.rows(
        "text", case, timing, values, vectors, Request(tuple(ids), None, PADDED_BATCH)
    )


def corpus_title(stage: Stage) -> str:
    """Return the name of the case over the corpus."""
    return f"{stage.corpus.name}, {len(stage.corpus.texts)} texts"


def call_values(timing: Timing, engine: str, *, texts: int, tokens: int) -> dict[str, float]:
    """Return the figures of an engine's calls.

    Args:
        timing: of the case.
        engine: name of the engine.
        texts: number of texts in a call.
        tokens: number of tokens in a call.

    Returns:
        median and quartiles over the rounds, percentiles over the calls, in milliseconds; texts and
        tokens per second at the median.
    """
    median = timing.median(engine)
    low, high = timing.quartiles(engine)
    seconds = {"median_ms": median, "quartile1_ms": low, "quartile3_ms": high}
    seconds |= {f"p{p}_ms": timing.percentile(engine, p) for p in (50, 95, 99)}
    return {
        **{name: round(1000 * value, 4) for name, value in seconds.items()},
        "calls": sum(map(len, timing.calls[engine])),
        "texts_per_second": rounded(texts / median, 6),
        "tokens_per_second": rounded(tokens / median, 6),
    }
