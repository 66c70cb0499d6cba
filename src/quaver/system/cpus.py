"""The CPUs of this process, and what they share: cores, caches, memory nodes. Portable: their number alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from quaver.system.switch import LINUX

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_MAX_CPUS = 1 << 16
"""Far more than a kernel supports (8192), and few enough to list quickly."""


def allowed_cpus() -> list[int]:
    """Return the CPUs that this process may use, at least one; portable: all of the machine."""
    return sorted(os.sched_getaffinity(0)) if LINUX else list(range(os.cpu_count() or 1))


def keep_to(cpus: Iterable[int]) -> None:
    """Keep this process to some CPUs.

    Args:
        cpus: numbers of CPUs; the portable form ignores them.

    Raises:
        OSError: none of them exists.
    """
    if LINUX:
        os.sched_setaffinity(0, cpus)


def smt_siblings(cpus: Sequence[int], *, folder: Path = _CPUS) -> list[list[int]]:
    """Return the groups of CPUs that share a core.

    Args:
        cpus: CPUs to look at.
        folder: the system's folder of CPUs.

    Returns:
        groups of two or more, sorted; empty where Linux does not say.
    """
    return [
        group for group in _groups(cpus, folder, "topology/thread_siblings_list") if len(group) > 1
    ]


def core_count(cpus: Sequence[int]) -> int:
    """Return how many cores some CPUs are: those that share one count once."""
    return len(cpus) - sum(len(group) - 1 for group in smt_siblings(cpus))


def cpu_cores(
    cpus: Sequence[int], *, folder: Path = _CPUS, nodes: Path = _NODES
) -> list[list[int]]:
    """Return the cores of some CPUs, neighbors next to each other.

    Args:
        cpus: CPUs to look at.
        folder: the system's folder of CPUs.
        nodes: the system's folder of nodes.

    Returns:
        the CPUs of each core, ordered by memory node, then by last cache, then by number; a core for each CPU where
        Linux does not say.
    """
    siblings = smt_siblings(cpus, folder=folder)
    shared = {cpu for group in siblings for cpu in group}
    cores = [*siblings, *([cpu] for cpu in cpus if cpu not in shared)]
    groups = (list(numa_nodes(cpus, folder=nodes).values()), cpu_caches(cpus, folder=folder))
    places = [{cpu: place for place, group in enumerate(of) for cpu in group} for of in groups]
    return sorted(cores, key=lambda core: [*(place.get(core[0], 0) for place in places), core[0]])


def cpu_caches(cpus: Sequence[int], *, folder: Path = _CPUS) -> list[list[int]]:
    """Return the groups of CPUs that share a last cache (L3). Arguments and result as `smt_siblings`."""
    groups = _groups(cpus, folder, "cache/index3/shared_cpu_list")
    return groups if sum(map(len, groups)) == len(cpus) else []


def numa_nodes(cpus: Sequence[int], *, folder: Path = _NODES) -> dict[str, list[int]]:
    """Return the memory nodes that have some of these CPUs.

    Args:
        cpus: CPUs to look at.
        folder: the system's folder of nodes.

    Returns:
        node to its CPUs among them, in the order of the nodes; empty where Linux does not say.
    """
    found = {}
    nodes = folder.glob("node[0-9]*") if LINUX else ()
    for node in sorted(nodes, key=lambda path: int(path.name[4:])):
        if mine := sorted(set(parse_cpus(_read(node / "cpulist"))) & set(cpus)):
            found[node.name.removeprefix("node")] = mine
    return found


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


def _groups(cpus: Sequence[int], folder: Path, file: str) -> list[list[int]]:
    if not LINUX:
        return []
    groups = {
        tuple(sorted(set(parse_cpus(_read(folder / f"cpu{cpu}" / file))) & set(cpus)))
        for cpu in cpus
    }
    return sorted(list(group) for group in groups if group)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
