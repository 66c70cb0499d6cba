"""Limits of a process: memory, time, files. Portable: there are none."""

from __future__ import annotations

import math

from quaver.system.switch import LINUX, POSIX

if POSIX:
    import resource


def limit_worker(memory: int) -> None:
    """Let this process have no more than some memory, write no file and leave no core.

    Args:
        memory: bytes of addresses.
    """
    if POSIX:
        if LINUX:  # macOS has the limit and refuses to set it
            _limit(resource.RLIMIT_AS, memory)
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_CORE, 0)


def limit_seconds(seconds: float) -> None:
    """Let this process run for so many seconds of CPU time from now on."""
    if POSIX:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds))


def memory_limit() -> int:
    """Return how many bytes of addresses this process may have; 0 where that is not limited."""
    if not POSIX:
        return 0
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if most == resource.RLIM_INFINITY else most


def allow_files(wanted: int) -> None:
    """Raise the limit of open files as far as this process may.

    Args:
        wanted: open files to allow.
    """
    if not POSIX:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _limit(kind: int, soft: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft if hard < 0 else min(soft, hard), hard))
