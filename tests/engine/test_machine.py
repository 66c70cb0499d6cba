"""This machine: info()."""

from __future__ import annotations

import pytest

from quaver.engine.instruction_sets import instruction_sets
from quaver.engine.machine import info, parse_cpus
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


@pytest.mark.parametrize("text", ["0-70000", "70000", "2-1", "-1", "1-", ",", "0-60000,0-60000,0"])
def test_a_list_of_cpus_has_bounds(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() says it of some
        parse_cpus(text)


def test_a_list_of_cpus_is_read_as_linux_writes_it() -> None:
    assert parse_cpus("0-3,8") == [0, 1, 2, 3, 8]
    assert parse_cpus("") == []
