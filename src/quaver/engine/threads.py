"""How many threads to run: the cores that affinity and control groups leave to this process."""

from __future__ import annotations

import math

from quaver.errors import InputError
from quaver.system import allowed_cpus, core_count, cpu_quota


def available_threads() -> int:
    """Return how many cores this process may keep busy: its affinity mask and CPU quota.

    CPUs that share a core count once: a second thread of a core would wait for the multipliers of the
    first.
    """
    cores = core_count(allowed_cpus())
    return max(1, min(cores, math.ceil(cpu_quota() or cores)))


def choose_threads(threads: int | None = None) -> int:
    """Return the threads to run: the argument, else `available_threads`.

    Args:
        threads: at least 1; more than the machine has is allowed and slow.

    Raises:
        InputError: threads is not a whole number from 1 to 1024.
    """
    if threads is None:
        return available_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, or None: got {threads!r}")
    if threads > 1024:
        raise InputError(f"threads must be at most 1024: got {threads}")
    return threads
