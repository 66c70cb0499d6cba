"""A target has one driver: a second one is refused, and one that was killed holds nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_bulk import TEXTS, digests, write_corpus

from quaver import BulkError, BulkWriteError, QuaverError
from quaver.bulk import driver, embed
from quaver.bulk.driver import Driver, only_driver
from quaver.bulk.place import find_place
from quaver.system import machine, start_of
from tiny_model import write_tiny_model

NOBODY = Driver(host="far", pid=7, since="then", machine="", started=0, name="0" * 32)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems have no locks, and leases last a short time."""
    monkeypatch.setattr(driver, "LockedFile", _missing)
    monkeypatch.setattr(driver, "BEAT", 0.05)
    monkeypatch.setattr(driver, "_LOOK", 0.02)


@contextmanager
def a_driver(source: Path, target: Path | str, model: Path) -> Iterator[None]:
    """A driver in a thread that is at work until the block ends."""
    begun, go_on = threading.Event(), threading.Event()
    failed: list[QuaverError] = []

    def wait(progress: object) -> None:
        begun.set()
        go_on.wait(60)

    def work() -> None:
        try:
            embed(source, target, model=model, on_progress=wait)
        except QuaverError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        go_on.set()
        thread.join(60)
    assert not failed


def write_lease(target: Path, of: Driver) -> Path:
    path = target / "_quaver/drivers" / f"{of.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(of))
    return path


REFUSED = (
    r"one driver at a time: process {pid} on .+, since 20.+ UTC, is at work on .*out; wait until it"
)


@pytest.mark.parametrize("locks", [True, False])
def test_a_second_driver_is_refused(
    locks: bool, tmp_path: Path, tiny_folder: Path, request: pytest.FixtureRequest
) -> None:
    if not locks:
        request.getfixturevalue("no_locks")
    source, out = write_corpus(tmp_path / "a.txt", TEXTS[:20]), tmp_path / "out"
    with a_driver(source, out, tiny_folder):
        there = sorted(path.name for path in out.rglob("*") if "drivers" not in str(path))
        with pytest.raises(BulkError, match=REFUSED.format(pid=os.getpid())):
            embed(source, out, model=tiny_folder)
        with pytest.raises(BulkError, match="one driver at a time"):
            embed(source, f"file://{out}", model=tiny_folder, output="int8")
        assert there == sorted(p.name for p in out.rglob("*") if "drivers" not in str(p))
    report = embed(source, out, model=tiny_folder)
    assert report.before == 1
    left = {path.name for path in (out / "_quaver").rglob("*") if path.is_file()}
    assert left <= {"lock", "manifest.jsonl", "settings.json"}


