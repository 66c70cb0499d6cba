"""`quaver evaluate`: what int8 costs on tasks with judgements."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from quaver.cli.app import app
from quaver.cli.evaluate_output import make_folder, show_report, write_cards, write_report
from quaver.cli.evaluated_models import Models, load_models
from quaver.cli.options import PoolingOption, ThreadsOption, choice_value, reported_errors
from quaver.engine import info
from quaver.errors import InputError, TaskError
from quaver.evaluate import (
    EvaluationReport,
    Task,
    TaskOptions,
    compare,
    find_folders,
    find_mteb,
    has_judgements,
    percent,
    read_mteb,
    read_task,
    run_mteb,
)

LOST_TOO_MUCH = 3
"""Exit code when --max-loss does not hold: neither an error (1) nor a wrong call (2)."""
_PATHLIKE = re.compile(r"[./~]|.*[/\\]")


class SearchMode(str, Enum):
    """What the index compares."""

    dense = "dense"
    bm25 = "bm25"
    hybrid = "hybrid"


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Model folders or hub ids, measured in int8."),
    ],
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            "-t",
            help="Folders in BEIR layout, folders of such folders, or names of mteb's tasks and "
            "benchmarks; with commas or several times.",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            "-b",
            help="The model in float32 that everything is compared with; default: MODEL itself.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="TASK=retrieval or TASK=reranking; TASK may have * in it."),
    ] = None,
    qrels: Annotated[
        list[str] | None, typer.Option(help="TASK=NAME: use qrels/NAME.tsv; default: test.")
    ] = None,
    relevance: Annotated[
        list[str] | None,
        typer.Option(help="TASK=N: relevant in MAP from score N; default: 1."),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option(
            "--compare", help="Other engines' int8 of the baseline: onnxruntime,openvino."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Text to calibrate openvino with, as `quaver quantize` takes it."),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(help="Fail (exit code 3) if a MODEL loses more, such as 0.3%."),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Measure through an index, as a search runs.")
    ] = False,
    mode: Annotated[
        SearchMode | None,
        typer.Option(help="How the index searches, with --store; default: hybrid."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for results.json, results.md, results.png and queries.csv.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown.")] = False,
    no_card: Annotated[
        bool,
        typer.Option(
            "--no-card", help="Do not write the loss into the model card of quantized folders."
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps vectors for runs of the same code and models."),
    ] = None,
    pooling: PoolingOption = None,
    max_seq_length: Annotated[
        int | None, typer.Option(help="Most tokens of a text.", min=3)
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure what int8 costs: NDCG@10 in retrieval and MAP in reranking, beside float32.

    The baseline runs in float32 in the same engine and the same run. Every difference comes with a
    95 % interval (paired bootstrap over queries) and with how near the vectors stay.
    """
    with reported_errors():
        bound = None if max_loss is None else _share(max_loss)
        if as_json and as_markdown:
            raise InputError("--json and --markdown exclude each other: give one")
        if mode is not None and not store:
            raise InputError(
                f"--mode needs --store, which measures through an index: got --mode {mode.value} alone"
            )
        judged, others = _read_tasks(
            [name for part in tasks for name in _split(part)],
            _task_options(kind or [], qrels or [], relevance or []),
        )
        loaded = load_models(
            models,
            baseline,
            others=_split(compare_with or ""),
            calibration=calibration,
            cache=cache,
            through=(mode or SearchMode.hybrid).value if store else None,
            settings={
                "pooling": choice_value(pooling),
                "max_seq_length": max_seq_length,
                "threads": threads,
            },
        )
        if out is not None:
            make_folder(out)
        with _progress((len(judged) + len(others)) * (1 + len(loaded.systems))) as step:
            report = compare(
                loaded.baseline,
                loaded.systems,
                judged,
                others=_run_others(others, loaded, step),
                run=_record(loaded),
                on_step=step,
            )
        show_report(report, as_json=as_json, as_markdown=as_markdown)
        if out is not None:
            write_report(report, out)
        if not no_card:
            write_cards(report, dict(zip(loaded.ours, models, strict=True)))
        if bound is not None:
            _hold(report, loaded.ours, bound)


