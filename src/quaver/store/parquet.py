"""Export a store to a Parquet file that any tool can read, and import such a file.

One row is one passage:

    id, text, source, heading, root   string
    start, end                        int64
    metadata                          string, a JSON object
    vector                            fixed_size_list<float32>[dimension], null where none is stored
    file_digest, file_passages        string, int64: the file version; null for passages of no file
    sparse_words, sparse_weights      list<int32>, list<float32>: the sparse vector, in a store with such
    token_vectors                     binary: the token vectors, int8, one after the other, in a store with such

The file's own metadata holds the store's manifest as JSON under "quaver". Other files need only the
columns id and text; their other columns become metadata, and their texts are embedded, because the
model of any vectors in them is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage
from quaver.errors import DocumentError, StoreWriteError, needs_extra
from quaver.sparse_encoder import SparseVector
from quaver.store.manifest import Manifest
from quaver.store.payload import VERSION_FIELDS
from quaver.store.protocol import FileVersion, PassageTokens, StoredPassage, VectorStore
from quaver.system import written_whole

ROW_GROUP = 4096
"""Passages in memory at a time, and in a row group of a written file."""

_MANIFEST = b"quaver"
_TEXTS = ("id", "text", "source", "heading", "root")
_OFFSETS = ("start", "end")


def write_parquet(store: VectorStore, path: Path) -> int:
    """Write a store to a file; until it is complete, the file has another name.

    Args:
        store: the store.
        path: the file; an existing one is replaced.

    Returns:
        the number of passages in the file.

    Raises:
        StoreWriteError: the file cannot be written.
        StoreError: the store cannot be read.
        ImportError: the extra "parquet" is missing.
    """
    with needs_extra("parquet"):
        import pyarrow as pa
        from pyarrow import parquet
    schema = _schema(store.manifest)
    written = 0
    try:
        with (
            written_whole(path) as partial,
            parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
        ):
            rows = store.scan(with_vectors=True)
            while page := list(islice(rows, ROW_GROUP)):
                writer.write_batch(
                    pa.RecordBatch.from_pydict(_columns(page, store.manifest), schema=schema)
                )
                written += len(page)
    except (OSError, pa.ArrowException) as error:
        raise StoreWriteError(f"cannot write {path}: {error}") from error
    return written


class ParquetPassages:
    """The passages of a Parquet file, read in parts.

    Attributes:
        path: the file.
        manifest: the manifest of the exported store; None for any other file.
        rows: number of passages.
    """

    def __init__(self, path: Path) -> None:
        """Open a file and check its columns.

        Args:
            path: the file.

        Raises:
            DocumentError: it cannot be read, is not a Parquet file, or lacks the columns id and text.
            StoreMismatchError: a later version of Quaver wrote it.
            ImportError: the extra "parquet" is missing.
        """
        with needs_extra("parquet"):
            import pyarrow as pa
            from pyarrow import parquet
        try:
            self._file = parquet.ParquetFile(path, buffer_size=4 << 20, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise DocumentError(f"cannot read {path} as Parquet: {error}") from error
        self.path, self.rows = path, int(self._file.metadata.num_rows)
        schema = self._file.schema_arrow
        missing = [name for name in ("id", "text") if name not in schema.names]
        if missing:
            raise DocumentError(
                f"a Parquet file of passages needs the columns id and text: {path} has "
                f"{', '.join(schema.names) or 'none'}"
            )
        text = (schema.metadata or {}).get(_MANIFEST)
        self.manifest = None if text is None else Manifest.parse(text, where=str(path))

    def __iter__(self) -> Iterator[StoredPassage]:
        """Yield the passages in the order of the file.

        Raises:
            DocumentError: a row is not a passage; the message has its number.
        """
        import pyarrow as pa

        number = 0
        try:
            for batch in self._file.iter_batches(ROW_GROUP):
                for row in batch.to_pylist():
                    number += 1
                    yield self._passage(row, number)
        except pa.ArrowException as error:
            raise DocumentError(f"cannot read {self.path} after row {number}: {error}") from error

    def _passage(self, row: dict[str, Any], number: int) -> StoredPassage:
        where = f"row {number} of {self.path}"
        text = row["text"]
        if row["id"] is None or not isinstance(text, str):
            raise DocumentError(
                f"a passage needs an id and a text: {where} has {row['id']!r}, {text!r:.60}"
            )
        if self.manifest is None:
            others = {k: _plain(v) for k, v in row.items() if k not in ("id", "text", "vector")}
            metadata = others.pop("metadata", None)
            rest = _metadata(metadata, where) if isinstance(metadata, str) else metadata or {}
            passage = Passage(
                str(row["id"]), text, "", "", 0, len(text), "", {**others, **dict(rest)}
            )
            return StoredPassage(passage)
        passage = Passage(
            **{name: row[name] for name in (*_TEXTS, *_OFFSETS)},
            metadata=_metadata(row["metadata"], where),
        )
        digest, passages = (row[name] for name in VERSION_FIELDS)
        version = None if digest is None else FileVersion(digest, passages)
        vector = None if row["vector"] is None else np.asarray(row["vector"], np.float32)
        return StoredPassage(passage, version, vector, _tokens(row, self.manifest))


@dataclass(frozen=True)
class Piece:
    """Arguments of a call of `VectorStore.upsert`."""

    passages: list[Passage]
    vectors: NDArray[np.float32] | None
    versions: Mapping[str, FileVersion] | None
    tokens: list[PassageTokens]


def pieces(rows: Iterator[StoredPassage]) -> Iterator[Piece]:
    """Group passages for `VectorStore.upsert`.

    Args:
        rows: the passages.

    Yields:
        passages of one root, all with vectors or none.
    """
    while page := list(islice(rows, ROW_GROUP // 8)):
        groups: list[_Group] = []
        for row in page:
            kind = (row.passage.root, row.version is None, row.vector is None)
            source = row.passage.source
            group = next((g for g in groups if g.takes(kind, source, row.version)), None)
            if group is None:
                group = _Group(kind)
                groups.append(group)
            if row.version is not None:
                group.versions[source] = row.version
            group.rows.append(row)
        for group in groups:
            _, loose, bare = group.kind
            found = [row.vector for row in group.rows if row.vector is not None]
            vectors = None if bare else np.stack(found)
            yield Piece(
                [row.passage for row in group.rows],
                vectors,
                None if loose else group.versions,
                [row.tokens or PassageTokens() for row in group.rows],
            )


@dataclass
class _Group:
    """Passages of one root, all with vectors or none, and one version of each source."""

    kind: tuple[str, bool, bool]
    versions: dict[str, FileVersion] = field(default_factory=dict)
    rows: list[StoredPassage] = field(default_factory=list)

    def takes(self, kind: tuple[str, bool, bool], source: str, version: FileVersion | None) -> bool:
        return self.kind == kind and self.versions.get(source, version) == version


def _schema(manifest: Manifest) -> Any:
    import pyarrow as pa

    fields = [(name, pa.string()) for name in _TEXTS]
    fields += [(name, pa.int64()) for name in _OFFSETS]
    fields += [("metadata", pa.string()), ("vector", pa.list_(pa.float32(), manifest.dimension))]
    fields += zip(VERSION_FIELDS, (pa.string(), pa.int64()), strict=True)
    if manifest.sparse is not None:
        fields += [
            ("sparse_words", pa.list_(pa.int32())),
            ("sparse_weights", pa.list_(pa.float32())),
        ]
    if manifest.multi is not None:
        fields += [("token_vectors", pa.binary())]
    return pa.schema(fields, metadata={_MANIFEST: manifest.to_json()})


def _columns(page: Sequence[StoredPassage], manifest: Manifest) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: [getattr(row.passage, name) for row in page] for name in (*_TEXTS, *_OFFSETS)
    }
    columns["metadata"] = [
        json.dumps(dict(row.passage.metadata), ensure_ascii=False) for row in page
    ]
    columns["vector"] = [row.vector for row in page]
    for name, part in zip(VERSION_FIELDS, ("digest", "passages"), strict=True):
        columns[name] = [getattr(row.version, part, None) for row in page]
    tokens = [row.tokens or PassageTokens() for row in page]
    if manifest.sparse is not None:
        sparse = [one.sparse for one in tokens]
        columns["sparse_words"] = [None if one is None else one.indices for one in sparse]
        columns["sparse_weights"] = [None if one is None else one.values for one in sparse]
    if manifest.multi is not None:
        columns["token_vectors"] = [
            None if one.multi is None else one.multi.tobytes() for one in tokens
        ]
    return columns


def _tokens(row: dict[str, Any], manifest: Manifest) -> PassageTokens:
    """Return a row's sparse and token vectors; the store that takes them checks them."""
    sparse, multi = None, None
    if manifest.sparse is not None and row["sparse_words"] is not None:
        sparse = SparseVector(
            np.asarray(row["sparse_words"], np.int32),
            np.asarray(row["sparse_weights"], np.float32),
            manifest.sparse.dimension,
        )
    if manifest.multi is not None and row["token_vectors"] is not None:
        multi = np.frombuffer(row["token_vectors"], np.int8)
        multi = multi.reshape(-1, manifest.multi.dimension)
    return PassageTokens(sparse, multi)


def _plain(value: Any) -> Any:
    """Return dates and times in ISO 8601, as filters expect; JSON has no dates."""
    return value.isoformat() if isinstance(value, (date, time)) else value


def _metadata(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"metadata must be a JSON object: {where} has {text!r:.60}") from error
    if not isinstance(content, dict):
        raise DocumentError(f"metadata must be a JSON object: {where} has {text!r:.60}")
    return content
