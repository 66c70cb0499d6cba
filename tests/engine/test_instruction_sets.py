"""Instruction sets: chosen by argument or environment, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from quaver import _native
from quaver.engine.instruction_sets import (
    bfloat16_sets,
    choose_isa,
    explain_choice,
    instruction_sets,
    permitted_isa,
    refusals,
    require_bfloat16,
)
from quaver.engine.machine import info
from quaver.errors import InstructionSetError

ISAS = [name for name, available in instruction_sets().items() if available]


def test_scalar_is_everywhere_and_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUAVER_ISA", raising=False)
    assert set(instruction_sets()) in (
        {"amx", "avx512vnni", "avxvnni", "avx512", "avx2", "scalar"},
        {"neon_i8mm", "neon_dotprod", "neon", "scalar"},
    )
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


def test_an_instruction_set_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"avx512vnni": False, "avx2": False, "scalar": True}
    monkeypatch.setattr("quaver.engine.instruction_sets.instruction_sets", lambda: sets)
    with pytest.raises(InstructionSetError, match=r"^isa='avx2' cannot run here.*: scalar$"):
        choose_isa("avx2")
    monkeypatch.setenv("QUAVER_ISA", "avx512vnni")
    with pytest.raises(InstructionSetError, match=r"^QUAVER_ISA='avx512vnni' cannot run here"):
        choose_isa()


def test_an_instruction_set_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUAVER_ISA", raising=False)
    assert explain_choice() == "the best that this CPU and system allow"
    sets = {"amx": False, "avx512vnni": True, "scalar": True}
    module = "quaver.engine.instruction_sets"
    monkeypatch.setattr(f"{module}.instruction_sets", lambda: sets)
    monkeypatch.setattr(f"{module}.refusals", lambda: {"amx": "Linux refuses the tiles"})
    with pytest.raises(
        InstructionSetError,
        match=r"^isa='amx' cannot run here: Linux refuses the tiles; available: avx512vnni, scalar",
    ):
        choose_isa("amx")
    assert choose_isa() == "avx512vnni"
    assert explain_choice().endswith("; amx is refused (Linux refuses the tiles)")
    monkeypatch.setenv("QUAVER_ISA", "scalar")
    assert explain_choice() == "QUAVER_ISA asks for it"


def test_bfloat16_is_multiplied_where_a_set_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(bfloat16_sets()) <= {"amx", "avx512vnni", "neon_i8mm"} & set(ISAS)
    for isa in bfloat16_sets():
        require_bfloat16(isa)
    module = "quaver.engine.instruction_sets"
    monkeypatch.setattr(f"{module}.bfloat16_sets", lambda: ["amx", "avx512vnni"])
    require_bfloat16("avx512vnni")
    with pytest.raises(
        InstructionSetError,
        match=r"^precision='bfloat16' needs .*: avx2 has none; leave out isa and QUAVER_ISA, or choose "
        r"amx or avx512vnni\. Otherwise use precision='float32', 'int8', ",
    ):
        require_bfloat16("avx2")
    monkeypatch.setattr(f"{module}.bfloat16_sets", list)
    with pytest.raises(
        InstructionSetError,
        match=r": this CPU or its operating system lacks them: .+\. Otherwise use precision=",
    ):
        require_bfloat16("avx512vnni")


def test_permission_is_asked_once_an_instruction_set_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("QUAVER_ISA", raising=False)
    refused: dict[str, str] = {}
    monkeypatch.setattr("quaver.engine.instruction_sets._refused", refused)
    asked: list[str] = []
    answers = {"amx": "Linux refuses the tiles"}

    def ask(isa: str) -> str:
        asked.append(isa)
        return answers.get(isa, "")

    monkeypatch.setattr(_native, "request_permission", ask)
    monkeypatch.setattr(
        _native,
        "instruction_sets",
        lambda: [("amx", True), ("avx512vnni", True), ("avx2", False), ("scalar", True)],
    )
    monkeypatch.setattr(_native, "refusals", list)
    assert instruction_sets()["amx"]
    assert choose_isa() == "amx"
    assert choose_isa("amx") == "amx"
    assert info()["isa"] == "amx"
    assert explain_choice() == "the best that this CPU and system allow"
    assert not asked  # listing and explaining ask for nothing

    with pytest.raises(
        InstructionSetError,
        match=r"^isa='amx' cannot run here: Linux refuses the tiles; available: avx512vnni, scalar$",
    ):
        permitted_isa("amx")
    assert asked == ["amx"]
    assert not instruction_sets()["amx"]
    assert refusals() == {"amx": "Linux refuses the tiles"}
    assert permitted_isa() == "avx512vnni"
    assert asked == ["amx", "avx512vnni"]
    assert explain_choice().endswith("; amx is refused (Linux refuses the tiles)")

    refused.clear()
    with pytest.warns(
        RuntimeWarning, match=r"^amx cannot run here: Linux refuses the tiles; avx512vnni runs"
    ):
        assert permitted_isa() == "avx512vnni"
    refused.clear()
    monkeypatch.setenv("QUAVER_ISA", "amx")
    with pytest.raises(InstructionSetError, match=r"^QUAVER_ISA='amx' cannot run here: Linux"):
        permitted_isa()
    refused.clear()
    answers.clear()
    assert permitted_isa() == "amx"


def test_the_system_is_asked_for_the_tile_registers_alone() -> None:
    for isa, available in _native.instruction_sets():
        answer = _native.request_permission(isa)
        if isa != "amx" or _native.emulated:
            assert answer == ""
        elif not available:  # this CPU or system lacks them, and the request says why
            assert "tile registers" in answer
