"""`quaver evaluate`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from quaver.cli.exit_codes import LOST_TOO_MUCH, reported_errors
from quaver.cli.options import (
    OverwriteOption,
    PoolingOption,
    ThreadsOption,
    cache_folder,
    read_share,
    require_new,
    require_option,
)
from quaver.cli.terminal import harmless
from quaver.embedder import Embedder
from quaver.engine import info
from quaver.errors import InputError, TaskError
from quaver.evaluate import (
    EvaluationReport,
    IndexSystem,
    Model,
    System,
    Table,
    Task,
    TaskOptions,
    VectorCache,
    by_system,
    caption,
    compare,
    fidelity_table,
    find_folders,
    find_mteb,
    has_judgments,
    is_quantized_folder,
    loss_table,
    markdown_report,
    percent,
    read_mteb,
    read_task,
    run_mteb,
    system_of,
    write_card,
    write_report,
)
from quaver.integrations.mteb import MtebCrossEncoder, MtebEncoder
from quaver.models import KIND_NAMES, ModelFolder, ModelKind
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.store import RANKINGS, Mode

_PATHLIKE = re.compile(r"[./~]|.*[/\\]")
_NAME = 12
"""Characters of a task's name on one line of a narrow terminal."""
_BETWEEN = 3
"""Characters between two columns."""


