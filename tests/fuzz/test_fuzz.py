"""The corpus of known cases, and the fuzzer itself: what kills a case is caught and named."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import run
from known_cases import KNOWN_CASES, PENDING
from target import Case

KNOWN = [(target, name) for target, cases in KNOWN_CASES.items() for name in cases]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="session")
def found(scratch: Path) -> dict[tuple[str, str], run.Verdict]:
    """The verdicts of the whole corpus, asked for once: starting a child costs more than a case."""
    verdicts: dict[tuple[str, str], run.Verdict] = {}
    for target, cases in KNOWN_CASES.items():
        names = [run.KNOWN + name for name in cases if wanted(name)]
        for verdict in run.verdicts(run.targets()[target](), names, scratch=scratch):
            verdicts[target, verdict.name.removeprefix(run.KNOWN)] = verdict
    return verdicts


def wanted(name: str) -> bool:
    return name not in PENDING or "QUAVER_FUZZ_PENDING" in os.environ


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("target", "name"), KNOWN)
def test_what_failed_once_holds(
    target: str, name: str, found: dict[tuple[str, str], run.Verdict]
) -> None:
    if not wanted(name):
        pytest.skip("not fixed yet")
    verdict = found[target, name]
    assert not verdict.failed, f"{verdict.outcome}\n{verdict.detail}"


@pytest.mark.parametrize("name", sorted(run.targets()))
def test_a_seed_names_a_case(name: str) -> None:
    target = run.targets()[name]()
    for number in range(5):
        cases = [target.draw(Random(f"{name} 1.{number}")) for _ in range(2)]
        assert cases[0] == cases[1]
        assert Case.from_json(cases[0].to_json()).files == cases[0].files
    assert target.draw(Random(f"{name} 1.1")) != target.draw(Random(f"{name} 1.2"))


def test_what_is_hunted_is_caught_and_named(scratch: Path) -> None:
    """A crash, a hang, a wait, too much memory and foreign exceptions, each between two good cases."""
    names = ["good", "abort", "good", "hang", "memory", "wait", "base", "own", "foreign", "promise"]
    names = [f"{name} {number}" for number, name in enumerate(names)]
    target = run.targets()["rehearsal"]()
    verdicts = {v.name.partition(" ")[0]: v for v in run.verdicts(target, names, scratch=scratch)}
    assert {name: verdict.outcome for name, verdict in verdicts.items() if not verdict.failed} == {
        "good": "good",
        "own": "DocumentError",
    }
    outcomes = {name: v.outcome.partition(" in ")[0] for name, v in verdicts.items() if v.failed}
    assert outcomes == {
        "abort": "killed by SIGABRT",
        "hang": "more than 1 s of processor time",
        "memory": "MemoryError",
        "wait": "blocked",
        "base": "KeyboardInterrupt",
        "foreign": "KeyError",
        "promise": "BrokenPromiseError",
    }


def test_time_ends_a_run(scratch: Path) -> None:
    target, begun = run.targets()["rehearsal"](), time.monotonic()
    names = [f"good {n}" for n in range(1_000_000)]
    found = [*run.verdicts(target, names, scratch=scratch, deadline=begun + 2)]
    assert 0 < len(found) < len(names)


def test_a_failure_is_written_and_tried_again(
    scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case({"deed": b"foreign"}, story=["a deed"])
    target = run.targets()["rehearsal"]()
    out = tmp_path / "out"
    run.write_reproducer(out, target, run.Verdict("1.7", "KeyError", True, "trace"), case)
    assert run.reproduce(out / "rehearsal-1.7.json", scratch) == 1
    assert "FAILED KeyError" in capsys.readouterr().out