def _read_tasks(
    names: Sequence[str], options_of: Callable[[str], TaskOptions]
) -> tuple[list[Task], Any]:
    """Local folders and mteb's tasks: those with judgements, and those that mteb runs itself."""
    judged: list[Task] = []
    foreign: list[str] = []
    for name in names:
        if Path(name).is_dir() or _PATHLIKE.match(name):
            folders = find_folders(Path(name).expanduser())
            judged += [read_task(path, options_of(path.resolve().name)) for path in folders]
        else:
            foreign.append(name)
    try:
        found = find_mteb(foreign) if foreign else []
    except ImportError as error:
        raise InputError(
            f"no folder here is called {' or '.join(foreign)}, and to look among mteb's tasks: {error}"
        ) from error
    for task in found:
        judged += read_mteb(task) if has_judgements(task) else []
    if not names:
        raise TaskError("an evaluation needs a task: --tasks is empty")
    return judged, [task for task in found if not has_judgements(task)]


def _run_others(others: Sequence[Any], loaded: Models, step: Any) -> Any:
    if not others:
        return ()
    baseline, systems = loaded.for_mteb()
    return run_mteb(others, baseline, systems, on_step=step)


def _split(text: str) -> list[str]:
    """Split at commas, but not inside brackets: "MTEB(eng, v2)" is one name."""
    parts = re.split(r",(?![^()]*\))", text)
    return [part.strip() for part in parts if part.strip()]


def _task_options(
    kind: Sequence[str], qrels: Sequence[str], relevance: Sequence[str]
) -> Callable[[str], TaskOptions]:
    """Turn NAME=VALUE options into the options of each task."""

    def pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
        for text in given:
            if not all(text.partition("=")):
                raise InputError(f"{option} is TASK=VALUE: got {text!r}")
        return [(text.partition("=")[0], text.partition("=")[2]) for text in given]

    kinds, files = pairs("--kind", kind), pairs("--qrels", qrels)
    levels = pairs("--relevance", relevance)
    for _, value in levels:
        if not value.isdigit():
            raise InputError(f"--relevance is TASK=N, N a whole number: got {value!r}")

    def last(name: str, given: list[tuple[str, str]]) -> str | None:
        return next((v for pattern, v in reversed(given) if fnmatchcase(name, pattern)), None)

    def options_of(name: str) -> TaskOptions:
        level = last(name, levels)
        return TaskOptions(
            kind=last(name, kinds),
            qrels=last(name, files),
            relevance=None if level is None else int(level),
        )

    return options_of


def _share(text: str) -> float:
    """Read "0.3%" or "0.003" as a share."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise InputError(f"--max-loss is a share such as 0.3% or 0.003: got {text!r}")
    return share


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str, str], None]]:
    from tqdm import tqdm

    with tqdm(total=steps, desc="evaluating", unit="run", disable=None, leave=False) as bar:
        started = [0]

        def step(task: str, system: str) -> None:
            bar.update(started[0])
            started[0] = 1
            bar.set_postfix_str(f"{task}, {system}")

        yield step


def _record(loaded: Models) -> dict[str, Any]:
    machine = info()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["quaver", *sys.argv[1:]]),
        "machine": f"{machine['cpu']}, Quaver {machine['version']} on {machine['isa']}.",
        "models": loaded.described,
    }


def _hold(report: EvaluationReport, ours: Sequence[str], bound: float) -> None:
    """End with a code of its own when a model loses more than the bound."""
    beyond = [
        f"{name} loses {percent(loss).lstrip('+')} of {what}"
        for name in ours
        for what, loss in report.losses(name).items()
        if not loss <= bound
    ]
    if beyond:
        allowed = percent(bound).lstrip("+")
        print(f"quaver: more is lost than {allowed}: {'; '.join(beyond)}", file=sys.stderr)
        raise typer.Exit(LOST_TOO_MUCH)
