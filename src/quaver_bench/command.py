"""`quaver bench`: check the options, set the threads, measure, write and print the results."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quaver import DocumentError, EngineError, InputError, info
from quaver_bench.compare import comparison
from quaver_bench.configuration import check_same, warnings
from quaver_bench.engines import CannotRunError, Form
from quaver_bench.engines.registry import ALL, ALWAYS, OURS, QUICK, choose_forms
from quaver_bench.environments import measure_elsewhere, part_forms
from quaver_bench.forecast import Forecast
from quaver_bench.instances import share_cpus
from quaver_bench.kinds import EMBEDDER, Kind
from quaver_bench.models import Model, open_model, random_model
from quaver_bench.plan import has, judging_step, not_reached, steps_of, still_missing
from quaver_bench.plots import write_plots
from quaver_bench.progress import Plan, StudyProgress
from quaver_bench.quality import read_judgments
from quaver_bench.record import describe_run
from quaver_bench.report import markdown, own_table, read_peaks
from quaver_bench.result import PARTS, RESULTS, Result, read_result
from quaver_bench.stage import Options
from quaver_bench.study import measure

OUT = Path("bench-results")
"""Default folder of a comparison."""
_OWN_PARTS = ("latency", "throughput")
_SECONDS, _QUICK_SECONDS = 20.0, 6.0
_COUNT, _QUICK_COUNT = 256, 100
_SLACK, _LEAST_LIMIT = 4.0, 900.0
"""How many times the expected seconds a process in another environment may take, and its least limit: what
its engines compile is not known."""
_TYPICAL = 256
"""Tokens of a text by whose multiply-adds models are compared."""
_CLIENTS, _QUICK_CLIENTS = ("1", "2", "4", "8"), ("1", "4")


@dataclass(frozen=True)
class CommandLine:
    """The options of `quaver bench`; see its help.

    Options that are None or empty use the defaults, or those of `--quick`.
    """

    model: str
    name: str
    against: Sequence[str]
    parts: Sequence[str]
    cases: Sequence[str]
    shapes: Sequence[str]
    only_shapes: bool
    corpus: Path | None
    count: int | None
    judgments: Path | None
    clients: Sequence[str]
    random_ids: bool
    threads: int | None
    cores: str
    instances: int
    seconds: float | None
    rounds: int
    longest: float
    quick: bool
    out: Path | None
    add: bool
    resume: bool
    overwrite: bool
    cache: Path
    environments: Path
    command: Sequence[str]


def run(line: CommandLine) -> None:
    """Measure this model alone, or compare it with other engines.

    Args:
        line: the command line. Without engines to compare with, a short table is printed, and files are
            written only if a folder was given.

    Raises:
        QuaverError: an option is invalid, or Quaver cannot run the model.
        KeyboardInterrupt: Ctrl-C; the rows measured so far are shown, and written to the folder, first.
    """
    if line.against:
        _measure(line, line.out or OUT, alone=False)
        return
    if line.out is None and (line.add or line.resume or line.overwrite):
        raise InputError("--add, --resume and --overwrite need the folder of results: give --out")
    _measure(replace(line, against=(OURS,)), line.out, alone=True)


def _measure(line: CommandLine, out: Path | None, *, alone: bool) -> None:
    """Measure; write results.json after each case, and results.md and plots at the end.

    Args:
        line: the command line.
        out: folder for the results; None writes nothing.
        alone: measure Quaver only, and print the short table instead of the report.

    Raises:
        QuaverError: an option is invalid, or Quaver cannot run the model.
        KeyboardInterrupt: Ctrl-C; the rows measured so far are shown and written first.
    """
    if out is not None:
        _check_folder(line, out)
    hold_cpus(line.cores)
    model = _real_model(line)
    options = _options(line, model.kind, alone=alone)
    steps_of(options)  # a case without a valid name is an error before anything is measured
    hold_threads(options.threads)
    kept = Result()
    if out is not None and (line.add or line.resume) and (out / RESULTS).is_file():
        kept = read_result(out / RESULTS)
    before = kept if line.resume else Result()
    this_run = describe_run(
        options.threads, line.command, options.cpus, random_ids=options.random_ids
    )
    here = Result(runs=[this_run])
    forms, elsewhere, missing = part_forms(options.forms, line.environments)
    if line.resume:
        check_same(kept, this_run)
        for sentence in warnings(kept, this_run, {form.name for form in forms}):
            print(f"rows kept by --resume: {sentence}", file=sys.stderr)
    here.missing |= missing
    advice = info()["advice"]
    if not alone and this_run["settings"]["allocator"] == "malloc of libc":
        advice.append(
            "memory comes from libc: torch and ONNX Runtime, which allocate in every call, gain "
            "from LD_PRELOAD=libtcmalloc.so.4 or libjemalloc.so.2; Quaver does not depend on it"
        )
    for sentence in advice:
        print(f"advice: {sentence}", file=sys.stderr)
    for name, why in missing.items():
        print(f"{name} is not measured: {why}", file=sys.stderr)
    models = _models(line, model)
    kept.missing = still_missing(kept.missing, models, options)
    if out is not None:
        _make_folder(out)

    def save(more: Result | None = None) -> Result:
        here.merge(more or Result())
        whole = Result()
        whole.merge(kept)
        whole.merge(here)
        whole.drop_unused()
        whole.rate()
        if out is not None:
            whole.write(out / RESULTS)
        return whole

    ours = [form for form in forms if form.name in ALWAYS]
    # As much time for an engine as here: the budget of a case is for all of them together.
    shares = {name: min(1.0, (len(fs) + 2) / len(forms)) for name, fs in elsewhere.items()}
    try:
        with StudyProgress(
            _plan(models, options, forms),
            Forecast(
                {model.name: model.multiply_adds([_TYPICAL]) / _TYPICAL for model in models},
                seconds=options.seconds,
                least=options.least,
                longest=options.longest,
            ),
            later=[
                _plan(models, options, [*ours, *fs], shares[name], before)
                for name, fs in elsewhere.items()
            ],
            quiet=alone,
        ) as bar:
            for model in models:
                wanted = replace(options, forms=forms)
                measure(model, wanted, here, before=before, save=save, progress=bar)
            limits = [max(_LEAST_LIMIT, _SLACK * expected) for expected in bar.later_seconds()]
        for (name, others), limit in zip(elsewhere.items(), limits, strict=True):
            seconds = round(options.seconds * shares[name], 1)
            given = _given(line, replace(options, seconds=seconds))
            measure_elsewhere(line.environments, name, others, given, before, save, limit=limit)
    except CannotRunError as error:
        raise EngineError(f"Quaver cannot run {line.model}: {error}") from error
    except KeyboardInterrupt as error:
        reached, engines = Result(), [*forms, *(f for others in elsewhere.values() for f in others)]
        reached.merge(before)
        reached.merge(here)
        here.missing |= not_reached(reached, models, options, engines)
        where = f"what was measured is in {out}" if out else "the table has what was measured"
        measured = here.rows or kept.rows
        raise KeyboardInterrupt(
            f"interrupted: {where if measured else 'nothing was measured yet'}"
        ) from error
    finally:
        whole = save() if here.rows or kept.rows else here
        if out is not None and whole.rows:
            report(out, short=alone)
        elif whole.rows or whole.missing:
            print(own_table(whole))
    if alone:
        print(
            f"To compare with other engines: quaver bench {line.model} --against {ALL}, or --against "
            "openvino,onnxruntime,torch",
            file=sys.stderr,
        )


def _plan(
    models: Sequence[Model],
    options: Options,
    forms: Sequence[Form],
    share: float = 1.0,
    before: Result | None = None,
) -> Plan:
    """Return what a process measures.

    Args:
        models: the models.
        options: the plan of each.
        forms: the engines.
        share: of the time budget of a case.
        before: an earlier result; cases that it has of all engines but Quaver's are left out. None leaves
            out none.
    """
    others = [form for form in forms if form.name not in ALWAYS]
    steps = [
        (model.name, step)
        for model in models
        for step in (
            *([judging_step(options.judgments)] if options.judgments and model.judged else []),
            *steps_of(options),
        )
        if before is None or not has(before, model.name, step, others)
    ]
    return Plan(steps, [form.name for form in forms], share)


def _make_folder(out: Path) -> None:
    """Make the folder before measuring, to fail early if the results could not be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder: cannot make {out}: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError(f"--out must be a folder that can be written to: {out} is not")


