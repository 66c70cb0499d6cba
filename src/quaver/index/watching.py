"""Keep an index up to date while files in its folder change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from quaver.embedder import Embedder
from quaver.errors import DocumentError, needs_extra
from quaver.index.index import Index
from quaver.index.report import UpdateProgress, UpdateReport
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder

LOCK_PATIENCE = 60.0
"""Maximum seconds to wait for a store that another process writes to."""


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

    The store is open only during an update, so that other processes can write in between. Processes
    that open it to read can search at any time.

    Args:
        location: the existing index.
        embedder: its model.
        folder: the folder.
        name: as for `Index.update`.
        include: as for `Index.update`.
        exclude: as for `Index.update`.
        gitignore: as for `Index.update`.
        follow_links: as for `Index.update`.
        on_progress: as for `Index.update`.
        stop: set it to stop watching; None watches until interrupted.

    Yields:
        the report of each update, or the error if the folder could not be read; watching goes on
        after an error.

    Raises:
        StoreLockedError: another process has been writing to the store for a minute.
        StoreError: storing failed.
        ImportError: the extra "watch" is missing.
    """
    with needs_extra("watch"):
        import watchfiles
    # Also yield on a timeout: the first one arrives when the watcher is active, so changes during
    # the first update are seen by the second.
    turns = watchfiles.watch(folder, stop_event=stop, rust_timeout=500, yield_on_timeout=True)
    first = True
    encoders: tuple[SparseEncoder | None, MultiVectorEncoder | None] = None, None
    for changes in turns:
        if not (first or changes):
            continue
        first = False
        outcome: UpdateReport | DocumentError
        sparse, multi = encoders
        with Index.open(
            location, embedder, wait=LOCK_PATIENCE, sparse=sparse, multi=multi
        ) as index:
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
            encoders = index.encoders.loaded()
        yield outcome  # the store is closed here
