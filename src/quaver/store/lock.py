"""One process at a time: a lock that ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from quaver.errors import StoreLockedError, StoreWriteError

FILE_NAME = "lock"


class StoreLock:
    """Holds the lock of a store from construction until ``release``.

    Why not Qdrant Edge's own lock: it exists only once the shard does, so two processes could
    create one store.
    """

    def __init__(self, store: Path) -> None:
        """Takes the lock.

        Args:
            store: The store's folder, which exists.

        Raises:
            StoreLockedError: Somebody else holds it.
            StoreWriteError: The lock file cannot be opened for writing.
        """
        try:
            self._file = os.open(store / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreWriteError(
                f"the store at {store} must be writable, even to search: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise StoreLockedError(
                f"one process at a time can use a store: {store} is open in another; "
                "close that one, or wait for it"
            ) from error
        except OSError as error:
            os.close(self._file)
            raise StoreWriteError(f"cannot lock the store at {store}: {error.strerror}") from error

    @property
    def held(self) -> bool:
        """Whether the lock has not been released."""
        return self._file >= 0

    def release(self) -> None:
        """Lets others in; further calls do nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
