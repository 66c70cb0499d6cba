"""Engines that need their own environment: run the same study there, and merge the rows.

Quaver int8 runs in every environment, in turns with the engines there, so each ratio is measured
within one process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from quaver.errors import InputError
from quaver_bench.engines import Form
from quaver_bench.result import RESULTS, Result, read_result

_INTERRUPTED = 130
_PATIENCE = 30.0
"""Seconds that a process has after Ctrl-C to write its rows."""
_LAST = 5.0
"""Seconds between terminating and killing a process."""


def interpreter(environments: Path, name: str) -> Path | None:
    """Return the Python of an environment, or None if it does not exist."""
    python = environments / name / "bin" / "python"
    return python if name and python.is_file() else None


def part_forms(
    forms: Sequence[Form], environments: Path
) -> tuple[list[Form], dict[str, list[Form]], dict[str, str]]:
    """Split the forms by where they can run.

    Args:
        forms: the chosen ones.
        environments: folder of environments, each named as `Form.environment`.

    Returns:
        forms whose packages are installed here; environment to the forms that run there; name to what to
        install, for the others.
    """
    here, elsewhere, missing = [], dict[str, list[Form]](), dict[str, str]()
    for form in forms:
        if not form.missing:
            here.append(form)
        elif interpreter(environments, form.environment):
            elsewhere.setdefault(form.environment, []).append(form)
        else:
            missing[form.name] = f"{', '.join(form.missing)} not installed; {form.install}"
    return here, elsewhere, missing


def measure_elsewhere(
    environments: Path,
    name: str,
    forms: Sequence[Form],
    options: Sequence[str],
    before: Result,
    keep: Callable[[Result], object],
    *,
    limit: float | None = None,
) -> None:
    """Run the study in another environment.

    Args:
        environments: folder of environments.
        name: name of the environment.
        forms: engines to measure there.
        options: options of `quaver bench`, model first, without --against and --out.
        before: rows that are not measured again.
        keep: called with the rows of these forms, or with the reason why there are none.
        limit: seconds after which the process is stopped; its rows so far count. None waits forever.

    Raises:
        KeyboardInterrupt: Ctrl-C; `keep` is called first.
    """
    python = interpreter(environments, name)
    against = ",".join(form.name for form in forms)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "quaver.cli", "bench", *options]
        command += ["--against", against, "--out", folder, "--environments", folder, "--resume"]
        if before.rows:
            before.write(Path(folder) / RESULTS)
        print(f"in {environments / name}: {against}", file=sys.stderr)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        interrupted = stopped = False
        try:
            process.wait(limit)
        except KeyboardInterrupt:
            interrupted = True
            _end(process)
        except subprocess.TimeoutExpired:
            stopped = True
            _end(process)
        code = _INTERRUPTED if interrupted or stopped else process.returncode
        outcome = _outcome(Path(folder), name, forms, code)
        if stopped and limit is not None:
            why = f"quaver bench in {name} was stopped after {limit / 60:.0f} minutes"
            outcome.missing = {
                **dict.fromkeys([form.name for form in forms], why),
                **outcome.missing,
            }
            print(f"{why}: {against}", file=sys.stderr)
        keep(outcome)
    if interrupted:
        raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process, which then writes its rows; end it if it takes too long.

    From a terminal the process has got the signal already. A second one does no harm: the file is
    replaced atomically.
    """
    try:
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: do not wait
        process.terminate()
        try:
            process.wait(_LAST)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _outcome(folder: Path, environment: str, forms: Sequence[Form], code: int) -> Result:
    """Return the rows that an environment measured of these forms, or the reason why not."""
    names = [form.name for form in forms]
    try:
        result = read_result(folder)
    except InputError:
        result = Result()
    if code not in (0, _INTERRUPTED):
        why = f"quaver bench in {environment} ended with {code}; see its messages"
        result.missing |= dict.fromkeys(names, why)
    result.rows = [row for row in result.rows if row.engine in names]
    for row in result.rows:
        row.settings["environment"] = environment
    result.missing = {k: why for k, why in result.missing.items() if k.partition(" ")[0] in names}
    result.quality = {
        model: {engine: found for engine, found in figures.items() if engine in names}
        for model, figures in result.quality.items()
    }
    result.drop_unused()
    return result
