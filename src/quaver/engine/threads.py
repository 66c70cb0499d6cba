"""How many threads to run: the CPUs that affinity and control groups leave to this process."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from quaver.errors import InputError


def available_threads() -> int:
    """Return how many CPUs this process may keep busy: its affinity mask and CPU quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, math.ceil(cgroup_quota() or cpus)))


def choose_threads(threads: int | None = None) -> int:
    """Return the threads to run: the argument, else `available_threads`.

    Args:
        threads: at least 1; more than the machine has is allowed and slow.

    Raises:
        InputError: threads is not a whole number from 1 to 1024.
    """
    if threads is None:
        return available_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, or None: got {threads!r}")
    if threads > 1024:
        raise InputError(f"threads must be at most 1024: got {threads}")
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