@pytest.mark.parametrize("locks", ["True", "False"])
def test_a_driver_that_was_killed_holds_nothing(
    locks: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_corpus(tmp_path / "a.txt", TEXTS[:20]), tmp_path / "out"
    code = (
        "import errno, sys, time; from quaver.bulk import driver, embed\n"
        "def missing(*a, **b): raise OSError(errno.ENOSYS, 'no')\n"
        "if sys.argv[1] == 'False': driver.LockedFile = missing\n"
        f"embed({str(source)!r}, {str(out)!r}, model={str(tiny_folder)!r},\n"
        "      on_progress=lambda progress: print('begun', flush=True) or time.sleep(60))"
    )
    started = subprocess.Popen([sys.executable, "-c", code, locks], stdout=subprocess.PIPE)
    assert started.stdout is not None
    with started.stdout:
        assert started.stdout.readline() == b"begun\n"
        if locks == "False":
            monkeypatch.setattr(driver, "LockedFile", _missing)
            assert list((out / "_quaver/drivers").glob("*.json"))
            # Its process is on this machine, so nobody waits for the end of its lease.
            monkeypatch.setattr(driver, "LEASE", 1000.0)
        else:
            assert (out / "_quaver/driver.json").exists()
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert embed(source, out, model=tiny_folder).total_rows == 20
    assert not list((out / "_quaver/drivers").glob("*.json"))


def _missing(*arguments: object, **options: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


@pytest.mark.usefixtures("no_locks")
def test_a_lease_that_does_not_change_ends(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LEASE", 0.3)
    source, out = write_corpus(tmp_path / "a.txt", TEXTS[:20]), tmp_path / "out"
    lease = write_lease(out, NOBODY)
    begin = time.monotonic()
    assert embed(source, out, model=tiny_folder).total_rows == 20
    assert time.monotonic() - begin > 0.3
    assert not lease.exists()
    half = lease.with_name("half.json")
    half.write_text('{"host":')
    assert embed(source, out, model=tiny_folder).before == 1
    assert not half.exists()


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("number", ["another boot", "another process"])
def test_the_number_of_a_process_alone_tells_nothing(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LEASE", 0.3)
    boot = machine() if number == "another process" else "another"
    alive = Driver("here", os.getpid(), "then", boot, start_of(os.getpid()) + 1, "1" * 32)
    write_lease(tmp_path, alive)
    begin = time.monotonic()
    with only_driver(find_place(tmp_path)) as check:
        waited = time.monotonic() - begin
        check()
    # A process of that number that began at another time is another one; of another boot nothing is known.
    assert (waited > 0.3) == (number == "another boot")


@pytest.mark.usefixtures("no_locks")
def test_of_many_that_start_together_one_is_at_work(tmp_path: Path) -> None:
    place = find_place(tmp_path)
    at_work: list[int] = []
    most: list[int] = []
    refused: list[BulkError] = []

    def work(number: int) -> None:
        try:
            with only_driver(place) as check:
                at_work.append(number)
                most.append(len(at_work))
                time.sleep(0.3)
                check()
                at_work.remove(number)
        except BulkError as error:
            refused.append(error)

    threads = [threading.Thread(target=work, args=[i]) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(most) == {1}
    assert len(most) + len(refused) == 6
    assert not list((tmp_path / "_quaver/drivers").glob("*.json"))


@pytest.mark.usefixtures("no_locks")
def test_a_driver_whose_lease_was_taken_stops(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_corpus(tmp_path / "a.txt", TEXTS[:20]), tmp_path / "out"

    def take(progress: object) -> None:
        (lease,) = (out / "_quaver/drivers").glob("*.json")
        for _ in range(20):  # a beat may be on its way
            lease.unlink(missing_ok=True)
            time.sleep(0.02)

    with pytest.raises(BulkError, match=r"this driver lost .*out: .* the same command continues"):
        embed(source, out, model=tiny_folder, on_progress=take)
    monkeypatch.undo()
    assert embed(source, out, model=tiny_folder).total_rows == 20


def test_a_target_whose_lock_cannot_be_opened(tmp_path: Path, tiny_folder: Path) -> None:
    source, out = write_corpus(tmp_path / "a.txt", TEXTS[:20]), tmp_path / "out"
    (out / "_quaver/lock").mkdir(parents=True)
    with pytest.raises(BulkWriteError, match=r"lock: .*; the target must be writable"):
        embed(source, out, model=tiny_folder)


# --- The same model by another name ---------------------------------------------------------------
def test_a_model_by_another_name_goes_on(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS[:300])
    options: dict[str, Any] = {"shard_bytes": 4_000, "keep": ["id"]}
    want = embed(source, tmp_path / "want", model=tiny_folder, **options)
    out = tmp_path / "out"
    embed(source, out, model=tiny_folder, **options)
    for output in list(out.glob("*.parquet"))[1:]:
        output.unlink()
    renamed = shutil.copytree(tiny_folder, tmp_path / "renamed")
    report = embed(source, out, model=renamed, **options)
    assert report.before == 1
    assert digests(report) == digests(want)  # with the name of the first run in each file
    assert json.loads((out / "_quaver/settings.json").read_text())["model"] == tiny_folder.name


def test_another_model_of_the_same_name_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:10])
    embed(source, tmp_path / "out", model=tiny_folder)
    other = write_tiny_model(tmp_path / tiny_folder.name, seed=1)
    message = r"was made with the model '(\w+)' \(fingerprint \w{12}\), not '\1' \(fingerprint \w{12}\); give"
    with pytest.raises(BulkError, match=message):
        embed(source, tmp_path / "out", model=other)
