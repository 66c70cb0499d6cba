"""The files of Qdrant Edge: how a shard is laid out, made and opened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from quaver.errors import InputError, StoreWriteError
from quaver.store.edge_errors import translated
from quaver.store.manifest import Manifest
from quaver.store.qdrant_filter import Conditions

DENSE = "dense"
BM25 = "bm25"
PRECISIONS = ("float32", "int8", "binary")
"""What searching can compare; see ``Manifest.vectors``."""

SEGMENT_BYTES = 400 << 20
"""Vectors of one search graph, at most: a graph is built in the memory that its vectors take. At 384
dimensions these are 270,000 passages; a store with more has several graphs."""

_OVERSAMPLING = {"int8": 2.0, "binary": 8.0}
"""How many times k are found with small vectors, to be compared again in float32."""


def _on(key: str, **condition: Any) -> edge.FieldCondition:
    return edge.FieldCondition(key=key, **condition)


def _flag(key: str, value: bool) -> edge.FieldCondition:
    # Of a plain bool qdrant-edge-py 0.9 makes the number 1 or 0.
    flag: Any = np.bool_(value)
    return _on(key, match=edge.MatchValue(flag))


CONDITIONS = Conditions(
    filter=edge.Filter,
    any_of=lambda key, values: _on(key, match=edge.MatchAny(values)),
    flag=_flag,
    numbers=lambda key, bounds: _on(key, range=edge.RangeFloat(**bounds)),
    dates=lambda key, bounds: _on(key, range=edge.RangeDateTime(**bounds)),
    empty=lambda key: edge.IsEmptyCondition(key=key),
    null=lambda key: edge.IsNullCondition(key=key),
)


def make_shard(unfinished: Path, path: Path, manifest: Manifest) -> None:
    """Makes an empty shard under another name and renames it, so that none is half made.

    Args:
        unfinished: The other name.
        path: The name.
        manifest: What the store is made with.

    Raises:
        InputError: The manifest asks for vectors that there are not.
        StoreError: It cannot be made.
    """
    config = _config(manifest)
    try:
        for rest in (unfinished, path):
            if rest.exists():
                shutil.rmtree(rest)
        unfinished.mkdir()
    except OSError as error:
        raise StoreWriteError(f"cannot write {path.parent}: {error.strerror}") from error
    with translated(f"cannot make a store at {path.parent}"):
        shard = edge.EdgeShard.create(str(unfinished), config)
        # To find the passages of a root, and vectors by content, without reading every payload.
        for name in ("root", "content"):
            keyword = edge.KeywordIndexParams(memory=edge.Memory.Cached)
            shard.update(edge.UpdateOperation.create_field_index(name, keyword))
        shard.close()
    unfinished.rename(path)


def drop_unfinished(path: Path) -> None:
    """Deletes the graphs that a killed process was building: nothing reads them, or ever will.

    Args:
        path: A shard's folder, which nobody has open.

    Raises:
        StoreWriteError: They cannot be deleted.
    """
    try:
        for rest in (path / "temp_segments").glob("*"):
            if rest.is_dir() and not rest.is_symlink():
                shutil.rmtree(rest)
            else:
                rest.unlink()
    except OSError as error:
        raise StoreWriteError(f"cannot write {path.parent}: {error.strerror}") from error


def load_shard(path: Path) -> edge.EdgeShard:
    """Opens a shard.

    Args:
        path: Its folder.

    Returns:
        The shard.

    Raises:
        StoreError: It cannot be opened.
    """
    with translated(f"cannot open the store at {path.parent}"):
        return edge.EdgeShard.load(str(path))


def search_params(vectors: str) -> edge.SearchParams | None:
    """Returns how to search small vectors: more than k of them, compared again in float32.

    Args:
        vectors: One of ``PRECISIONS``.

    Returns:
        The parameters; None for float32, where nothing is to be set.
    """
    if vectors not in _OVERSAMPLING:
        return None
    again = edge.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING[vectors])
    return edge.SearchParams(quantization=again)


def point_number(point: edge.ScoredPoint | edge.Record) -> int:
    """Returns a point's UUID as a number: it sorts as the text does, and 200 texts take 0.15 ms."""
    number: Any = point.id
    return int(number.int)


def record_vector(record: edge.Record) -> NDArray[np.float32] | None:
    """Returns the stored vector, if the record has one and it was asked for."""
    named = record.vector
    if not isinstance(named, dict) or DENSE not in named:
        return None
    return np.asarray(named[DENSE], dtype=np.float32)


def _config(manifest: Manifest) -> edge.EdgeConfig:
    small: Any = None
    if manifest.vectors == "int8":
        small = edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned
        )
    elif manifest.vectors == "binary":
        small = edge.BinaryQuantizationConfig(memory=edge.Memory.Pinned)
    elif manifest.vectors != "float32":
        raise InputError(
            f"vectors must be one of {', '.join(PRECISIONS)}: got {manifest.vectors!r}"
        )
    # "Cached" is mapped from the files and read at opening, "cold" is read when it is needed: next to
    # small vectors the float32 ones are, for the few that are compared again.
    dense = edge.EdgeVectorParams(
        size=manifest.dimension,
        distance=edge.Distance.Cosine,
        quantization_config=small,
        memory=edge.Memory.Cold if small else edge.Memory.Cached,
    )
    bm25 = edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=edge.Memory.Cached)
    return edge.EdgeConfig(
        vectors={DENSE: dense},
        sparse_vectors={BM25: bm25},
        id_tracker_memory=edge.Memory.Cached,
        optimizers=edge.EdgeOptimizersConfig(max_segment_size=SEGMENT_BYTES >> 10),
    )
