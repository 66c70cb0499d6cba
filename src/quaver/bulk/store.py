"""Load the vectors of a target into one of Quaver's stores, to search them with words, filters and answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.bulk.load import check_id, finished_target, plain, read_output
from quaver.bulk.target import Settings
from quaver.documents import Passage
from quaver.embedder import Embedder
from quaver.engine import convert
from quaver.errors import BulkError, InputError, ModelNotFoundError
from quaver.index import Index


def import_vectors(
    source: str | os.PathLike[str],
    location: str | Path,
    *,
    model: str | os.PathLike[str] | None = None,
    id: str | None = None,
    vectors: str | None = None,
    wait: float = 0.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Store the texts and vectors that `embed` wrote; an interrupted import can be run again.

        quaver embed docs.jsonl --model MODEL --output vectors/ --keep text --keep id
        quaver.bulk.import_vectors("vectors/", "kb", id="id")

    The other kept columns become metadata. Nothing is embedded; the model is loaded to check that it
    made the vectors.

    Args:
        source: the target of `embed`, with the texts among its kept columns, and float32 or float16
            vectors of documents.
        location: the store; made if it does not exist. Passages with the same id are replaced.
        model: the model's folder or hub id; None loads the name that the target records.
        id: a kept column whose values differ in all rows; None numbers the rows of each output.
        vectors: vectors that a new store on a server compares, as for `Index.create`.
        wait: seconds to wait for another process that writes to the store.
        on_progress: called with the passages stored so far and all rows.

    Returns:
        the passages stored; rows without a vector are left out.

    Raises:
        BulkError: the source is no target of this kind, or another model made it.
        InputError: there is no such column.
        StoreMismatchError: the store belongs to another model.
        StoreError: storing failed.
    """
    target, settings, records = finished_target(source)
    if settings.kind != "dense" or settings.output not in ("float32", "float16"):
        raise BulkError(
            "a store has one float vector for each passage: embed with --kind dense and --dtype float32 or "
            f"float16, not {settings.kind} and {settings.output}"
        )
    if settings.column not in settings.keep:
        raise BulkError(
            f"a store has the texts, too: embed with --keep {settings.column} into another target"
        )
    embedder = _model_of(settings, target.place.name, model)
    report = on_progress or (lambda done, total: None)
    total = sum(record.rows for record in records)
    done = seen = 0
    opened = (
        Index.open(location, embedder, wait=wait)
        if Index.exists(location)
        else Index.create(location, embedder, vectors=vectors or "float32")
    )
    with opened as index:
        # Each text went through the model alone.
        index.store.manifest.check_asked(location, vectors=vectors, late_chunking=False)
        index.store.require_space(total)
        for record in records:
            row = 0
            for batch in read_output(target.place, record):
                check_id(id, batch.schema)
                first, row = row, row + batch.num_rows
                ids = (
                    [f"{record.output.rpartition('.')[0]}:{i}" for i in range(first, row)]
                    if id is None
                    else batch.column(id).to_pylist()
                )
                passages, rows = _passages(batch, ids, settings, id)
                if passages:
                    if not embedder.normalize:
                        rows = convert(rows, normalize=True, output="float32")
                    index.store.upsert(passages, rows)
                    index.store.flush()
                done, seen = done + len(passages), seen + batch.num_rows
                report(seen, total)
        index.store.optimize()
    return done


def is_target(path: Path) -> bool:
    """Return whether a folder is the target of `embed`."""
    return (path / "_quaver" / "settings.json").is_file()


def _model_of(settings: Settings, target: str, model: str | os.PathLike[str] | None) -> Embedder:
    try:
        embedder = Embedder.from_pretrained(
            settings.model if model is None else os.fspath(model),
            precision=settings.precision,  # type: ignore[arg-type]
            max_seq_length=settings.max_seq_length,
        )
    except ModelNotFoundError as error:
        if model is not None:
            raise
        raise ModelNotFoundError(
            f"{error}; {target} was made with this model: name its folder with -m"
        ) from error
    if embedder.dimension != settings.dimension:
        embedder = Embedder.from_pretrained(
            embedder.source,
            precision=settings.precision,  # type: ignore[arg-type]
            max_seq_length=settings.max_seq_length,
            truncate_dim=settings.dimension,
        )
    if embedder.fingerprint != settings.fingerprint:
        raise BulkError(
            f"the vectors of {target} are of another model than {embedder.source}: name the one that made "
            "them with -m"
        )
    if embedder.document_prompt != settings.prompt:
        raise BulkError(
            f"a store has vectors of documents: those of {target} had the prompt {settings.prompt!r}, the "
            f"model puts {embedder.document_prompt!r} before documents"
        )
    return embedder


def _passages(
    batch: Any, ids: list[Any], settings: Settings, id: str | None
) -> tuple[list[Passage], NDArray[np.float32]]:
    """Return the rows with a vector as passages, and their vectors."""
    others = [name for name in settings.keep if name not in (settings.column, id)]
    texts = batch.column(settings.column).to_pylist()
    metadata = batch.select(others).to_pylist() if others else [{} for _ in texts]
    column = batch.column("vector")
    rows = np.flatnonzero(np.asarray(column.is_valid()))
    passages = []
    for row in map(int, rows):
        if ids[row] is None:
            raise InputError(f"every row needs an id: column {id!r} has nulls")
        extra = {name: plain(value) for name, value in metadata[row].items() if value is not None}
        passages.append(Passage(str(ids[row]), texts[row], "", "", 0, len(texts[row]), "", extra))
    found = column.drop_null().flatten().to_numpy().astype(np.float32)
    return passages, found.reshape(len(rows), settings.dimension)