def _options(line: CommandLine, kind: Kind, *, alone: bool) -> Options:
    for part in line.parts:
        if part not in PARTS:
            raise InputError(f"a part must be one of {', '.join(PARTS)}: got {part!r}")
        if part not in kind.parts:
            raise InputError(
                f"{kind.title} is measured in {' and '.join(kind.parts)}: got the part {part!r}"
            )
    for option, given in (
        ("--shapes", line.shapes),
        ("--judgments", line.judgments),
        ("--random-ids", line.random_ids),
    ):
        if given and kind is not EMBEDDER:
            raise InputError(f"{option} is for embedding models: {line.model} is {kind.title}")
    quick = line.quick or alone
    clients = line.clients or (_QUICK_CLIENTS if quick else _CLIENTS)
    if not all(number.isdigit() and 0 < int(number) <= 1024 for number in clients):
        raise InputError(f"--clients must be numbers from 1 to 1024: got {','.join(clients)}")
    if line.corpus is not None and not line.corpus.exists():
        raise DocumentError(f"--corpus must be a file or a folder: {line.corpus} does not exist")
    for option, value in (("--seconds", line.seconds), ("--longest", line.longest)):
        if value is not None and not math.isfinite(value):
            raise InputError(f"{option} must be a finite number of seconds: got {value}")
    seconds, count = (_QUICK_SECONDS, _QUICK_COUNT) if quick else (_SECONDS, _COUNT)
    threads, cpus = share_machine(line.threads, line.instances)
    return Options(
        forms=choose_forms(QUICK if quick and list(line.against) == [ALL] else line.against, kind),
        parts=line.parts or (_OWN_PARTS if alone else kind.parts),
        cases=line.cases or (kind.own if alone else kind.quick if quick else kind.cases),
        threads=threads,
        cpus=cpus,
        seconds=seconds if line.seconds is None else line.seconds,
        least=line.rounds,
        longest=line.longest,
        corpus=line.corpus,
        count=count if line.count is None else line.count,
        clients=[int(number) for number in clients],
        random_ids=line.random_ids,
        judgments=read_judgments(line.judgments) if line.judgments else (),
    )


