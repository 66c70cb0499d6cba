"""The planned cases, and which of them a result has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quaver_bench.clients import clients_title
from quaver_bench.engines import Form
from quaver_bench.forecast import JUDGING, Step, engines_of
from quaver_bench.inputs import case_lengths, lognormal_lengths
from quaver_bench.models import Model
from quaver_bench.quality import JUDGED, Judgments
from quaver_bench.result import Result
from quaver_bench.stage import Options

NOT_REACHED = "not reached: interrupted"
"""Reason for cases that Ctrl-C prevented; `--resume` measures them."""
_CHARACTERS = 4
"""Characters of a token, about."""


def steps_of(options: Options) -> list[Step]:
    """Return the cases of one model in their order.

    Args:
        options: what to measure.

    Returns:
        the steps. The lengths of the corpus are not known here: those of passages are typical.

    Raises:
        InputError: a case has no valid name.
    """
    found: list[Step] = []
    for part, single in (("latency", True), ("throughput", False)):
        if part in options.parts:
            for name in options.cases:
                lengths = case_lengths(name)
                if (len(lengths) == 1) == single:
                    found.append(Step(part, name, tuple(lengths)))
    if "text" in options.parts:
        found.append(Step("text", "text", tuple(lognormal_lengths(options.count))))
    if "concurrency" in options.parts:
        found += [Step("concurrency", str(clients)) for clients in options.clients]
    if "start" in options.parts:
        found.append(Step("start", "start"))
    return found


def judging_step(tasks: Sequence[Judgments]) -> Step:
    """Return the step that ranks judged texts."""
    texts = [text for task in tasks for text in (*task.documents, *task.queries)]
    lengths = (min(512, 2 + len(text) // _CHARACTERS) for text in texts)
    return Step(JUDGING, JUDGED, tuple(lengths))


def has(
    result: Result, model: str, step: Step, forms: Sequence[Form], corpus: str | None = None
) -> bool:
    """Return whether a result has a case of every engine, or the reason why not.

    Args:
        result: the result.
        model: name of the model.
        step: the case.
        forms: the engines.
        corpus: name of the case over the corpus; None means any corpus.
    """
    return not _absent(result, model, step, forms, corpus)


def _absent(
    result: Result, model: str, step: Step, forms: Sequence[Form], corpus: str | None
) -> list[Form]:
    """Return the forms for which a result has neither a row nor a reason."""
    found = _engines(result, model, step, corpus)
    able = engines_of(step, [form.name for form in forms])
    called = {_title(step, corpus), step.case}
    every = ("every engine", step.part)
    if any(f"{who} ({model}, {name})" in result.missing for who in every for name in called):
        return []
    return [
        form
        for form in forms
        if form.name in able
        and form.name not in found
        and f"{form.name} ({model})" not in result.missing
        and not any(f"{form.name} ({model}, {name})" in result.missing for name in called)
    ]


def _engines(result: Result, model: str, step: Step, corpus: str | None) -> set[str]:
    """Return the engines that have a row of a step."""
    title = _title(step, corpus)
    return {
        row.engine
        for row in result.rows
        if (row.part, row.model) == (step.part, model) and title in (row.case, None)
    }


def _title(step: Step, corpus: str | None) -> str | None:
    """Return the case name in the rows of a step."""
    if step.part == "text":
        return corpus
    return clients_title(int(step.case)) if step.part == "concurrency" else step.case


def not_reached(
    result: Result, models: Sequence[Model], options: Options, forms: Sequence[Form]
) -> dict[str, str]:
    """Return the planned cases that have neither a row nor a reason.

    Args:
        result: the rows of this run and of earlier ones.
        models: the planned models.
        options: the plan for each model.
        forms: the engines, including those of other environments.

    Returns:
        a dict from keys to NOT_REACHED: "engine (model)" if only other engines were reached,
        "every engine (model, case)" if a case was not reached, else "engine (model, case)".
    """
    able = [form for form in forms if form.name not in result.missing]
    keys = (key for model in models for key in _keys(result, model, options, able))
    return {key: NOT_REACHED for key in keys if key not in result.missing}


def _keys(result: Result, model: Model, options: Options, forms: Sequence[Form]) -> Iterator[str]:
    name = model.name
    absent: dict[str, list[Form]] = {}
    begun: set[str] = set()
    for step in steps_of(options):
        title = _planned_title(step)
        absent[title] = _absent(result, name, step, forms, None)
        if _engines(result, name, step, None):
            begun.add(title)
    ranked = result.quality.get(name, {}).keys()
    if options.judgments and model.judged:
        reasons = [f" ({name})", f" ({name}, {JUDGED})"]
        absent[JUDGED] = [
            form
            for form in forms
            if form.name not in ranked and not any(form.name + r in result.missing for r in reasons)
        ]
        if ranked:
            begun.add(JUDGED)
    reached = {row.engine for row in result.rows if row.model == name}
    untouched = [
        form
        for form in dict.fromkeys(form for missing in absent.values() for form in missing)
        if reached and form.name not in reached | ranked
    ]
    yield from (f"{form.name} ({name})" for form in untouched)
    for title, missing in absent.items():
        left = [form for form in missing if form not in untouched]
        if left and title not in begun:
            yield f"every engine ({name}, {title})"
        else:
            yield from (f"{form.name} ({name}, {title})" for form in left)


def _planned_title(step: Step) -> str:
    """Return the case name of a step before its corpus is read."""
    return _title(step, None) or step.case


def still_missing(
    missing: dict[str, str], models: Sequence[Model], options: Options
) -> dict[str, str]:
    """Return the reasons of a result, without the cases that were not reached before and are planned now.

    Args:
        missing: the reasons of the result.
        models: the planned models.
        options: the plan for each model.
    """
    cases = ["", f", {JUDGED}", *(f", {_planned_title(step)}" for step in steps_of(options))]
    names = ["every engine", *(form.name for form in options.forms)]
    planned = {f"{n} ({model.name}{case})" for n in names for model in models for case in cases}
    return {k: why for k, why in missing.items() if why != NOT_REACHED or k not in planned}
