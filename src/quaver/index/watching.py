"""An index that follows its folder while somebody works in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from quaver.embedder import Embedder
from quaver.errors import DocumentError, needs_extra
from quaver.index.index import Index
from quaver.index.report import UpdateProgress, UpdateReport

LOCK_PATIENCE = 60.0
"""Seconds to wait for a store that somebody else writes to, at most."""


def watch(
    location: str | Path,
    embedder: Embedder,
    folder: str | Path,
    *,
    name: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    gitignore: bool = True,
    follow_links: bool = False,
    on_progress: Callable[[UpdateProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[UpdateReport | DocumentError]:
    """Update an index now, and again whenever something in its folder changes.

    The store is open only while an update runs, so that others can write between two; whoever opens it
    to read can search at any time.

    Args:
        location: The index, which exists.
        embedder: Its model, loaded once.
        folder: The folder.
        name: As for ``Index.update``.
        include: As for ``Index.update``.
        exclude: As for ``Index.update``.
        gitignore: As for ``Index.update``.
        follow_links: As for ``Index.update``.
        on_progress: As for ``Index.update``.
        stop: Ends it when set; None: it goes on until it is interrupted.

    Yields:
        What each update did; the error where the folder could not be read, after which the next
        change is waited for all the same.

    Raises:
        StoreLockedError: Somebody else writes to the store, and did so for a minute.
        StoreError: Storing failed.
        ImportError: The extra "watch" is missing.
    """
    with needs_extra("watch"):
        import watchfiles
    # Yielding on a timeout too, because the first time comes when changes are already looked for:
    # what happens during the first update is seen by the second.
    turns = watchfiles.watch(folder, stop_event=stop, rust_timeout=500, yield_on_timeout=True)
    first = True
    for changes in turns:
        if not (first or changes):
            continue
        first = False
        outcome: UpdateReport | DocumentError
        with Index.open(location, embedder, wait=LOCK_PATIENCE) as index:
            try:
                outcome = index.update(
                    folder,
                    name=name,
                    include=include,
                    exclude=exclude,
                    gitignore=gitignore,
                    follow_links=follow_links,
                    on_progress=on_progress,
                )
            except DocumentError as error:
                outcome = error
        yield outcome  # with the store closed
