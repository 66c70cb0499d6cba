"""One driver at a time for a target.

Where files can be locked, the driver holds the lock of TARGET/_quaver/lock, which ends with the process.
Elsewhere it holds a lease: a file of its own in TARGET/_quaver/drivers/, written anew every few seconds.
No filesystem of pyarrow writes under a condition, so a driver writes its lease and lists them after that:
of two that start together one at least sees the other, and withdraws. Whether another driver lives is told
by a lease that changes, and no two clocks are compared.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from quaver.bulk.place import (
    Place,
    list_files,
    make_folder,
    read_bytes,
    remove,
    write_bytes,
    writing,
)
from quaver.errors import BulkError, BulkWriteError
from quaver.system import LockedFile, has_ended, machine, start_of

BEAT = 5.0
"""Seconds after which a lease is written anew."""
LEASE = 30.0
"""Seconds after which the driver of a lease that does not change is gone."""
_LOOK = 0.5
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system without locks says."""


@dataclass(frozen=True)
class Driver:
    """The process that runs a bulk job.

    Attributes:
        host: its machine.
        pid: its number there.
        since: when it took the target, UTC.
        machine: what has the same numbers of processes, see `quaver.system.machine`.
        started: when the process was started, see `quaver.system.start_of`.
        name: of this hold of the target.
        beat: how often the lease was written.
        at_work: whether it has the target; before, it is one of those that start.
    """

    host: str
    pid: int
    since: str
    machine: str
    started: int
    name: str
    beat: int = 0
    at_work: bool = False

    def describe(self) -> str:
        """Return who this is, in words."""
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def only_driver(target: Place) -> Iterator[Callable[[], None]]:
    """Hold a target, so that no other driver works on it meanwhile.

    A driver that was killed does not hold it: a lock ends with its process, a lease is void at once if its
    process was on this machine, and after `LEASE` seconds if it was on another.

    Args:
        target: the folder; it and its _quaver are made where folders exist.

    Yields:
        a function to call from time to time, which raises a `BulkError` if the hold was lost.

    Raises:
        BulkError: another driver holds the target.
        BulkWriteError: the target cannot be written.
    """
    own = target / "_quaver"
    me = Driver(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        machine=machine(),
        started=start_of(os.getpid()),
        name=uuid.uuid4().hex,
    )
    with ExitStack() as held:
        if own.is_local and _locked(own, me, target, held):
            yield lambda: None
        else:
            lease = _Lease(target, me)
            held.callback(lease.end)
            lease.take()
            yield lease.check


def _locked(own: Place, me: Driver, target: Place, held: ExitStack) -> bool:
    """Lock the file of a folder of this machine; return False if its file system has no locks."""
    with writing(own):
        make_folder(own)
    said = own / "driver.json"
    try:
        lock = LockedFile(Path(own.path) / "lock")
    except TimeoutError:
        other = None
        with suppress(BulkError, msgspec.DecodeError):
            other = msgspec.json.decode(read_bytes(said), type=Driver)
        raise _taken(target, other) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise BulkWriteError(
            f"cannot write {own.name}/lock: {error.strerror or error}; the target must be writable"
        ) from error
    held.callback(lock.release)
    # For the message that another driver gets. The disk may be full, which the run finds out better.
    with suppress(BulkWriteError):
        write_bytes(said, msgspec.json.encode(me), own / "driver.unfinished")
        held.callback(_forget, said)
    return True


class _Lease:
    """A file of this driver that says that it is at work."""

    def __init__(self, target: Place, me: Driver) -> None:
        self._target, self._me = target, me
        self._folder = target / "_quaver" / "drivers"
        self._name = f"{me.name}.json"
        self._place = self._folder / self._name
        self._ended, self._lost = threading.Event(), False
        self._written = 0.0
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the lease, after those of drivers that are gone have been removed.

        Raises:
            BulkError: another driver is at work.
            BulkWriteError: the target cannot be written.
        """
        seen: dict[str, tuple[bytes, float]] = {}
        while True:
            others = self._others()
            if not others:
                self._write()
                others = self._others()
                if not others:
                    self._me = replace(self._me, at_work=True)
                    self._write()
                    break
                remove(self._place)  # another one started at the same time
                time.sleep(random.uniform(_LOOK, 3 * _LOOK))
                others = self._others()
            seen = {name: seen[name] for name in others if name in seen}
            for name, content in others.items():
                before, when = seen.setdefault(name, (content, time.monotonic()))
                try:
                    other = msgspec.json.decode(content, type=Driver)
                except msgspec.DecodeError:  # half a file: only its age tells
                    other = None
                if content != before:
                    if other is not None and other.at_work:
                        raise _taken(self._target, other)
                    seen[name] = content, time.monotonic()
                    continue
                gone = other is not None and (
                    other.machine == self._me.machine != "" and has_ended(other.pid, other.started)
                )
                if gone or time.monotonic() - when > LEASE:
                    remove(self._folder / name)
            if others:
                time.sleep(_LOOK)
        self._thread = threading.Thread(target=self._keep, name="quaver-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise an error if another driver may have taken the target meanwhile."""
        if self._lost or time.monotonic() - self._written > LEASE:
            raise BulkError(
                f"this driver lost {self._target.name}: it could not renew its lease, so another driver may "
                "have begun; once there is no other, the same command continues"
            )

    def end(self) -> None:
        """Give the target free."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        _forget(self._place)

    def _keep(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                late = time.monotonic() - self._written > LEASE - BEAT
                if late or self._name not in list_files(self._folder):
                    self._lost = True
                    return
                self._write()
            except BulkError:  # it is tried again until the lease is void
                continue

    def _write(self) -> None:
        self._me = replace(self._me, beat=self._me.beat + 1)
        begin = time.monotonic()
        write_bytes(
            self._place,
            msgspec.json.encode(self._me),
            self._folder / f".{self._me.name}.unfinished",
        )
        self._written = begin

    def _others(self) -> dict[str, bytes]:
        found = {}
        for name in list_files(self._folder):
            if name.endswith(".json") and name != self._name:
                with suppress(BulkError):  # removed meanwhile
                    found[name] = read_bytes(self._folder / name)
        return found


def _forget(place: Place) -> None:
    """Delete a file of this driver; one that stays does no harm."""
    with suppress(BulkError):
        remove(place)


def _taken(target: Place, other: Driver | None) -> BulkError:
    who = "another process" if other is None else other.describe()
    return BulkError(
        f"a target has one driver at a time: {who}, is at work on {target.name}; wait until it has ended, or end "
        "it, and run the same command again"
    )
