"""The writer's lock: one holder, who may die, fork or close it in another thread."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quaver.errors import StoreLockedError, StoreWriteError
from quaver.store.lock import FILE_NAME, StoreLock

HOLD = """
import sys, time
from pathlib import Path
from quaver.store.lock import StoreLock
held = StoreLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def in_another_process(code: str, store: Path) -> str:
    """Runs code with the store's folder as its argument and returns what it prints."""
    command = [sys.executable, "-W", "error", "-c", code, store]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def is_free(store: Path) -> bool:
    """Whether another process could take the lock."""
    with (store / FILE_NAME).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_one_holds_it_until_it_is_released(tmp_path: Path) -> None:
    held = StoreLock(tmp_path)
    assert not is_free(tmp_path)
    with pytest.raises(StoreLockedError, match=rf"{tmp_path} is open in another; wait for it"):
        StoreLock(tmp_path)
    with pytest.raises(StoreLockedError):
        StoreLock(tmp_path, wait=0.1)
    held.release()
    held.release()
    assert is_free(tmp_path)
    StoreLock(tmp_path).release()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError):
            StoreLock(tmp_path)
        threading.Timer(0.2, other.send_signal, (signal.SIGKILL,)).start()
        StoreLock(tmp_path, wait=60).release()


# In a process with one thread: forking beside other threads is a warning since Python 3.12.
FORK = """
import fcntl, gc, os, signal, sys, time
from pathlib import Path
from quaver.store.lock import FILE_NAME, StoreLock

def is_free():
    with open(Path(sys.argv[1], FILE_NAME), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True

kept = [StoreLock(Path(sys.argv[1]))]
child = os.fork()
"""


def test_a_forked_child_does_not_release_it(tmp_path: Path) -> None:
    code = """
if child == 0:
    try:
        kept[0].release()
        kept.clear()
        gc.collect()
    finally:
        os._exit(0)
os.waitpid(child, 0)
print("free" if is_free() else "held")
"""
    assert in_another_process(FORK + code, tmp_path) == "held"


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    code = """
if child == 0:
    time.sleep(100)
    os._exit(0)
try:
    kept[0].release()
    print("free" if is_free() else "held")
finally:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
    assert in_another_process(FORK + code, tmp_path) == "free"


def test_another_thread_may_release_it(tmp_path: Path) -> None:
    held = StoreLock(tmp_path)
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join()
    assert is_free(tmp_path)


def test_a_file_that_cannot_be_opened_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreWriteError, match=rf"{tmp_path} must be writable .*: Is a directory"):
        StoreLock(tmp_path)


def test_a_file_system_without_locks_is_a_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(StoreWriteError, match=r"must be writable .*Function not implemented"):
        StoreLock(tmp_path)
