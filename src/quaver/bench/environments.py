"""Engines that cannot share an environment: the same study in another one, rows brought together.

Quaver int8 runs in every environment, in turns with the engines there, so each ratio is measured
and none is computed across processes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quaver.bench.engines import Form
from quaver.bench.engines.registry import FAMILIES
from quaver.bench.result import Result, read_result
from quaver.errors import InputError


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
    environments: Path, name: str, forms: Sequence[Form], options: Sequence[str]
) -> Result:
    """Run the study in another environment.

    Args:
        environments: folder of environments.
        name: of the environment.
        forms: engines to measure there.
        options: of `quaver bench`, model first, without --against and --out.

    Returns:
        Its rows, without those of Quaver; where it fails, the reason for each form.
    """
    python = interpreter(environments, name)
    against = ",".join(form.name for form in forms)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "quaver.cli", "bench", *options]
        command += ["--against", against, "--out", folder, "--environments", folder]
        print(f"in {environments / name}: {against}", file=sys.stderr)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        try:
            result = read_result(Path(folder))
        except InputError:
            why = f"quaver bench in {name} ended with {done.returncode}; see its messages"
            return Result(missing={form.name: why for form in forms})
    ours = {form.name for form in FAMILIES["quaver"]}
    result.rows = [row for row in result.rows if row.engine not in ours]
    for row in result.rows:
        row.settings["environment"] = name
    result.quality = {
        model: {engine: found for engine, found in figures.items() if engine not in ours}
        for model, figures in result.quality.items()
    }
    return result
