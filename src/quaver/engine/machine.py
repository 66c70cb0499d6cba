"""What this machine offers: instruction sets, CPUs that the process may use, versions."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from quaver import _native
from quaver.errors import EngineError, InputError, InstructionSetError

ISA_VARIABLE = "QUAVER_ISA"
"""Environment variable that forces an instruction set where no `isa` argument does."""


def instruction_sets() -> dict[str, bool]:
    """Return the instruction sets of this build, the best first, and whether each can run here."""
    return dict(_native.instruction_sets())


def choose_isa(isa: str | None = None) -> str:
    """Return the instruction set to run: the argument, else QUAVER_ISA, else the best one available.

    Args:
        isa: a name of `instruction_sets`, or None.

    Raises:
        InstructionSetError: the name is unknown, or this machine lacks it; the message lists what there is.
    """
    sets = instruction_sets()
    available = [name for name, usable in sets.items() if usable]
    wanted, origin = isa, "isa"
    if wanted is None:
        wanted, origin = os.environ.get(ISA_VARIABLE) or None, ISA_VARIABLE
    if wanted is None:
        return available[0]
    if not isinstance(wanted, str) or wanted not in sets:
        raise InstructionSetError(
            f"{origin} must be one of {', '.join(sets)}: got {wanted!r}; "
            f"available here: {', '.join(available)}"
        )
    if not sets[wanted]:
        raise InstructionSetError(
            f"{origin}={wanted!r} cannot run here: the CPU or the operating system lacks it; "
            f"available: {', '.join(available)}"
        )
    return wanted


def available_threads() -> int:
    """Return how many CPUs this process may keep busy: its affinity mask, held to its CPU quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, math.ceil(cgroup_quota() or cpus)))


def choose_threads(threads: int | None = None) -> int:
    """Return the threads to run: the argument, else `available_threads`.

    Args:
        threads: at least 1; more than the machine has is allowed and slow.

    Raises:
        InputError: threads is no whole number, or less than 1.
        EngineError: threads is more than 1024.
    """
    if threads is None:
        return available_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, or None: got {threads!r}")
    if threads > 1024:
        raise EngineError(f"threads must be at most 1024: got {threads}")
    return threads


def cgroup_quota() -> float | None:
    """CPUs' worth of time that the control groups grant this process; None without a limit.

    A group's own limit and those of the groups around it all hold, so the smallest counts.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst (v1)
    """
    return min((quota for group in _cgroups() for quota in _quotas(group)), default=None)


def _cgroups() -> Iterator[str]:
    """Folders of the control groups that hold this process, innermost first."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = "/sys/fs/cgroup/cpu" if controllers else "/sys/fs/cgroup"
            inner = PurePosixPath(path)
            yield from (f"{root}{group}".rstrip("/") for group in (inner, *inner.parents))


def _quotas(group: str) -> Iterator[float]:
    """Limits of one control group: cpu.max in cgroup v2, quota and period in v1."""
    v2 = _read(f"{group}/cpu.max").split()
    v1 = [_read(f"{group}/cpu.cfs_{part}_us") for part in ("quota", "period")]
    for limit in (v2, v1):
        if len(limit) == 2 and all(map(str.isdigit, limit)) and int(limit[1]) > 0:
            yield int(limit[0]) / int(limit[1])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def info() -> dict[str, Any]:
    """Return what a report about speed needs to say about this machine and this build.

    Returns:
        "version", "cpu", "isa" (what an engine would choose now), "instruction_sets" (name to
        whether it is available), "threads" (what an engine would choose now), "cpus" (of the
        machine), "compiler", "python", "platform", and "packages" (name to version).

    Raises:
        InstructionSetError: QUAVER_ISA names one that this machine cannot run.
    """
    packages = ("numpy", "tokenizers", "safetensors", "huggingface-hub", "qdrant-edge-py")
    return {
        "version": metadata.version("quaver"),
        "cpu": _native.cpu_name(),
        "isa": choose_isa(),
        "instruction_sets": instruction_sets(),
        "threads": available_threads(),
        "cpus": os.cpu_count(),
        "compiler": _native.compiler,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
    }
