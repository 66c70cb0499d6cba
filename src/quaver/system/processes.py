"""Other processes. Portable: each may still run."""

from __future__ import annotations

import os
from pathlib import Path

from quaver.system.switch import LINUX, POSIX


def is_running(pid: int) -> bool:
    """Return whether there is a process of this number, or may be one.

    Args:
        pid: at least 1.
    """
    if not POSIX:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # someone else's; no number that a process has
        pass
    return True


def has_ended(pid: int, started: int) -> bool:
    """Return whether a process is known to have ended.

    Args:
        pid: its number.
        started: what `start_of` said when it ran; another process may have its number since.
    """
    return not is_running(pid) or (started > 0 and start_of(pid) not in (0, started))


def start_of(pid: int) -> int:
    """Return when a process was started, in ticks since the start of the machine; 0 if that is not known.

    Args:
        pid: at least 1.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text() if LINUX else ""
        return int(status.rpartition(")")[2].split()[19]) if status else 0
    except (OSError, IndexError, ValueError):
        return 0


def machine() -> str:
    """Return what processes have in common that know each other by their numbers; "" if that is not known.

    It is this start of the machine and, for containers, the namespace of the numbers.
    """
    try:
        if LINUX:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        pass
    return ""
