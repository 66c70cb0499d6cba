"""Extras: what to install where a library is missing that only a part of Quaver needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Say which extra to install when an import in this block finds no such library.

        with needs_extra("haystack"):
            from haystack import component

    Args:
        extra: the extra's name in pyproject.toml.

    Yields:
        Nothing.

    Raises:
        ImportError: a library is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = error.name or "a library"
        raise ImportError(
            f"{library} is not installed: pip install 'quaver[{extra}]'", name=error.name
        ) from error
