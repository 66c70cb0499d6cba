"""The writer's lock of a store; it is released even if the process is killed."""

from __future__ import annotations

from pathlib import Path

from quaver.errors import StoreLockedError, StoreWriteError
from quaver.system import LockedFile

FILE_NAME = "lock"


class StoreLock:
    """Holds the lock of a store from construction until `release`."""

    def __init__(self, store: Path, *, wait: float = 0.0) -> None:
        """Take the lock.

        Args:
            store: the store's existing folder.
            wait: seconds to wait while another process holds the lock; `math.inf` waits forever.

        Raises:
            StoreLockedError: another process holds the lock.
            StoreWriteError: the lock file cannot be opened for writing, or its file system has no
                locks.
        """
        try:
            self._lock = LockedFile(store / FILE_NAME, wait=wait)
        except TimeoutError:
            raise StoreLockedError(
                f"one process at a time can write to a store: {store} is open in another; "
                "wait for it (--wait); searching needs no lock"
            ) from None
        except OSError as error:
            raise StoreWriteError(
                f"the store at {store} must be writable to write to it: {error.strerror or error}; "
                "with read_only it can be searched"
            ) from error

    def release(self) -> None:
        """Release the lock; further calls do nothing."""
        self._lock.release()
