"""The writer's lock: one holder, who may die, fork or close it in another thread."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
import time
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


def test_a_forked_child_does_not_release_it(tmp_path: Path) -> None:
    kept = [StoreLock(tmp_path)]
    child = os.fork()
    if child == 0:
        try:
            kept[0].release()
            kept.clear()
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert not is_free(tmp_path)
    kept[0].release()


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    held = StoreLock(tmp_path)
    child = os.fork()
    if child == 0:
        time.sleep(100)
        os._exit(0)
    try:
        held.release()
        assert is_free(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


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
