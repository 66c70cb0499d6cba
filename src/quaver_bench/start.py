"""Start: a fresh process from import to first vector; memory; size on disk and of the packages."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver_bench.engines import CannotRunError, Form, Setup
from quaver_bench.engines.registry import FORMS, OURS
from quaver_bench.models import open_model
from quaver_bench.result import Row
from quaver_bench.stage import Stage
from quaver_bench.timing import Turns, take_turns

PROCESSES = 3
"""Processes of every engine that count, in turns; one before them fills the caches."""
_SLOW = 4.0
"""Seconds to the first vector from which an engine is started only once, and has no ratio."""
_QUERY = "How do I sort a list of objects by an attribute?"
_TIMEOUT = 300


@dataclass(frozen=True)
class Started:
    """The figures of a process.

    Attributes:
        values: seconds, milliseconds and megabytes by name.
        vector: float32 (H,), the vector of the query.
    """

    values: dict[str, float]
    vector: NDArray[np.float32]


Start = Callable[[], Started | None]


def measure_start(stage: Stage) -> list[Row]:
    """Start every engine in its own processes, in turns.

    Models are converted and quantized before. Time counts from the start of the
    process, so it includes Python, numpy and the bench itself ("harness_seconds").

    Args:
        stage: the model; its engines need not be loaded.

    Returns:
        a row for each engine.
    """
    sizes: dict[str, dict[str, float]] = {}
    quick: dict[str, Start] = {}
    slow: dict[str, Start] = {}
    for form in stage.options.forms:
        if form.batches or f"{form.name} ({stage.model.name})" in stage.missing:
            continue
        stage.progress.say(f"start: {form.name}")
        first = stage.attempt(form.name, "start", partial(_first, form, stage.setup))
        if first is not None:
            seconds, sizes[form.name] = first
            starts = quick if seconds < _SLOW else slow
            starts[form.name] = partial(_again, stage, form)
    stage.progress.say("start: all in turns")
    # One round of all, then more rounds of the quick ones; a disturbed round is repeated.
    turns = [_in_turns(stage, {**quick, **slow}, 1), _in_turns(stage, quick, PROCESSES - 1)]
    found: dict[str, list[Started]] = {}
    for name in sizes:
        given = [each[name] for turn in turns for each in turn.rounds if name in each]
        started = [one for one in given if one is not None]
        if started and len(started) == len(given):
            found[name] = started
    cosines = stage.fidelity({name: started[0].vector[None] for name, started in found.items()})
    rows = []
    for name, started in found.items():
        row = Row("start", stage.model.name, "start", name, stage.run, _medians(started))
        row.values |= sizes[name]
        row.cosine = cosines[name]
        if name != OURS and OURS in found:
            _compare(row, started, found[OURS])
        mine = turns if name in quick else turns[:1]
        row.rounds = len(started)
        row.dropped = sum(turn.dropped for turn in mine)
        row.disturbed = any(turn.disturbed for turn in mine)
        rows.append(row)
    return rows


def _in_turns(stage: Stage, starts: Mapping[str, Start], rounds: int) -> Turns[Started | None]:
    if not starts or rounds < 1:
        return Turns([], 0, False)
    return take_turns(starts, seconds=0, least=rounds, on_round=stage.progress.refresh)


def _first(form: Form, setup: Setup) -> tuple[float, dict[str, float]]:
    """Make the files that the engine loads, and start it once; return the seconds, and sizes."""
    made = form.artifact(setup) if form.artifact else setup.model.folder.path
    seconds = _process(form, setup).values["first_vector_seconds"]
    return seconds, {"packages_mb": packages_mb(form.runs_on), "model_mb": _model_mb(made)}


def _again(stage: Stage, form: Form) -> Started | None:
    if f"{form.name} ({stage.model.name}, start)" in stage.missing:  # once is enough
        return None
    return stage.attempt(form.name, "start", partial(_process, form, stage.setup))


def _process(form: Form, setup: Setup) -> Started:
    model = setup.model
    command = [sys.executable, "-m", "quaver_bench.start", "--engine", form.name]
    command += ["--model", str(model.folder.path), "--name", model.name]
    command += ["--cache", str(model.cache), "--threads", str(setup.threads)]
    command += ["--max-length", str(setup.max_length), "--calibrated", setup.calibration_name]
    command += ["--begin", str(time.monotonic())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise CannotRunError(f"its process ended with {done.returncode}: {lines[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    vector = np.array(measured.pop("vector"), np.float32)
    return Started(measured, vector)


def _medians(started: Sequence[Started]) -> dict[str, float]:
    return {
        key: round(statistics.median(each.values[key] for each in started), 4)
        for key in started[0].values
    }


def _compare(row: Row, started: Sequence[Started], ours: Sequence[Started]) -> None:
    """Set the ratio over the rounds that both engines were in: the first ones of each."""
    key = "first_vector_seconds"
    pairs = zip(started, ours, strict=False)
    ratios = [theirs.values[key] / mine.values[key] for theirs, mine in pairs]
    if len(ratios) > 1:
        row.compare(statistics.median(ratios), *np.percentile(ratios, (25, 75)))


def packages_mb(names: tuple[str, ...]) -> float:
    """Return the installed size of packages and of their requirements.

    Args:
        names: names of packages, as imported or as installed.

    Returns:
        megabytes (1e6 bytes), files of every package counted once.
    """
    by_import = metadata.packages_distributions()
    todo = [distribution for name in names for distribution in by_import.get(name, [name])]
    seen, total = set[str](), 0
    while todo:
        name = _normal(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        total += sum(_size(Path(str(file.locate()))) for file in distribution.files or ())
        # Requirements of extras are skipped: if they are installed, it may be for another reason.
        for requirement in distribution.requires or ():
            bare, _, marker = requirement.partition(";")
            if "extra" not in marker:
                todo.append(_requirement_name(bare))
    return round(total / 1e6, 1)


def _requirement_name(requirement: str) -> str:
    end = next((i for i, c in enumerate(requirement) if c in " [(<>=!~"), len(requirement))
    return requirement[:end]


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _model_mb(made: Path) -> float:
    """Return the size of a model on disk: a folder, or a file with its weights file."""
    if made.is_dir():
        files = [path for path in made.rglob("*") if path.is_file()]
    else:
        files = [made, *([made.with_suffix(".bin")] if made.suffix == ".xml" else [])]
    return round(sum(map(_size, files)) / 1e6, 1)


def _peak_mb() -> float:
    """Return the peak resident memory of this program; getrusage would include its parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kibibytes) * 1024 / 1e6


def main() -> None:
    """Run the measured process; print one JSON object."""
    here = time.monotonic()
    parser = argparse.ArgumentParser()
    for name in ("--engine", "--model", "--name", "--cache", "--calibrated"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--begin", type=float, required=True)
    options = parser.parse_args()
    begin = options.begin
    form = FORMS[options.engine]
    model = replace(open_model(options.model, Path(options.cache)), name=options.name)
    calibrated = options.calibrated
    setup = Setup(model, options.threads, options.max_length, (), calibrated=calibrated)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    for package in form.runs_on:
        import_module(package)
    imported = time.monotonic()
    try:
        engine = form.load(setup)
    except CannotRunError as error:
        sys.exit(str(error))
    loaded = time.monotonic()
    vector = engine.encode([_QUERY])[0]
    first = time.monotonic()
    measured: dict[str, Any] = {
        "harness_seconds": here - begin,
        "import_seconds": imported - begin,
        "load_seconds": loaded - imported,
        "first_query_ms": 1000 * (first - loaded),
        "first_vector_seconds": first - begin,
        "peak_mb": _peak_mb(),
        "vector": vector.tolist(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
