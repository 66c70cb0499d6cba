"""Facts about this machine, the settings that change an encoder's speed, and advice on them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from quaver import _native
from quaver.engine.instruction_sets import choose_isa, instruction_sets
from quaver.engine.threads import available_threads, cgroup_quota

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
_MAX_CPUS = 1 << 16
"""Far more than a kernel supports (8192), and few enough to list quickly."""


def info() -> dict[str, Any]:
    """Return the facts about this machine and build that a report about speed needs.

    Returns:
        "version", "cpu", "isa" (what an engine would choose now), "instruction_sets" (name to
        whether it is available), "threads" (what an engine would choose now), "cpus" (of the
        machine), "compiler", "python", "platform", "packages" (name to version), "settings" (what
        this process runs under: CPUs, quota, NUMA nodes, SMT, governor, huge pages, allocator) and
        "advice" (sentences on settings that would make encoding faster).

    Raises:
        InstructionSetError: QUAVER_ISA names one that this machine cannot run.
    """
    packages = ("numpy", "tokenizers", "safetensors", "huggingface-hub")
    settings = cpu_settings()
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
        "settings": settings,
        "advice": advice(settings),
    }


def cpu_settings(
    *, cpus: Path = _CPUS, nodes: Path = _NODES, huge_pages: Path = _HUGE_PAGES
) -> dict[str, Any]:
    """Return the settings this process runs under, as Linux reports them in /sys and /proc.

    Args:
        cpus: folder of the CPUs.
        nodes: folder of the NUMA nodes.
        huge_pages: file that says when the kernel uses huge pages.

    Returns:
        "affinity" (CPUs this process may use), "cpu_quota" (CPUs' worth of time granted by the
        control group, or None), "numa_nodes" (node to its CPUs that this process may use),
        "smt_siblings" (groups of CPUs in use that share a core), "governor" and
        "transparent_huge_pages" ("unknown" where not readable), "allocator".
    """
    allowed = sorted(os.sched_getaffinity(0))
    return {
        "affinity": allowed,
        "cpu_quota": cgroup_quota(),
        "numa_nodes": _numa_nodes(nodes, set(allowed)),
        "smt_siblings": _siblings(cpus, allowed),
        "governor": _read(cpus / f"cpu{allowed[0]}" / "cpufreq" / "scaling_governor") or "unknown",
        "transparent_huge_pages": _chosen(_read(huge_pages)),
        "allocator": _allocator(_read(Path("/proc/self/maps"))),
    }


def advice(settings: dict[str, Any]) -> list[str]:
    """Return what would make encoding faster or its timing steadier here.

    Args:
        settings: from `cpu_settings`.

    Returns:
        sentences; empty if there is nothing to improve.
    """
    lines = []
    allowed = settings["affinity"]
    if siblings := settings["smt_siblings"]:
        seconds = {cpu for group in siblings for cpu in group[1:]}
        firsts = [cpu for cpu in allowed if cpu not in seconds]
        lines.append(
            f"SMT: {len(allowed)} CPUs share {len(firsts)} cores; one thread on each core is "
            f"usually fastest: --threads {len(firsts)} --cores {_ranges(firsts)}"
        )
    if len(nodes := settings["numa_nodes"]) > 1:
        lines.append(
            f"NUMA: the CPUs are in {len(nodes)} nodes; run one process on each "
            f"(--instances {len(nodes)}), so that its memory is its own node's"
        )
    quota = settings["cpu_quota"]
    if quota is not None and quota < len(allowed):
        lines.append(
            f"CPU quota: the control group grants {quota:g} CPUs of {len(allowed)}; more threads "
            "than that are throttled, which shows in p99"
        )
    if settings["governor"] not in ("performance", "unknown"):
        lines.append(
            f"governor {settings['governor']}: the clock follows the load; "
            "sudo cpupower frequency-set -g performance"
        )
    if settings["transparent_huge_pages"] == "never":
        lines.append(
            "transparent huge pages are off: "
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        )
    return lines


def _numa_nodes(nodes: Path, allowed: set[int]) -> dict[str, list[int]]:
    found = {}
    for node in sorted(nodes.glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        if cpus := sorted(set(parse_cpus(_read(node / "cpulist"))) & allowed):
            found[node.name.removeprefix("node")] = cpus
    return found


def _siblings(cpus: Path, allowed: list[int]) -> list[list[int]]:
    groups = {
        tuple(set(parse_cpus(_read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list"))))
        for cpu in allowed
    }
    inside = [sorted(set(group) & set(allowed)) for group in groups]
    return sorted(group for group in inside if len(group) > 1)


def parse_cpus(text: str) -> list[int]:
    """Return the CPUs of a list as Linux writes it: "0-3,8" is 0, 1, 2, 3, 8.

    Raises:
        ValueError: the text is not such a list, or has a CPU number that Linux does not have.
    """
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        begin, end = int(first), int(last if dash else first)
        if not 0 <= begin <= end < _MAX_CPUS or len(found) > _MAX_CPUS:
            raise ValueError(f"CPUs must be numbers below {_MAX_CPUS}, least first: got {part!r}")
        found += range(begin, end + 1)
    return found


def _ranges(cpus: list[int]) -> str:
    return ",".join(map(str, cpus))


def _chosen(text: str) -> str:
    """Return the word in brackets, as in "always [madvise] never"."""
    _, found, after = text.partition("[")
    return after.partition("]")[0] if found else "unknown"


def _allocator(maps: str) -> str:
    return next((name for name in _ALLOCATORS if f"lib{name}" in maps), "malloc of libc")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
