"""Locks of files, which the system releases when the process that holds one ends in any way."""

from __future__ import annotations

from pathlib import Path

_PAUSE = 0.05


class LockedFile:
    """Holds the lock of a file from construction until `release`."""

    def __init__(self, path: Path, *, wait: float = 0.0) -> None:
        """Take the lock.

        Args:
            path: the file, which is made if it does not exist, and stays.
            wait: seconds to wait while another process holds the lock; `math.inf` waits forever.

        Raises:
            TimeoutError: another process holds the lock.
            OSError: the file cannot be opened for writing, or its file system has no locks.
        """
        from filelock import FileLock

        # Not thread_local: a store is opened by one thread and closed by another. Not soft: a lock
        # that is only a file remains after a process is killed.
        self._lock = FileLock(
            path,
            mode=0o666,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )
        self._lock.acquire(timeout=wait, poll_interval=_PAUSE)

    def release(self) -> None:
        """Release the lock; further calls do nothing."""
        self._lock.release()
