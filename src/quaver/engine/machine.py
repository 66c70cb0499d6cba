"""Facts about this machine, the settings that change an encoder's speed, and advice on them."""

from __future__ import annotations

import os
import platform
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
        huge pages, allocator) and "advice" (sentences on settings that would make encoding faster).

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
            f"SMT: {len(allowed)} CPUs share {len(firsts)} cores; engines run a thread on each core, "
            f"and taskset -c {_ranges(firsts)} keeps them apart"
        )
    if len(nodes := settings["numa_nodes"]) > 1:
        lines.append(
            f"NUMA: the CPUs are in {len(nodes)} nodes; run one process on each, so that its memory is its "
            f"own node's: numactl --cpunodebind=N --membind=N quaver ... with N from {', '.join(nodes)}; "
            "quaver embed --output does so by itself"
        )
    if len(caches := settings["caches"]) > max(1, len(nodes)):
        lines.append(
            f"caches: the CPUs share {len(caches)} last caches; threads of two of them hand over work "
            "several times as slowly as threads of one. For many texts run one process on each, if memory "
            f"holds the model {len(caches)} times: taskset -c with {' or '.join(map(_ranges, caches))}"
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


def _ranges(cpus: list[int]) -> str:
    return ",".join(map(str, cpus))
