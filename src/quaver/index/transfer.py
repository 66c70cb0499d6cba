"""Export a store to a Parquet file and import it into a store of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import get_args

from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.index.index import Index
from quaver.store import (
    ROW_GROUP,
    Manifest,
    ParquetPassages,
    TokenKind,
    create_store,
    open_store,
    pieces,
    store_exists,
    write_parquet,
)


def export_passages(location: str | Path, path: str | Path) -> int:
    """Write a store's passages, metadata and vectors to a Parquet file, without loading a model.

    Args:
        location: the store, as for `Index.open`.
        path: the file; an existing one is replaced once the new one is complete.

    Returns:
        the number of passages in the file.

    Raises:
        StoreError: the store cannot be read, or the file cannot be written.
        ImportError: the extra "parquet" is missing.
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
    """Store the passages of a Parquet file; an interrupted import can be run again.

    A file written by `export_passages` contains vectors and needs no model. The passages of any
    other file, with the columns id and text, are embedded; its other columns become metadata.

    Args:
        path: the file.
        location: the store; created if it does not exist. Passages with the same id are replaced.
        embedder: the model for a file that `export_passages` did not write; for an existing
            store, a function that loads it is enough.
        vectors: vectors that a new store compares, see `Index.create`; None uses the setting of
            the exported store, or "float32".
        wait: seconds to wait for another process that writes to the store.
        on_progress: called with the number of passages stored so far and the number in the file.

    Returns:
        the number of passages stored.

    Raises:
        DocumentError: the file is not a Parquet file of passages.
        InputError: the file needs a model and none was given, or the store exists with other vectors
            than `vectors`, or one of file and store has late chunking.
        StoreMismatchError: the store belongs to another model, or a later version wrote the file.
        StoreError: storing failed.
        ImportError: the extra "parquet" is missing.
    """
    file = ParquetPassages(Path(path))
    report = on_progress or (lambda done, total: None)
    if file.manifest is not None:
        return _import_own(file, file.manifest, location, vectors, wait, report)
    if embedder is None:
        raise InputError(f"{path} was not exported from a store: name a model to embed its texts")
    done = 0
    rows = iter(file)
    page = list(islice(rows, ROW_GROUP // 8))  # a broken file fails before a store is created
    if store_exists(location):
        opened = Index.open(location, embedder, wait=wait)
    elif isinstance(embedder, Embedder):
        opened = Index.create(location, embedder, vectors=vectors or "float32")
    else:
        raise InputError(f"there is no store at {location} yet: a new one needs a loaded model")
    with opened as index:
        index.store.manifest.check_asked(location, vectors=vectors)
        index.store.require_space(file.rows)
        while page:
            index.add([row.passage for row in page])
            done += len(page)
            report(done, file.rows)
            page = list(islice(rows, ROW_GROUP // 8))
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
        store.manifest.check_asked(location, vectors=vectors, late_chunking=manifest.late_chunking)
        for kind in get_args(TokenKind):
            made = getattr(manifest, kind)
            if made is not None:
                store.manifest.token_model(kind, location).check(kind, location, made)
        store.require_space(file.rows)
        done = 0
        for piece in pieces(iter(file)):
            store.upsert(
                piece.passages, piece.vectors, versions=piece.versions, tokens=piece.tokens
            )
            store.flush()
            done += len(piece.passages)
            report(done, file.rows)
        store.optimize()
    finally:
        store.close()
    return done
