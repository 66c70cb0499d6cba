"""How much time of the CPUs the control groups grant this process. Portable: no limit is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from quaver.system.switch import LINUX


def cpu_quota() -> float | None:
    """Return how many CPUs' worth of time the control groups grant this process; None without a limit.

    A group's own limit and those of the groups around it all hold, so the smallest counts.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst (v1)
    """
    return min((quota for group in _cgroups() for quota in _quotas(group)), default=None)


def _cgroups() -> Iterator[str]:
    """Folders of the control groups that hold this process, innermost first."""
    for line in (_read("/proc/self/cgroup") if LINUX else "").splitlines():
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
        # Names of control groups are bytes.
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return ""
