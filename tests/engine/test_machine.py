"""Machine: instruction sets chosen or refused, threads that the system grants, info()."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from quaver.engine.machine import (
    available_threads,
    choose_isa,
    choose_threads,
    info,
    instruction_sets,
)
from quaver.errors import EngineError, InputError, InstructionSetError

ISAS = [name for name, available in instruction_sets().items() if available]


# --- Instruction sets -----------------------------------------------------------------------------
def test_scalar_is_everywhere_and_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUAVER_ISA", raising=False)
    assert set(instruction_sets()) == {"avx512vnni", "avxvnni", "avx2", "scalar"}
    assert list(instruction_sets())[-1] == ISAS[-1] == "scalar"
    assert choose_isa() == ISAS[0]


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAVER_ISA", "scalar")
    assert choose_isa() == "scalar"
    assert choose_isa(ISAS[0]) == ISAS[0]
    monkeypatch.setenv("QUAVER_ISA", "")
    assert choose_isa() == ISAS[0]


def test_an_unknown_instruction_set_lists_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = f"must be one of {', '.join(instruction_sets())}: got "
    here = f"; available here: {', '.join(ISAS)}$"
    wrong: Any
    for wrong, shown in (("sse9", "'sse9'"), ("AVX2", "'AVX2'"), (["avx2"], r"\['avx2'\]")):
        with pytest.raises(InstructionSetError, match=f"^isa {rule}{shown}{here}"):
            choose_isa(wrong)
    monkeypatch.setenv("QUAVER_ISA", "sse9")
    with pytest.raises(InstructionSetError, match=f"^QUAVER_ISA {rule}'sse9'{here}"):
        choose_isa()
    with pytest.raises(InstructionSetError, match=r"^QUAVER_ISA"):
        info()


def test_an_instruction_set_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"avx512vnni": False, "avx2": False, "scalar": True}
    monkeypatch.setattr("quaver.engine.machine.instruction_sets", lambda: sets)
    with pytest.raises(InstructionSetError, match=r"^isa='avx2' cannot run here.*: scalar$"):
        choose_isa("avx2")
    monkeypatch.setenv("QUAVER_ISA", "avx512vnni")
    with pytest.raises(InstructionSetError, match=r"^QUAVER_ISA='avx512vnni' cannot run here"):
        choose_isa()


# --- Threads --------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [0, -1, True, 1.0, "2"])
def test_threads_that_are_no_positive_number(threads: Any) -> None:
    with pytest.raises(InputError, match=f"whole number of at least 1, or None: got {threads!r}"):
        choose_threads(threads)


def test_more_threads_than_make_sense() -> None:
    assert choose_threads(1024) == 1024
    with pytest.raises(EngineError, match="at most 1024: got 1025"):
        choose_threads(1025)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity mask")
def test_the_affinity_mask_bounds_the_threads() -> None:
    code = (
        "import os; from quaver.engine.machine import available_threads, choose_threads;"
        f"os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]);"
        "print(available_threads(), choose_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


V1 = "/sys/fs/cgroup/cpu"
V2 = "/sys/fs/cgroup"
PERIOD = "cpu.cfs_period_us"
QUOTA = "cpu.cfs_quota_us"


@pytest.mark.parametrize(
    ("groups", "files", "most"),
    [
        ("0::/", {f"{V2}/cpu.max": "150000 100000"}, 2),
        ("0::/", {f"{V2}/cpu.max": "20000 100000"}, 1),
        ("0::/", {f"{V2}/cpu.max": "max 100000"}, 8),
        ("0::/", {}, 8),
        ("0::/a/b", {f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {f"{V2}/a/b/cpu.max": "200000 100000", f"{V2}/cpu.max": "500000 100000"}, 2),
        (
            "4:memory:/x\n3:cpu,cpuacct:/",
            {f"{V1}/{QUOTA}": "300000", f"{V1}/{PERIOD}": "100000"},
            3,
        ),
        ("3:cpu:/x", {f"{V1}/x/{QUOTA}": "100000", f"{V1}/x/{PERIOD}": "50000"}, 2),
        ("3:cpu:/gone", {f"{V1}/{QUOTA}": "100000", f"{V1}/{PERIOD}": "50000"}, 2),
        ("3:cpu:/", {f"{V1}/{QUOTA}": "-1", f"{V1}/{PERIOD}": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_the_cgroup_quota_bounds_the_threads(
    groups: str, files: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"/proc/self/cgroup": groups, **files}
    monkeypatch.setattr("quaver.engine.machine._read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_threads() == most


# --- info() ---------------------------------------------------------------------------------------
def test_info_says_what_a_report_about_speed_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAVER_ISA", "scalar")
    told = info()
    assert told["isa"] == "scalar"
    assert told["instruction_sets"] == instruction_sets()
    assert 1 <= told["threads"] == available_threads()
    assert all(told[name] for name in ("version", "cpu", "cpus", "compiler", "python", "platform"))
    assert set(told["packages"]) >= {"numpy", "tokenizers", "qdrant-edge-py"}
