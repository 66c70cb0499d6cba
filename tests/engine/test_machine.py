"""This machine: info()."""

from __future__ import annotations

from typing import Any

import pytest

from quaver.engine.instruction_sets import instruction_sets
from quaver.engine.machine import advice, info
from quaver.engine.threads import available_threads
from quaver.errors import InstructionSetError


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
        ({"numa_nodes": {"0": [0, 1], "1": [2, 3]}, "caches": [[0, 1], [2, 3]]}, "--membind=N"),
        ({"caches": [[0, 1, 2, 3], [4, 5, 6, 7]]}, "share 2 last caches"),
        ({"cpu_quota": 2.5}, "grants 2.5 CPUs of 8"),
        ({"governor": "powersave"}, "governor powersave"),
        ({"transparent_huge_pages": "never"}, "huge pages are off"),
    ],
)
def test_advice_names_what_slows_an_encoder(changed: dict[str, Any], sentence: str | None) -> None:
    lines = advice(SETTINGS | changed)
    assert len(lines) == (0 if sentence is None else 1)
    assert sentence is None or sentence in lines[0]
