"""Calibration text: from files, folders and data sets to a fixed choice of samples."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quaver.documents import Failure, folder_documents
from quaver.engine import check_listable
from quaver.errors import CalibrationError, DocumentError, InputError, needs_extra

# Tried in this order if no column is named.
TEXT_COLUMNS = ("text", "document", "passage", "content", "body", "sentence", "abstract")
# Rows that are read from a streamed data set for each sample.
_ROWS_PER_SAMPLE = 20

Row = tuple[str, Any]


@dataclass(frozen=True)
class CalibrationTexts:
    """The texts that a model was calibrated with.

    Attributes:
        name: where they came from: a file's or folder's name, or a data set's id and column.
        texts: the chosen samples.
        found: number of different texts in the source.
        failed: files of a folder that could not be read, and why.
    """

    name: str
    texts: tuple[str, ...]
    found: int
    failed: tuple[Failure, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 over the chosen texts, 64 hex digits."""
        whole = hashlib.sha256()
        for text in self.texts:
            whole.update(hashlib.sha256(text.encode()).digest())
        return whole.hexdigest()


def calibration_texts(
    source: str | Path | Iterable[str], samples: int, column: str | None = None
) -> CalibrationTexts:
    """Read a calibration source and choose samples, evenly spread over its different texts.

    Args:
        source: a .jsonl, .txt (one text per line), .csv or .parquet file, a folder of documents, the
            id of a data set ("allenai/qasper"), or texts. A file or data set may be followed by
            ":" and a column.
        samples: how many texts to choose, at least 1.
        column: the column that holds text; None takes the first of `TEXT_COLUMNS` that is there.

    Returns:
        the same texts for the same source and number, in its order. A file of a folder that cannot
        be read is skipped and listed in `failed`.

    Raises:
        CalibrationError: the source cannot be read, has no such column, holds something other than
            text, or has fewer texts than asked for.
        InputError: source is a table, a set, a mapping or bytes.
        ImportError: a library that the source needs is not installed.
    """
    if not isinstance(source, (str, Path)):
        check_listable("calibration", source, "a file, a folder, a data set or a list of str")
        return _chosen("texts", ((f"texts[{i}]", t) for i, t in enumerate(source)), samples)
    path, named = _path_and_column(source)
    column = column or named
    if path.is_dir():
        failed: list[Failure] = []
        chosen = _chosen(path.name, _folder(path, failed), samples, failed)
        return replace(chosen, failed=tuple(failed))
    if path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(
                f"a calibration file ends in {', '.join(_READERS)}: got {path.name}; a folder is "
                "read as documents"
            )
        return _chosen(path.name, _file(reader, path, column), samples)
    if path.suffix.lower() in _READERS or str(source)[0] in "./~":
        raise CalibrationError(f"there is no calibration file or folder {path}")
    return _chosen(str(source), _data_set(str(path), column, samples), samples)


def _path_and_column(source: str | Path) -> tuple[Path, str | None]:
    path = Path(source).expanduser()
    if isinstance(source, str) and not path.exists() and ":" in source:
        name, _, column = source.rpartition(":")
        return Path(name).expanduser(), column
    return path, None


def _chosen(
    name: str, rows: Iterable[Row], samples: int, failed: Sequence[Failure] = ()
) -> CalibrationTexts:
    different: dict[str, None] = {}
    for place, text in rows:
        if not isinstance(text, str):
            raise CalibrationError(
                f"calibration needs text: {place} of {name} is {type(text).__name__}; name a "
                "column of texts"
            )
        if text.strip():
            different[text.strip()] = None
    unread = ""
    if failed:
        first, more = failed[0], len(failed) - 1
        unread = f" (unread: {first.source}: {first.reason}{f', and {more} more' if more else ''})"
    if len(different) < samples:
        raise CalibrationError(
            f"calibration asks for {samples} different texts: found {len(different)} in {name}"
            f"{unread}; give more text, or ask for fewer samples"
        )
    texts = list(different)
    step = len(texts) / samples
    return CalibrationTexts(name, tuple(texts[int(i * step)] for i in range(samples)), len(texts))


def _file(
    reader: Callable[[Path, str | None], Iterator[Row]], path: Path, column: str | None
) -> Iterator[Row]:
    try:
        yield from reader(path, column)
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path} must be UTF-8 text: byte {error.start} is not; is it a file of texts?"
        ) from error


def _lines(path: Path, column: str | None) -> Iterator[Row]:
    if column is not None:
        raise CalibrationError(f"a .txt file has no columns: got {column!r} for {path.name}")
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise CalibrationError(
                    f"{path} is not a text file: line {number} has a NUL character"
                )
            yield f"line {number}", line


def _json_lines(path: Path, column: str | None) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CalibrationError(f"{path}, line {number} is not JSON: {error}") from error
            if isinstance(row, str) and column is None:
                yield f"line {number}", row
                continue
            if not isinstance(row, dict):
                raise CalibrationError(
                    f"{path}, line {number} must be a JSON object with a column of text: got "
                    f"{type(row).__name__}"
                )
            yield f"line {number}", row[_column(list(row), column, path.name)]


def _csv(path: Path, column: str | None) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            chosen = _column(list(rows.fieldnames or []), column, path.name)
            for row in rows:
                yield f"line {rows.line_num}", row[chosen] or ""
        except csv.Error as error:
            raise CalibrationError(f"{path} is not a readable CSV file: {error}") from error


def _parquet(path: Path, column: str | None) -> Iterator[Row]:
    with needs_extra("calibration"):
        import pyarrow
        import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=4 << 20, pre_buffer=False)
        chosen = _column(file.schema_arrow.names, column, path.name)
        at = 0
        for batch in file.iter_batches(columns=[chosen]):
            for text in batch.column(0).to_pylist():
                yield f"row {at}", "" if text is None else text
                at += 1
    except pyarrow.ArrowException as error:
        raise CalibrationError(f"{path} is not a readable Parquet file: {error}") from error


_READERS = {".jsonl": _json_lines, ".txt": _lines, ".csv": _csv, ".parquet": _parquet}


def _folder(path: Path, failed: list[Failure]) -> Iterator[Row]:
    """Yield the sections of a folder's documents; unreadable files are added to `failed`."""
    try:
        for document in folder_documents(path, failed):
            for section in document.sections:
                yield document.source, document.text[section.start : section.end]
    except DocumentError as error:
        raise CalibrationError(f"no calibration text: {error}") from error


def _data_set(name: str, column: str | None, samples: int) -> Iterator[Row]:
    with needs_extra("calibration"):
        import datasets
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True)
        for number, row in enumerate(rows.take(samples * _ROWS_PER_SAMPLE)):
            text = row[_column(list(row), column, name)]
            for one in text if isinstance(text, list) else [text]:
                yield f"row {number}", one
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise CalibrationError(f"cannot read the data set {name}: {error}") from error


def _column(found: Sequence[str], column: str | None, where: str) -> str:
    names = ", ".join(map(str, found)) or "none"
    if column is not None:
        if column not in found:
            raise CalibrationError(f"{where} has no column {column!r}; its columns: {names}")
        return column
    for name in TEXT_COLUMNS:
        if name in found:
            return name
    raise CalibrationError(
        f"{where} has no column {' or '.join(TEXT_COLUMNS)}; name one of its columns: {names}"
    )
