"""Engines that cannot share an environment: the same study in another one, rows brought together.

Quaver int8 runs in every environment, in turns with the engines there, so each ratio is measured
and none is computed across processes.
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
"""Seconds that a process has after Ctrl-C to write what it measured."""
_LAST = 5.0
"""Seconds until a process that was terminated is killed."""


def interpreter(environments: Path, name: str) -> Path | None:
    """Return the Python of an environment, if it is there."""
    python = environments / name / "bin" / "python"
    return python if name and python.is_file() else None


def part_forms(
    forms: Sequence[Form], environments: Path
) -> tuple[list[Form], dict[str, list[Form]], dict[str, str]]:
    """Part the forms by where they can run.

    Args:
        forms: the chosen ones.
        environments: folder of environments, each named as `Form.environment`.

    Returns:
        Forms whose packages are here; environment to the forms that run there; name to what to
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
) -> None:
    """Run the study in another environment.

    Args:
        environments: folder of environments.
        name: of the environment.
        forms: engines to measure there.
        options: of `quaver bench`, model first, without --against and --out.
        before: what it holds is not measured again.
        keep: takes the rows of these forms; where it fails, the reason for each form.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was measured is kept first.
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
        interrupted = False
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
            _end(process)
        code = _INTERRUPTED if interrupted else process.returncode
        keep(_outcome(Path(folder), name, forms, code))
    if interrupted:
        raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have a process write what it has, and end it if it does not: its rows so far are written.

    From a terminal it got the signal as well; a second one does not harm a file that is replaced at
    once.
    """
    try:
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # Ctrl-C again: no more patience
        process.terminate()
        try:
            process.wait(_LAST)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _outcome(folder: Path, environment: str, forms: Sequence[Form], code: int) -> Result:
    """What an environment measured of these forms; the reason where it did not."""
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
