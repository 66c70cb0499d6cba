"""Everything of a store out into a Parquet file, and in again, into any store of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.index.index import Index
from quaver.store import (
    ROWS,
    Manifest,
    ParquetPassages,
    create_store,
    open_store,
    pieces,
    store_exists,
    write_parquet,
)


def export_passages(location: str | Path, path: str | Path) -> int:
    """Write a store's passages, metadata and vectors to a Parquet file; load no model.

    Args:
        location: The store, as for ``Index.open``.
        path: The file; one that is there is replaced when the new one is whole.

    Returns:
        How many passages it holds.

    Raises:
        StoreError: The store cannot be read, or the file not be written.
        ImportError: The extra "parquet" is missing.
    """
    store = open_store(location, read_only=True)
    try:
        return write_parquet(store, Path(path))
    finally:
        store.close()


def import_passages(
    path: str | Path,
    location: str | Path,
    *,
    embedder: Embedder | Callable[[Manifest], Embedder] | None = None,
    vectors: str | None = None,
    wait: float = 0.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Store the passages of a Parquet file; interrupted, it can be run again.

    A file that ``export_passages`` wrote brings its vectors and needs no model. The passages of any
    other, with the columns id and text, are embedded; its further columns become metadata.

    Args:
        path: The file.
        location: The store; made if there is none, else what has the same id is replaced.
        embedder: The model for a file that ``export_passages`` did not write; for a store that is
            there, what loads it is enough.
        vectors: What a new store's search compares, see ``Index.create``; None: as in the store that
            the file is from, else "float32".
        wait: How many seconds to wait for another process that writes to the store.
        on_progress: Called with the passages stored so far and those of the file.

    Returns:
        How many passages were stored.

    Raises:
        InputError: The file is no such file, or needs a model and there is none; or the store is
            there and has other vectors than those asked for.
        StoreMismatchError: The store is of another model, or a later version wrote the file.
        StoreError: Storing failed.
        ImportError: The extra "parquet" is missing.
    """
    file = ParquetPassages(Path(path))
    report = on_progress or (lambda done, total: None)
    if file.manifest is not None:
        return _import_own(file, file.manifest, location, vectors, wait, report)
    if embedder is None:
        raise InputError(f"{path} says no model that made its vectors: name one to embed its texts")
    done = 0
    rows = iter(file)
    page = list(islice(rows, ROWS // 8))  # a broken file is told before a store is made
    if store_exists(location):
        opened = Index.open(location, embedder, wait=wait)
    elif isinstance(embedder, Embedder):
        opened = Index.create(location, embedder, vectors=vectors or "float32")
    else:
        raise InputError(f"there is no store at {location} yet: a new one needs a loaded model")
    with opened as index:
        index.store.manifest.check_asked(location, vectors=vectors)
        while page:
            index.add([row.passage for row in page])
            done += len(page)
            report(done, file.rows)
            page = list(islice(rows, ROWS // 8))
        index.store.optimize()
    return done


def _import_own(
    file: ParquetPassages,
    manifest: Manifest,
    location: str | Path,
    vectors: str | None,
    wait: float,
    report: Callable[[int, int], None],
) -> int:
    if store_exists(location):
        store = open_store(location, wait=wait)
    else:
        store = create_store(location, replace(manifest, vectors=vectors or manifest.vectors))
    try:
        store.manifest.check(
            location,
            model=manifest.model,
            fingerprint=manifest.fingerprint,
            dimension=manifest.dimension,
        )
        store.manifest.check_asked(location, vectors=vectors)
        done = 0
        for passages, rows, versions in pieces(iter(file)):
            store.upsert(passages, rows, versions=versions)
            store.flush()
            done += len(passages)
            report(done, file.rows)
        store.optimize()
    finally:
        store.close()
    return done
