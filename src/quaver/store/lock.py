"""The writer's lock of a store; it is released even if the process is killed."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from quaver.errors import StoreLockedError, StoreWriteError

FILE_NAME = "lock"
_PAUSE = 0.05


class StoreLock:
    """Holds the lock of a store from construction until ``release``."""

    def __init__(self, store: Path, *, wait: float = 0.0) -> None:
        """Take the lock.

        Args:
            store: The store's existing folder.
            wait: Seconds to wait while another process holds the lock; ``math.inf`` waits forever.

        Raises:
            StoreLockedError: Another process holds the lock.
            StoreWriteError: The lock file cannot be opened for writing.
        """
        try:
            self._file = os.open(store / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreWriteError(
                f"the store at {store} must be writable to write to it: {error.strerror}; "
                "with read_only it can be searched"
            ) from error
        patience = time.monotonic() + wait
        try:
            while not self._taken():
                if time.monotonic() >= patience:
                    raise StoreLockedError(
                        f"one process at a time can write to a store: {store} is open in another; "
                        "wait for it (--wait); searching needs no lock"
                    )
                time.sleep(_PAUSE)
        except OSError as error:
            os.close(self._file)
            raise StoreWriteError(f"cannot lock the store at {store}: {error.strerror}") from error
        except BaseException:
            os.close(self._file)
            raise

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def held(self) -> bool:
        """Whether the lock has not been released."""
        return self._file >= 0

    def release(self) -> None:
        """Release the lock; further calls do nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
