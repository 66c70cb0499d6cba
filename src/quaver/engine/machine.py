"""Facts about this machine, the settings that change an encoder's speed, and advice on them."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from quaver import _native
from quaver.engine.instruction_sets import (
    bfloat16_sets,
    choose_isa,
    explain_choice,
    instruction_sets,
)
from quaver.engine.threads import available_threads
from quaver.system import (
    allocator,
    allowed_cpus,
    cpu_caches,
    cpu_cores,
    cpu_quota,
    governor,
    numa_nodes,
    smt_siblings,
    transparent_huge_pages,
)


def info() -> dict[str, Any]:
    """Return the facts about this machine and build that a report about speed needs.

    Returns:
        "version", "cpu", "isa" (what an engine would choose now), "isa_reason" (why),
        "instruction_sets" (name to whether it is available), "bfloat16" (the instruction sets that
        multiply it here), "threads" (what an engine would
        choose now), "cpus" (of the machine), "compiler", "python", "platform", "packages" (name to
        version), "settings" (what this process runs under: CPUs, quota, NUMA nodes, SMT, governor,
        huge pages, allocator), "instances" (the processes to divide a server among, see `instances`)
        and "advice" (sentences on settings that would make encoding faster).

    Raises:
        InstructionSetError: QUAVER_ISA names one that this machine cannot run.
    """
    from importlib import metadata  # the start of a server would wait for it

    packages = ("numpy", "tokenizers", "safetensors", "huggingface-hub")
    settings = cpu_settings()
    return {
        "version": metadata.version("quaver"),
        "cpu": _native.cpu_name(),
        "isa": choose_isa(),
        "isa_reason": explain_choice(),
        "instruction_sets": instruction_sets(),
        "bfloat16": bfloat16_sets(),
        "threads": available_threads(),
        "cpus": os.cpu_count(),
        "compiler": _native.compiler,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "settings": settings,
        "instances": instances(settings),
        "advice": advice(settings),
    }


def cpu_settings() -> dict[str, Any]:
    """Return the settings this process runs under, as far as the system tells.

    Returns:
        "affinity" (CPUs this process may use), "cores" (the same, those of a core together, ordered
        by node and last cache), "cpu_quota" (CPUs' worth of time granted by the
        control group, or None), "numa_nodes" (node to its CPUs that this process may use),
        "caches" (groups of CPUs in use that share a last cache), "smt_siblings" (groups of CPUs in
        use that share a core), "governor" and "transparent_huge_pages" ("unknown" where not
        readable), "allocator".
    """
    allowed = allowed_cpus()
    return {
        "affinity": allowed,
        "cores": cpu_cores(allowed),
        "cpu_quota": cpu_quota(),
        "numa_nodes": numa_nodes(allowed),
        "caches": cpu_caches(allowed),
        "smt_siblings": smt_siblings(allowed),
        "governor": governor(allowed[0]),
        "transparent_huge_pages": transparent_huge_pages(),
        "allocator": allocator(),
    }


def instances(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the processes that a server had better be divided among here, each with its own copy of the weights.

    One for each memory node; where there is one node, for each last cache of two cores or more. Where the
    cores of one of them can use up the CPU quota, one process on those; another quota is divided.

    Args:
        settings: from `cpu_settings`.

    Returns:
        for each process "cpus" (as `taskset` reads them), "threads" and "command"; empty where one process on all
        CPUs is right.
    """
    cores, quota = settings["cores"], settings["cpu_quota"]
    # A CPU of each core, so that no two threads are on one.
    parts = [[core[0] for core in cores if core[0] in part] for part in _parts(settings)[0]]
    if not all(parts):
        return []
    sizes = list(map(len, parts))
    divided = quota is not None and quota < len(cores)
    if divided and parts and quota <= max(sizes):
        parts, sizes = [max(parts, key=len)], [math.ceil(quota)]
    elif divided:
        sizes = [max(1, math.floor(quota * size / len(cores))) for size in sizes]
    return [
        {
            "cpus": _ranges(part),
            "threads": size,
            "command": f"taskset -c {_ranges(part)} quaver serve --model MODEL --port {8080 + i}"
            + (f" --threads {size}" if divided else ""),
        }
        for i, (part, size) in enumerate(zip(parts, sizes, strict=True))
    ]


def _parts(settings: dict[str, Any]) -> tuple[list[list[int]], str]:
    """Return the CPUs of each part of the machine with memory or a last cache of its own, and what they are called.

    Returns:
        empty and "" for one part, or where Linux does not say of each CPU.
    """
    nodes, caches = list(settings["numa_nodes"].values()), settings["caches"]
    count = len(settings["affinity"])
    if len(nodes) > 1:
        return (nodes, "memory nodes") if sum(map(len, nodes)) == count else ([], "")
    if len(caches) > 1 and 2 * len(caches) <= len(settings["cores"]):
        return caches, "last caches"
    return [], ""


def advice(settings: dict[str, Any]) -> list[str]:
    """Return what would make encoding faster or its timing steadier here.

    Args:
        settings: from `cpu_settings`.

    Returns:
        sentences; empty if there is nothing to improve.
    """
    lines = []
    allowed = settings["affinity"]
    processes = instances(settings)
    parts, kind = _parts(settings)
    if siblings := settings["smt_siblings"]:
        seconds = {cpu for group in siblings for cpu in group[1:]}
        firsts = [cpu for cpu in allowed if cpu not in seconds]
        lines.append(
            f"SMT: {len(allowed)} CPUs share {len(firsts)} cores; engines run a thread on each core"
            + ("" if processes else f", and taskset -c {_ranges(firsts)} keeps them apart")
        )
    commands = "; ".join(process["command"] for process in processes)
    if len(processes) == 1:
        lines.append(
            f"instances: the CPUs are in {len(parts)} {kind}, and the cores of one can use up the CPU quota: keep "
            f"the process there: {commands}"
        )
    elif processes:
        reason = (
            "memory of another one is slow to read, and the weights lie in that of the process"
            if kind == "memory nodes"
            else "threads of two of them hand over work several times as slowly as threads of one, which counts for "
            "short texts"
        )
        threads = sorted({process["threads"] for process in processes})
        lines.append(
            f"instances: the CPUs are in {len(parts)} {kind}; {reason}. Run {len(processes)} processes with "
            f"{' or '.join(map(str, threads))} threads each, if memory holds the model as often: {commands}. "
            "quaver bench MODEL --instances measures it"
            + ("; quaver embed --output does so by itself" if kind == "memory nodes" else "")
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


def _ranges(cpus: Sequence[int]) -> str:
    """Write CPUs as `taskset` reads them: 0, 1, 2, 3, 8 are "0-3,8"."""
    runs = [
        [cpu for _, cpu in run]
        for _, run in groupby(enumerate(sorted(cpus)), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs
    )
