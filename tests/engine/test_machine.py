"""This machine: info()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quaver.engine.instruction_sets import instruction_sets
from quaver.engine.machine import advice, info, instances
from quaver.engine.threads import available_threads
from quaver.errors import InstructionSetError
from quaver.system import LINUX, cpu_caches, cpu_cores, numa_nodes, smt_siblings


def test_info_says_what_a_report_about_speed_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAVER_ISA", "scalar")
    facts = info()
    assert facts["isa"] == "scalar"
    assert facts["instruction_sets"] == instruction_sets()
    assert 1 <= facts["threads"] == available_threads()
    assert all(facts[name] for name in ("version", "cpu", "cpus", "compiler", "python", "platform"))
    assert set(facts["packages"]) >= {"numpy", "tokenizers", "safetensors"}


def test_info_refuses_an_instruction_set_as_loading_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAVER_ISA", "sse9")
    with pytest.raises(InstructionSetError, match=r"^QUAVER_ISA"):
        info()


SETTINGS: dict[str, Any] = {
    "affinity": list(range(8)),
    "cores": [[cpu] for cpu in range(8)],
    "cpu_quota": None,
    "numa_nodes": {"0": list(range(8))},
    "caches": [list(range(8))],
    "smt_siblings": [],
    "governor": "performance",
    "transparent_huge_pages": "madvise",
    "allocator": "malloc of libc",
}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, None),
        ({"smt_siblings": [[0, 4], [1, 5]]}, "SMT: 8 CPUs share 6 cores"),
        ({"numa_nodes": {"0": [0, 1, 2, 3], "1": [4, 5, 6, 7]}}, "in 2 memory nodes"),
        ({"caches": [[0, 1, 2, 3], [4, 5, 6, 7]]}, "in 2 last caches"),
        ({"caches": [[cpu] for cpu in range(8)]}, None),  # a core each: nothing to divide
        ({"numa_nodes": {"0": [0, 1], "1": [2, 3]}}, None),  # not known of all CPUs
        ({"cpu_quota": 2.5}, "grants 2.5 CPUs of 8"),
        ({"governor": "powersave"}, "governor powersave"),
        ({"transparent_huge_pages": "never"}, "huge pages are off"),
    ],
)
def test_advice_names_what_slows_an_encoder(changed: dict[str, Any], sentence: str | None) -> None:
    lines = advice(SETTINGS | changed)
    assert len(lines) == (0 if sentence is None else 1)
    assert sentence is None or sentence in lines[0]


def _settings(
    folder: Path,
    affinity: list[int],
    *,
    quota: float | None = None,
    caches: int = 1,
    nodes: int = 1,
) -> dict[str, Any]:
    """Return what `cpu_settings` reads on a machine of 8 cores with two CPUs each: n and n + 8."""
    cpus, memory = folder / "cpu", folder / "node"
    for cpu in range(16):
        core = cpu % 8
        size = 8 // caches
        first = core // size * size
        (cpus / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(
            f"{core},{core + 8}\n"
        )
        (cpus / f"cpu{cpu}" / "cache" / "index3").mkdir(parents=True)
        (cpus / f"cpu{cpu}" / "cache" / "index3" / "shared_cpu_list").write_text(
            f"{first}-{first + size - 1},{first + 8}-{first + size + 7}\n"
        )
    for node in range(nodes):
        size = 8 // nodes
        (memory / f"node{node}").mkdir(parents=True)
        (memory / f"node{node}" / "cpulist").write_text(
            f"{node * size}-{node * size + size - 1},{node * size + 8}-{node * size + size + 7}\n"
        )
    return SETTINGS | {
        "affinity": affinity,
        "cores": cpu_cores(affinity, folder=cpus, nodes=memory),
        "cpu_quota": quota,
        "numa_nodes": numa_nodes(affinity, folder=memory),
        "caches": cpu_caches(affinity, folder=cpus),
        "smt_siblings": smt_siblings(affinity, folder=cpus),
    }


ALL = list(range(16))


@pytest.mark.skipif(not LINUX, reason="reads Linux' folders of CPUs and nodes")
@pytest.mark.parametrize(
    ("affinity", "machine", "expected"),
    [
        (ALL, {}, []),
        (ALL, {"nodes": 2}, [("0-3", 4), ("4-7", 4)]),
        (ALL, {"nodes": 2, "caches": 4}, [("0-3", 4), ("4-7", 4)]),
        (ALL, {"caches": 4}, [("0,1", 2), ("2,3", 2), ("4,5", 2), ("6,7", 2)]),
        (ALL, {"caches": 8}, []),  # a core each
        ([0, 1, 2, 3, 8, 9], {"nodes": 2}, []),  # all of this process's are in one
        ([1, 2, 3, 4, 5], {"nodes": 2}, [("1-3", 3), ("4,5", 2)]),
        (ALL, {"nodes": 2, "quota": 3.5}, [("0-3", 4)]),
        (ALL, {"nodes": 2, "quota": 6.0}, [("0-3", 3), ("4-7", 3)]),
        (ALL, {"nodes": 2, "quota": 12.0}, [("0-3", 4), ("4-7", 4)]),
        (ALL, {"quota": 3.5}, []),
    ],
)
def test_a_server_is_divided_among_memory_nodes_or_last_caches(
    tmp_path: Path,
    affinity: list[int],
    machine: dict[str, Any],
    expected: list[tuple[str, int]],
) -> None:
    settings = _settings(tmp_path, affinity, **machine)
    processes = instances(settings)
    assert [(process["cpus"], process["threads"]) for process in processes] == expected
    said = "\n".join(advice(settings))
    ports = set()
    for process in processes:
        words = process["command"].split()
        assert words[:5] == ["taskset", "-c", process["cpus"], "quaver", "serve"]
        ports.add(words[words.index("--port") + 1])
        # Each would run as many threads as the quota grants to all.
        limited = machine.get("quota", 16) < 8
        assert words[-2:] == ["--threads", str(process["threads"])] or not limited
        assert ("--threads" in words) == limited
        assert process["command"] in said
    assert len(ports) == len(processes)
    assert ("instances" in said) == bool(processes)
