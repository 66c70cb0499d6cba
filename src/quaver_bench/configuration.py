"""The configuration of a run: whether earlier rows are comparable with those of this run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from quaver.errors import InputError
from quaver_bench.engines.registry import FORMS
from quaver_bench.result import Result, Row

Run = dict[str, Any]
_DECIDING = {
    "cpu": "CPU",
    "cpu_model": "CPU model",
    "cpu_flags": "instruction sets of the CPU",
    "quaver_isa": "Quaver's instruction set",
    "affinity": "CPUs (--cores)",
    "threads": "threads",
    "instances": "instances",
    "instance_cpus": "CPUs of the instances",
    "random_ids": "random ids",
}
"""Keys of a run that must be equal, and their names in messages."""
_VARIABLES = ("ONEDNN_MAX_CPU_ISA",)
"""Environment variables that must be equal; those of threads and of Quaver are covered above."""
_SETTINGS = ("allocator", "governor", "transparent_huge_pages", "cpu_quota")


def check_same(kept: Result, run: Run) -> None:
    """Refuse rows of another configuration.

    Args:
        kept: the earlier result.
        run: this run, from `describe_run`.

    Raises:
        InputError: an earlier run had other threads, CPUs, instances or ids.
    """
    found = dict.fromkeys(text for before in kept.runs for text in _differences(before, run))
    if found:
        raise InputError(
            "--resume needs the same CPU, threads, cores, instances and ids as before: "
            f"{'; '.join(found)}. Give the same settings or another --out, or measure all again with "
            "--overwrite"
        )


def _differences(before: Run, now: Run) -> Iterator[str]:
    for key, called in _DECIDING.items():
        yield from _changed(called, _value(before, key), _value(now, key))
    for name in _VARIABLES:
        values = (run["environment"].get(name, "not set") for run in (before, now))
        yield from _changed(name, *values)


def _value(run: Run, key: str) -> Any:
    """Return a value of a run; old files have random_ids only in their command."""
    if key == "random_ids":
        return run.get(key, "--random-ids" in run["command"].split())
    return run.get(key)


def _changed(called: str, before: Any, now: Any) -> Iterator[str]:
    if before is not None and before != now:
        yield f"{called}: {_shown(before)} then, {_shown(now)} now"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return (
            ",".join(f"({_shown(v)})" if isinstance(v, list) else str(v) for v in value) or "none"
        )
    return str(value)


def warnings(kept: Result, run: Run, engines: Collection[str]) -> list[str]:
    """Return differences that do not forbid keeping the rows.

    Args:
        kept: the earlier result.
        run: this run.
        engines: engines measured in this process; the others have the packages of their environment.

    Returns:
        one sentence for each difference.
    """
    found: dict[str, None] = {}
    for before in kept.runs:
        commits = (ran["commit"] or "unknown" for ran in (before, run))
        found |= dict.fromkeys(_changed("commit", *commits))
        for name in _SETTINGS:
            values = (ran["settings"].get(name) for ran in (before, run))
            found |= dict.fromkeys(_changed(name.replace("_", " "), *values))
    for row in kept.rows:
        if row.engine in engines:
            versions = kept.runs[row.run]["versions"]
            for name in _packages(row):
                if name in versions and name in run["versions"]:
                    found |= dict.fromkeys(_changed(name, versions[name], run["versions"][name]))
    return list(found)


def _packages(row: Row) -> Sequence[str]:
    form = FORMS[row.engine]
    return [name.replace("_", "-") for name in dict.fromkeys((*form.packages, *form.runs_on))]