class SearchMode(str, Enum):
    """What the index compares."""

    dense = "dense"
    bm25 = "bm25"
    sparse = "sparse"
    hybrid = "hybrid"
    dense_sparse = "dense+sparse"
    dense_bm25_sparse = "dense+bm25+sparse"


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
            "benchmarks; separated by commas, or repeated.",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            "-b",
            help="The model to compare with, in float32; default: MODEL, if it is only one.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="TASK=retrieval or TASK=reranking; TASK may contain *."),
    ] = None,
    qrels: Annotated[
        list[str] | None, typer.Option(help="TASK=NAME: use qrels/NAME.tsv; default: test.")
    ] = None,
    relevance: Annotated[
        list[str] | None,
        typer.Option(help="TASK=N: MAP counts scores from N as relevant; default: 1."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="Also measure the baseline in other engines' int8: onnxruntime,openvino.",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Calibration text for openvino, as in `quaver quantize`."),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            parser=read_share,
            metavar="SHARE",
            help="Exit with code 3 if a MODEL loses more, such as 0.3%.",
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        bool,
        typer.Option("--index", help="Measure the search of an index instead of the model alone."),
    ] = False,
    mode: Annotated[
        SearchMode | None,
        typer.Option(help="With --index: how it searches; default: hybrid."),
    ] = None,
    sparse: Annotated[
        str | None,
        typer.Option(
            help="With --index: the sparse encoder of the modes with sparse, folder or hub id.",
            show_default=False,
        ),
    ] = None,
    multi: Annotated[
        str | None,
        typer.Option(
            help="With --index: rerank by the token vectors of this multi-vector model.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for results.json, results.md, results.png and queries.csv.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the report as Markdown.")
    ] = False,
    no_card: Annotated[
        bool,
        typer.Option(
            "--no-card", help="Do not write the result into the model cards of quantized folders."
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache-folder",
            help="Folder that keeps vectors and scores for later runs of the same code and models.",
        ),
    ] = None,
    pooling: PoolingOption = None,
    max_seq_length: Annotated[
        int | None,
        typer.Option(help="Maximum number of tokens in a text; longer ones are truncated.", min=3),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure what int8 costs: NDCG@10 in retrieval and MAP in reranking, compared with float32.

    Example: quaver evaluate ./bge-small-int8 --baseline BAAI/bge-small-en-v1.5 --tasks ./tasks --max-loss 0.5%

    The baseline runs in float32 in the same engine and the same run. Every difference has a 95 %
    interval (paired bootstrap over queries), and the report shows how close the vectors stay, or, for
    sparse encoders and multi-vector models, which documents stay among the ten best.
    """
    with reported_errors():
        if as_json and as_markdown:
            raise InputError("--json and --markdown exclude each other: give one")
        require_option("--index", index, {"--mode": mode, "--sparse": sparse, "--multi": multi})
        if ("sparse" in RANKINGS[mode.value] if mode else False) != (sparse is not None):
            raise InputError(
                "a --mode with sparse and a --sparse model need each other: got --mode "
                f"{mode.value if mode else 'hybrid'} and --sparse {sparse or 'none'}"
            )
        require_option("--against", against, {"--calibration": calibration})
        if index and cache is not None and against is None:
            raise InputError(
                "--cache-folder keeps what a model makes of each text, and an index computes that "
                "anew: leave out --cache-folder or --index"
            )
        require_option("--out", out, {"--overwrite": overwrite})
        if out is not None:
            require_new(out / "results.json", overwrite=overwrite)
        judged, others = _read_tasks(
            [name for part in tasks for name in _split(part)],
            _task_options(kind or [], qrels or [], relevance or []),
        )
        loaded = _load_models(
            models,
            baseline,
            others=_split(against or ""),
            calibration=calibration,
            cache=cache,
            search=_Search((mode or SearchMode.hybrid).value, sparse, multi) if index else None,
            settings={
                "pooling": pooling,
                "max_seq_length": max_seq_length,
                "threads": threads,
            },
        )
        if out is not None:
            _make_folder(out)
        with _progress((len(judged) + len(others)) * (1 + len(loaded.systems))) as step:
            report = compare(
                loaded.baseline,
                loaded.systems,
                judged,
                others=_run_others(others, loaded, step),
                run=_record(loaded),
                on_step=step,
            )
        _show_report(report, as_json=as_json, as_markdown=as_markdown)
        if out is not None:
            write_report(report, out)
        if not no_card:
            for name, model in zip(loaded.ours, models, strict=True):
                if is_quantized_folder(Path(model)):
                    print(f"quaver: wrote {write_card(report, name, Path(model))}", file=sys.stderr)
        if max_loss is not None:
            _check_loss(report, loaded.ours, max_loss)


# --- Tasks ----------------------------------------------------------------------------------------
def _read_tasks(
    names: Sequence[str], options_of: Callable[[str], TaskOptions]
) -> tuple[list[Task], Any]:
    """Find local folders and mteb's tasks.

    Returns:
        tasks with judgments, and mteb's other tasks, which mteb runs itself.
    """
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
        raise TaskError(
            f"there is no folder {' or '.join(foreign)}; to find a task of mteb by this name: {error}"
        ) from error
    for task in found:
        judged += read_mteb(task) if has_judgments(task) else []
    if not names:
        raise InputError("an evaluation needs a task: --tasks is empty")
    return judged, [task for task in found if not has_judgments(task)]


def _run_others(others: Sequence[Any], loaded: Models, step: Any) -> Any:
    if not others:
        return ()
    baseline, systems = loaded.for_mteb()
    return run_mteb(others, baseline, systems, on_step=step)


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses: "MTEB(eng, v2)" is one name."""
    parts = re.split(r",(?![^()]*\))", text)
    return [part.strip() for part in parts if part.strip()]


def _task_options(
    kind: Sequence[str], qrels: Sequence[str], relevance: Sequence[str]
) -> Callable[[str], TaskOptions]:
    """Return a function from a task's name to its options, from TASK=VALUE pairs."""

    def pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
        for text in given:
            if not all(text.partition("=")):
                raise InputError(f"{option} must be TASK=VALUE: got {text!r}")
        return [(text.partition("=")[0], text.partition("=")[2]) for text in given]

    kinds, files = pairs("--kind", kind), pairs("--qrels", qrels)
    levels = pairs("--relevance", relevance)
    for _, value in levels:
        if not value.isdigit():
            raise InputError(f"--relevance must be TASK=N with a whole number N: got {value!r}")

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


# --- Models ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Models:
    """The models of an evaluation.

    Attributes:
        baseline: the baseline, in float32.
        systems: what is compared with it: the models, then other engines.
        ours: the models' names among the systems, in the order of the command line.
        loaded: the baseline, then the models.
        described: system to the model's source, for the record.
    """

    baseline: System
    systems: list[System]
    ours: list[str]
    loaded: list[Model]
    described: dict[str, str]

    def for_mteb(self) -> tuple[Any, dict[str, Any]]:
        """Wrap the baseline and the models for mteb.

        Raises:
            InputError: other engines are compared, which mteb cannot run, or the models have more than
                one vector for a text.
        """
        kind = _kind_of(self.loaded[0])
        if kind in ("sparse", "multi-vector"):
            raise InputError(
                "tasks without judgments are for embedding models and cross-encoders: "
                f"{self.loaded[0].name} is {KIND_NAMES[kind]}; give tasks of retrieval or reranking"
            )
        if len(self.systems) > len(self.ours):
            raise InputError(
                "--against measures retrieval and reranking only: leave it out, or leave out the "
                "other tasks"
            )
        wrapped = [
            MtebCrossEncoder(model) if isinstance(model, CrossEncoder) else MtebEncoder(model)
            for model in cast("list[Embedder | CrossEncoder]", self.loaded)
        ]
        return wrapped[0], dict(zip(self.ours, wrapped[1:], strict=True))


@dataclass(frozen=True)
class _Search:
    """How an index searches: the mode, and folders or hub ids of further models."""

    mode: Mode
    sparse: str | None
    multi: str | None


def _load_models(
    names: Sequence[str],
    baseline: str | None,
    *,
    others: Sequence[str],
    calibration: str | None,
    cache: Path | None,
    search: _Search | None,
    settings: dict[str, Any],
) -> Models:
    """Load the models.

    Args:
        names: folders or hub ids of the models to run in int8.
        baseline: folder or hub id of the model to run in float32; None uses the only model in names.
        others: engines to compare with.
        calibration: text for the engines that need it.
        cache: folder that keeps vectors and scores, or None.
        search: how an index searches, or None to measure the models alone.
        settings: pooling, max_seq_length and threads.

    Raises:
        InputError: the arguments contradict each other.
        ModelError: a model cannot be loaded.
    """
    if baseline is None:
        if len(names) != 1 or is_quantized_folder(Path(names[0])):
            raise InputError(
                "a loss is measured against a model in float32: name it with --baseline"
            )
        baseline = names[0]
    kept = None if cache is None else VectorCache(cache)
    base = _load(baseline, "float32", settings)
    models = [_load(name, "int8", settings) for name in names]
    columns = ["int8"] if len(names) == 1 else [Path(name).name for name in names]
    described = {"float32": base.source}
    systems: list[System] = []
    for column, model in zip(columns, models, strict=True):
        if type(model) is not type(base):
            raise InputError(
                f"a model and its baseline must be of the same kind: {model.name} is "
                f"{KIND_NAMES[_kind_of(model)]}, {base.name} is {KIND_NAMES[_kind_of(base)]}"
            )
        described[column] = model.source
        systems.append(_system(column, model, kept, search))
    if others:
        if not isinstance(base, Embedder):
            raise InputError(f"--against is for embedding models: got {KIND_NAMES[_kind_of(base)]}")
        from quaver_bench.peers import peer_systems

        graphs = cache_folder("evaluate") if cache is None else cache / "graphs"
        systems += peer_systems(others, base, calibration=calibration, graphs=graphs, kept=kept)
    return Models(
        baseline=_system("float32", base, kept, search),
        systems=systems,
        ours=columns,
        loaded=[base, *models],
        described=described,
    )


def _load(name: str, precision: Any, settings: dict[str, Any]) -> Model:
    """Load a model with the class that opens its folder."""
    kind = ModelFolder.open_any(name, pooling=settings["pooling"]).kind
    if kind == "embedder":
        return Embedder.from_pretrained(name, precision=precision, **settings)
    others: dict[str, Any] = {
        "cross-encoder": CrossEncoder,
        "sparse": SparseEncoder,
        "multi-vector": MultiVectorEncoder,
    }
    fitting = {key: value for key, value in settings.items() if key != "pooling"}
    model: Model = others[kind].from_pretrained(name, precision=precision, **fitting)
    return model


def _system(name: str, model: Model, cache: VectorCache | None, search: _Search | None) -> System:
    if search is None:
        return system_of(name, model, cache=cache)
    if not isinstance(model, Embedder):
        raise InputError(f"--index is for embedding models: got {KIND_NAMES[_kind_of(model)]}")
    options: dict[str, Any] = {"precision": model.precision, "threads": model.threads}
    return IndexSystem(
        name,
        model,
        mode=search.mode,
        sparse=SparseEncoder.from_pretrained(search.sparse, **options) if search.sparse else None,
        multi=MultiVectorEncoder.from_pretrained(search.multi, **options) if search.multi else None,
    )


def _kind_of(model: Model) -> ModelKind:
    if isinstance(model, Embedder):
        return "embedder"
    if isinstance(model, CrossEncoder):
        return "cross-encoder"
    return "sparse" if isinstance(model, SparseEncoder) else "multi-vector"


# --- Output ---------------------------------------------------------------------------------------
def _show_report(report: EvaluationReport, *, as_json: bool, as_markdown: bool) -> None:
    """Print a report as tables, JSON or Markdown."""
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    elif as_markdown:
        print(markdown_report(report), end="")
    else:
        console = Console(highlight=False)
        for table in (loss_table(report), fidelity_table(report)):
            if table.rows:
                _print(table, console)
        console.print(Text(harmless(caption(report)), "dim"))


def _print(table: Table, console: Console) -> None:
    """Print a table, with fewer columns in a narrow terminal."""
    unbounded = console.options.update(width=10_000)
    grids = [_grid(table)]
    if Measurement.get(console, unbounded, grids[0]).maximum > console.width:
        grids = [_grid(part) for part in by_system(table)]
    for grid in grids:
        # A terminal narrower than the figures wraps lines; no figure is cut off.
        narrowest = sum((column.min_width or 0) + _BETWEEN for column in grid.columns)
        console.print(grid, width=max(narrowest, console.width), crop=False)
        console.print()


def _grid(table: Table) -> Grid:
    grid = Grid(box=SIMPLE, pad_edge=False, show_edge=False)
    for number, name in enumerate(table.head):
        # Headings and names may wrap; figures may not.
        widest = max((len(row[number]) for row in table.rows), default=0)
        grid.add_column(
            Text(name, overflow="fold"),
            justify="right" if number else "left",
            overflow="fold",
            min_width=widest if number else min(widest, _NAME),
        )
    for number, row in enumerate(table.rows):
        cells = [Text(harmless(cell)) for cell in row]
        grid.add_row(*cells, style="bold" if number in table.means else None)
    return grid


def _make_folder(folder: Path) -> None:
    """Make the folder of --out before anything is measured."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out must be a folder: {folder} is a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make --out {folder}: {error.strerror}") from error


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


def _check_loss(report: EvaluationReport, ours: Sequence[str], bound: float) -> None:
    """Exit with LOST_TOO_MUCH if a model loses more than the bound."""
    beyond = [
        f"{name} loses {percent(loss).lstrip('+')} of {what}"
        for name in ours
        for what, loss in report.losses(name).items()
        if not loss <= bound
    ]
    if beyond:
        allowed = percent(bound).lstrip("+")
        print(f"quaver: the loss is above {allowed}: {'; '.join(beyond)}", file=sys.stderr)
        raise typer.Exit(LOST_TOO_MUCH)