def _check_folder(line: CommandLine, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out must be a folder: {out} is a file")
    if line.overwrite and (line.add or line.resume):
        raise InputError("--overwrite discards what --add and --resume keep: give only one of them")
    keeps = line.add or line.resume or line.overwrite
    if (out / RESULTS).is_file() and not keeps:
        raise InputError(
            f"--out must be a folder without results: {out} has {RESULTS}; --resume continues, "
            "--add measures again and keeps the other rows, --overwrite discards them"
        )


def _given(line: CommandLine, options: Options) -> list[str]:
    """Return the options for a process in another environment."""
    given = [line.model, "--name", line.name, "--parts", ",".join(options.parts)]
    given += ["--cases", ",".join(options.cases), "--shapes", ",".join(line.shapes)]
    given += ["--count", str(options.count), "--clients", ",".join(map(str, options.clients))]
    given += ["--threads", str(options.threads), "--seconds", str(options.seconds)]
    given += ["--rounds", str(options.least), "--longest", str(options.longest)]
    given += ["--cache-folder", str(line.cache), "--instances", str(options.instances)]
    given += ["--only-shapes"] if line.only_shapes else []
    given += ["--random-ids"] if options.random_ids else []
    given += ["--corpus", str(options.corpus)] if options.corpus else []
    given += ["--judgments", str(line.judgments)] if line.judgments else []
    return given


def _real_model(line: CommandLine) -> Model:
    real = open_model(line.model, line.cache)
    return replace(real, name=line.name) if line.name else real


def _models(line: CommandLine, real: Model) -> list[Model]:
    if line.only_shapes and not line.shapes:
        raise InputError("--only-shapes needs --shapes: name one of small, base, large")
    shapes = [random_model(shape, real) for shape in line.shapes]
    return shapes if line.only_shapes else [real, *shapes]


def share_machine(threads: int | None, instances: int) -> tuple[int, list[list[int]]]:
    """Return the number of threads of an instance, and the CPUs of each instance.

    Args:
        threads: threads of an instance; None means as many as its cores.
        instances: processes of each engine that run at the same time.

    Raises:
        InputError: there are fewer CPUs than threads or instances. They would wait for each other, and
            the times would mean nothing.
    """
    facts = info()
    cores, settings = facts["threads"], facts["settings"]
    most = max(1, min(len(settings["affinity"]), math.ceil(settings["cpu_quota"] or sys.maxsize)))
    if instances > most:
        raise InputError(
            f"--instances must be at most the CPUs that this process may use, {most}: "
            f"got {instances}"
        )
    cpus = share_cpus(instances, settings["cores"], settings["numa_nodes"])
    most = most if instances == 1 else min(map(len, cpus))
    cores = cores if instances == 1 else max(1, min(most, cores // instances))
    if threads is not None and threads > most:
        whose = "this process" if instances == 1 else f"each of {instances} instances"
        raise InputError(
            f"--threads must be at most the CPUs that {whose} may use, {most}: got {threads}; "
            "engines with more threads than cores wait for each other"
        )
    return threads or cores, cpus


def hold_cpus(cores: str) -> None:
    """Pin this process, and the engines in it, to some CPUs.

    Args:
        cores: such as "0-21" or "0,2,4"; "" changes nothing.

    Raises:
        InputError: the list is not valid, or names a CPU that this process may not use.
    """
    if not cores:
        return
    allowed = sorted(os.sched_getaffinity(0))
    wanted = _cpus(cores, allowed)
    if not wanted:
        raise InputError(
            f"--cores must name CPUs of {','.join(map(str, allowed))}, such as 0-21 or 0,2: "
            f"got {cores!r}"
        )
    os.sched_setaffinity(0, wanted)


def _cpus(text: str, allowed: Sequence[int]) -> list[int]:
    """Return the CPUs of a list such as "0-3,8"; none if it is not a list, or has CPUs not allowed."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            return []
        begin, end = int(first), int(last or first)
        inside = [cpu for cpu in allowed if begin <= cpu <= end]
        if not inside or len(inside) != end - begin + 1:
            return []
        found.update(inside)
    return sorted(found)


def hold_threads(threads: int) -> None:
    """Set the number of threads of the libraries that read it from the environment when they are imported.

    For the others it is set when a model is loaded.
    """
    for variable in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["HF_HUB_OFFLINE"] = "1"


def report(path: Path, *, short: bool = False) -> None:
    """Write results.md and the plots next to a results.json, and print the tables.

    Args:
        path: results.json, or its folder.
        short: print the short table of Quaver alone instead of all tables.

    Raises:
        InputError: the file cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    result = read_result(path)
    text = markdown(result, read_peaks(folder))
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(own_table(result) if short else text)
    try:
        names = [file.name for file in write_plots(result, folder)]
    except ImportError as error:
        print(f"no plots were drawn, and those in {folder} may be old: {error}", file=sys.stderr)
        names = []
    written = ", ".join([RESULTS, "results.md", *names])
    print(f"in {folder}: {written}", file=sys.stderr)


def compare(before: Path, after: Path) -> str:
    """Return what changed between two results, as Markdown.

    Raises:
        InputError: one cannot be read.
    """
    return comparison(read_result(before), read_result(after))
