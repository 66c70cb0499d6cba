"""The engine on this machine: one process, or one for each NUMA node or as many as asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe, wait

from quaver.bulk.kinds import Model
from quaver.bulk.shard import Shard
from quaver.bulk.worker import TRIES, Failed, Job, Result, Worker
from quaver.errors import BulkError, QuaverError
from quaver.system import allowed_cpus, core_count, cpu_cores, keep_to, numa_nodes

Partly = Callable[[Shard, float, int], None]
"""Called with a shard, the share of it that is embedded, and its rows so far."""


def run_here(job: Job, shards: Sequence[Shard], model: Model, partly: Partly) -> Iterator[Result]:
    """Embed shards in this process.

    Args:
        job: the run.
        shards: in the order of the work.
        model: the loaded model.
        partly: called after each block.

    Yields:
        the result of each shard.
    """
    worker = Worker(job, model)
    for shard in shards:
        yield worker(shard, lambda share, rows, shard=shard: partly(shard, share, rows))  # type: ignore[misc]


def run_processes(
    job: Job, shards: Sequence[Shard], groups: Sequence[Sequence[int]], partly: Partly
) -> Iterator[Result]:
    """Embed shards in processes, each pinned to some CPUs.

    A process that dies is replaced, and its shard is tried again. When this process dies, the others
    finish their shard and end.

    Args:
        job: the run.
        shards: in the order of the work.
        groups: CPUs of each process.
        partly: called after each block.

    Yields:
        the result of each shard, in the order in which they are finished.

    Raises:
        BulkError: processes die before they have loaded the model.
        QuaverError: a process failed with it.
    """
    waiting = deque(shards)
    tries: dict[Shard, int] = {}
    running = [_start(job, group) for group in groups]
    try:
        while waiting or any(process.shard for process in running):
            for process in running:
                if process.ready and process.shard is None and waiting:
                    process.give(waiting.popleft())
            for connection in wait([process.connection for process in running]):
                process = next(p for p in running if p.connection is connection)
                try:
                    message = process.connection.recv()
                except (EOFError, ConnectionError):
                    ended = process.ended()
                    lost = process.shard
                    if not process.ready:
                        raise BulkError(
                            f"a worker process {ended} before it had loaded the model: is there memory for one "
                            "model in each process?"
                        ) from None
                    if lost is not None:
                        tries[lost] = tries.get(lost, 0) + 1
                        if tries[lost] < TRIES:
                            waiting.appendleft(lost)
                        else:
                            yield Failed(
                                lost, f"{TRIES} worker processes died on it; the last {ended}"
                            )
                    running[running.index(process)] = _start(job, process.cpus)
                    continue
                if isinstance(message, QuaverError):
                    raise message
                if message is None:
                    process.ready = True
                elif isinstance(message, tuple):
                    assert process.shard is not None
                    partly(process.shard, *message)
                else:
                    process.shard = None
                    yield message
    finally:
        for process in running:
            process.end()


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    connection: Connection
    cpus: Sequence[int]
    ready: bool = False
    shard: Shard | None = None

    def give(self, message: object) -> None:
        if isinstance(message, Shard):
            self.shard = message
        with suppress(BrokenPipeError):  # it died: reading from it says so
            self.connection.send(message)

    def end(self) -> None:
        self.process.terminate()
        self.connection.close()
        self.process.wait()

    def ended(self) -> str:
        """Return how the process ended, which has closed its side of the connection."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_SECONDS_TO_END)  # SIGTERM would hide the reason
        self.end()
        return in_words(self.process.returncode)


_SECONDS_TO_END = 10


def in_words(code: int) -> str:
    """Say how a process ended.

    Args:
        code: its exit code; that of a signal is negative.

    Returns:
        words that follow "the process".
    """
    if code >= 0:
        return f"ended with exit code {code}; what it said is above"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return f"was killed ({name}), as the system does when there is no memory left"
    if name == "SIGTERM":
        return f"was asked to end ({name}), by a person, a scheduler or the system"
    return f"ended by a signal ({name})"


def _start(job: Job, cpus: Sequence[int]) -> _Process:
    # Not multiprocessing.Process: that runs the caller's script again, and ends in strange errors if the
    # script does not expect it.
    here, there = Pipe()
    with there:  # else the end of the process would not close the pipe
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(there.fileno())], pass_fds=[there.fileno()]
        )
    started = _Process(process, here, cpus)
    started.give((job, list(cpus)))
    return started


_SERVE = "import sys; from quaver.bulk.local import serve; serve(int(sys.argv[1]))"


def serve(descriptor: int) -> None:
    """Embed the shards that arrive, until the driver is gone.

    Args:
        descriptor: of the pipe to the driver.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends this process
    with Connection(descriptor) as connection, suppress(EOFError, ConnectionError):
        job, cpus = connection.recv()
        try:
            keep_to(cpus)
            worker = Worker(job, job.load(threads=core_count(cpus)))
            connection.send(None)
            while True:
                shard = connection.recv()
                connection.send(worker(shard, lambda share, rows: connection.send((share, rows))))
        except QuaverError as error:
            connection.send(error)


def cpu_groups(workers: int | None) -> list[list[int]]:
    """Divide the CPUs that this process may use.

    Args:
        workers: number of groups; None makes one for each NUMA node.

    Returns:
        the CPUs of each group, none empty. Those of a core are in one group, unless there are more
        workers than cores; with more workers than CPUs some share one.
    """
    cpus = allowed_cpus()
    if workers is None:
        return list(numa_nodes(cpus).values()) or [cpus]
    cores = cpu_cores(cpus)
    if workers > len(cores):  # a CPU each, those of one core next to each other
        cores = [[cpu] for core in cores for cpu in core]
    if workers > len(cores):
        return [cores[i % len(cores)] for i in range(workers)]
    bounds = [len(cores) * i // workers for i in range(workers + 1)]
    return [[cpu for core in cores[a:b] for cpu in core] for a, b in pairwise(bounds)]
