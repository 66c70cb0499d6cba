"""Settings of the machine that change the speed of an encoder. Portable: all are unknown."""

from __future__ import annotations

from pathlib import Path

from quaver.system.switch import LINUX

_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")


def governor(cpu: int) -> str:
    """Return what sets the clock of a CPU, such as "performance"; or "unknown"."""
    return _read(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor") or "unknown"


def transparent_huge_pages() -> str:
    """Return when the kernel uses huge pages by itself: "always", "madvise", "never" or "unknown"."""
    _, found, after = _read("/sys/kernel/mm/transparent_hugepage/enabled").partition("[")
    return after.partition("]")[0] if found else "unknown"


def allocator() -> str:
    """Return the allocator of this process, by the libraries it has loaded."""
    maps = _read("/proc/self/maps")
    return next((name for name in _ALLOCATORS if f"lib{name}" in maps), "malloc of libc")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip() if LINUX else ""
    except OSError:
        return ""
