"""What this machine offers: instruction sets, CPUs that the process may use, versions."""

from __future__ import annotations

import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from quaver import _native
from quaver.errors import EngineError, InputError, InstructionSetError

ISA_VARIABLE = "QUAVER_ISA"
"""Environment variable that forces an instruction set where no `isa` argument does."""


def instruction_sets() -> dict[str, bool]:
    """Return every instruction set of this build, the best first, and whether this CPU and its system allow it."""
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
    if wanted not in sets:
        raise InstructionSetError(
            f"{origin} must be one of {', '.join(sets)}: got {wanted!r}; available here: {', '.join(available)}"
        )
    if not sets[wanted]:
        raise InstructionSetError(
            f"{origin}={wanted!r} cannot run here: the CPU or the operating system lacks it; "
            f"available: {', '.join(available)}"
        )
    return wanted


def available_threads() -> int:
    """Return the number of CPUs this process may keep busy: its affinity mask, held to the cgroup's CPU quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, math.ceil(_cgroup_quota() or cpus)))


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


def _cgroup_quota() -> float | None:
    """CPUs' worth of time that the control group grants this process (cgroup v2, then v1); None without a limit."""
    v2 = _read("/sys/fs/cgroup/cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    quota, period = (_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{part}_us") for part in ("quota", "period"))
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def info() -> dict[str, Any]:
    """Return what a report about speed needs to say about this machine and this build.

    Returns:
        "version", "cpu", "isa" (what an engine would choose now), "instruction_sets" (name to whether it is available),
        "threads" (what an engine would choose now), "cpus" (of the machine), "compiler", "python", "platform",
        and "packages" (name to version).

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
