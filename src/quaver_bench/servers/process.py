"""A server as a process: started, watched, ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quaver_bench.engines import CannotRunError

HOST = "127.0.0.1"
_PATIENCE = 180.0
"""Seconds that a server may take to answer its first request."""
_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        process: the process; with its children, the server.
        port: where it listens.
        start_seconds: from the start of the process to its first answer.
    """

    process: subprocess.Popen[bytes]
    port: int
    start_seconds: float

    def resident_mb(self) -> float:
        """Return the resident memory of the server, in MB."""
        return sum(_resident(pid) for pid in _family(self.process.pid)) / 1e6

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server so far."""
        return sum(_cpu(pid) for pid in _family(self.process.pid))


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], port: int, *, path: str, body: bytes, threads: int
) -> Iterator[Running]:
    """Start a server, wait until it answers a request, and end it.

    Args:
        command: program and arguments.
        port: where it listens.
        path: of a request that it must answer.
        body: of this request.
        threads: for libraries that read the number from the environment.

    Raises:
        CannotRunError: it ended, or did not answer in time; the message has its last line.
    """
    with tempfile.TemporaryFile() as log:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=_environment(threads), start_new_session=True
        )
        try:
            while not answers(port, path, body):
                if process.poll() is not None:
                    raise CannotRunError(f"it ended with {process.returncode}: {_last_line(log)}")
                if time.perf_counter() - begin > _PATIENCE:
                    raise CannotRunError(
                        f"it did not answer within {_PATIENCE:g} s: {_last_line(log)}"
                    )
                time.sleep(0.02)
            yield Running(process, port, time.perf_counter() - begin)
        finally:
            _end(process)


def answers(port: int, path: str, body: bytes) -> bool:
    """Return whether a server answers a request with 200."""
    try:
        return bool(ask(port, path, body))
    except (OSError, http.client.HTTPException):
        return False


def ask(port: int, path: str, body: bytes) -> bytes:
    """Send one request on a connection of its own.

    Returns:
        the body of the answer.

    Raises:
        OSError: there is no connection.
        http.client.HTTPException: the answer is not 200.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_PATIENCE)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"{answer.status}: {content[:200]!r}")
        return content
    finally:
        connection.close()


def _environment(threads: int) -> dict[str, str]:
    count = str(threads)
    return os.environ | {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GB; an encoder needs none
        "PYTHONUNBUFFERED": "1",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(log: Any) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it wrote nothing"


def _family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                parents[int(folder.name)] = int(fields[1])
    family = [pid]
    for member in family:  # grows while it is read
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; none if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _resident(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[21]) * _PAGE if fields else 0


def _cpu(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0
