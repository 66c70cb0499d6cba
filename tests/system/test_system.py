"""What the operating system says, and the portable forms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quaver.engine import available_threads
from quaver.system import (
    LINUX,
    cpu_caches,
    cpu_cores,
    has_ended,
    is_running,
    machine,
    numa_nodes,
    parse_cpus,
    quota,
    smt_siblings,
    start_of,
    sync,
)

linux_only = pytest.mark.skipif(not LINUX, reason="reads /proc or /sys")


@pytest.mark.parametrize("text", ["0-70000", "70000", "2-1", "-1", "1-", ",", "0-60000,0-60000,0"])
def test_a_list_of_cpus_has_bounds(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() says it of some
        parse_cpus(text)


def test_a_list_of_cpus_is_read_as_linux_writes_it() -> None:
    assert parse_cpus("0-3,8") == [0, 1, 2, 3, 8]
    assert parse_cpus("") == []


def _machine(folder: Path, *, siblings: dict[int, str], caches: dict[int, str]) -> Path:
    for files, name in (
        (siblings, "topology/thread_siblings_list"),
        (caches, "cache/index3/shared_cpu_list"),
    ):
        for cpu, text in files.items():
            path = folder / f"cpu{cpu}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return folder


@linux_only
def test_cpus_share_cores_and_caches(tmp_path: Path) -> None:
    cpus = _machine(
        tmp_path,
        siblings={0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"},
        caches={0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"},
    )
    assert smt_siblings([0, 1, 4, 5], folder=cpus) == [[0, 4], [1, 5]]
    assert smt_siblings([0, 1, 5], folder=cpus) == [[1, 5]]  # the others are not this process's
    assert smt_siblings([0, 1], folder=cpus) == []
    assert cpu_caches([0, 1, 4], folder=cpus) == [[0, 4], [1]]
    assert cpu_caches([0, 7], folder=cpus) == []  # one of them is not known
    nodes = tmp_path / "nodes"
    assert cpu_cores([0, 1, 4, 5], folder=cpus, nodes=nodes) == [[0, 4], [1, 5]]
    assert cpu_cores([1, 4, 5], folder=cpus, nodes=nodes) == [[1, 5], [4]]
    assert cpu_cores([0, 7, 3], folder=cpus, nodes=nodes) == [[0], [3], [7]]
    for node, text in ((0, "1,5"), (1, "0,4")):
        (nodes / f"node{node}").mkdir(parents=True)
        (nodes / f"node{node}" / "cpulist").write_text(text)
    assert cpu_cores([0, 1, 4, 5], folder=cpus, nodes=nodes) == [[1, 5], [0, 4]]


def test_names_of_control_groups_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_bytes(b"0::/caf\xe9\n")
    assert quota._read(str(tmp_path / "cgroup")) == "0::/caf\udce9"


@linux_only
def test_memory_nodes_have_cpus_of_this_process(tmp_path: Path) -> None:
    for node, text in {0: "0-3", 1: "4-7", 2: "", 10: "8"}.items():
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(text + "\n")
    assert numa_nodes([1, 2, 4, 8], folder=tmp_path) == {"0": [1, 2], "1": [4], "10": [8]}


@linux_only
def test_threads_are_cores_not_their_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quaver.engine.threads.allowed_cpus", lambda: list(range(8)))
    monkeypatch.setattr(
        "quaver.system.cpus.smt_siblings", lambda cpus: [[0, 4], [1, 5], [2, 6], [3, 7]]
    )
    monkeypatch.setattr("quaver.engine.threads.cpu_quota", lambda: None)
    assert available_threads() == 4
    monkeypatch.setattr("quaver.engine.threads.cpu_quota", lambda: 2.5)
    assert available_threads() == 3


def test_a_process_runs_or_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid)
    assert is_running(os.getpid())
    if os.name == "posix":
        assert not is_running(process.pid) or not LINUX


def test_what_is_synced_must_exist(tmp_path: Path) -> None:
    sync(tmp_path)
    (tmp_path / "file").write_text("text")
    sync(tmp_path / "file")
    if LINUX:
        with pytest.raises(FileNotFoundError):
            sync(tmp_path / "missing")


PORTABLE = """
import os, sys
for module in ("resource", "fcntl", "_posixshmem"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "sched_setaffinity"):
    if hasattr(os, name):
        delattr(os, name)
import quaver, quaver.system
from quaver.system import *
assert not LINUX
assert allowed_cpus() == list(range(os.cpu_count()))
assert (cpu_quota(), numa_nodes([0]), cpu_caches([0]), smt_siblings([0])) == (None, {}, [], [])
assert memory_limit() == 0 and is_running(1) and is_running(2**30)
keep_to([5000]); limit_worker(1); limit_seconds(0.001); allow_files(10**9)
facts = quaver.info()
assert facts["threads"] == os.cpu_count() and facts["advice"] == [], facts
assert facts["settings"]["governor"] == facts["settings"]["transparent_huge_pages"] == "unknown"
print("done")
"""


def test_the_portable_forms_need_no_linux() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PORTABLE],
        env={**os.environ, "QUAVER_PORTABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_of(child.pid)
    assert not has_ended(child.pid, started)
    if LINUX:
        assert has_ended(child.pid, started + 1)
        assert machine()
    child.communicate(b"\n")
    assert start_of(child.pid) == 0
    if LINUX:
        assert has_ended(child.pid, started)
