"""Qdrant Edge's errors, all of them plain ``Exception``, as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quaver.errors import StoreError, StoreLockedError, StoreWriteError

_WRITE_SIGNS = (
    "No space left",
    "StorageFull",
    "PermissionDenied",
    "Permission denied",
    "ReadOnly",
    "FileTooLarge",
    "File too large",
    "os error 28",
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns an error of Qdrant Edge into one of ours by its text.

    Args:
        doing: What failed, for the message.

    Raises:
        StoreLockedError: Another process holds the files.
        StoreWriteError: The disk is full or cannot be written.
        StoreError: Anything else.
    """
    try:
        yield
    except BaseException as error:
        # Damaged files can make its Rust code panic; that class has no public name and is no
        # Exception.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        message = f"{doing}: {error}"
        if "WouldBlock" in str(error):
            raise StoreLockedError(message) from error
        if any(sign in str(error) for sign in _WRITE_SIGNS):
            raise StoreWriteError(message) from error
        raise StoreError(f"{message}; if it stays so, index again into another folder") from error
