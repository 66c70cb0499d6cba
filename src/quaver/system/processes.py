"""Other processes. Portable: each may still run."""

from __future__ import annotations

import os

from quaver.system.switch import POSIX


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
