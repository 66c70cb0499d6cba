"""JSON and JSON Lines as text: one section for each record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from quaver.documents.passage import Document, Section
from quaver.errors import DocumentError

_TITLES = ("title", "name", "subject", "heading")
_TEXTS = ("text", "content", "contents", "body")
_LONGEST_VALUE = 200
"""Characters. Longer values are text, not metadata."""
_LARGEST_NESTED = 2000
"""Characters of an object or list as JSON. Limited because every passage carries all fields."""
_DEEPEST = 8
"""Levels of nesting that are kept."""


def json_document(text: str) -> Document:
    """Read one JSON value; a list of objects is a list of records, and so is each line of .jsonl.

    Args:
        text: the decoded file.

    Returns:
        the document. If a record has a field text (or content, body), this field is its text, and
        its other fields are metadata, including small objects and lists. Any other record is
        written as lines of `key: value`. Its title (or name, subject) is its heading.

    Raises:
        DocumentError: it is not JSON.
    """
    value = _parse(text, "")
    records = value if isinstance(value, list) and _all_objects(value) else [value]
    return _document(records)


def json_lines_document(text: str) -> Document:
    """Read one JSON value from each line; like `json_document`."""
    return _document(
        _parse(line, f" in line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    )


def _document(records: Iterable[Any]) -> Document:
    parts: list[str] = []
    sections: list[Section] = []
    length = 0
    for number, record in enumerate(records, start=1):
        heading, body, metadata = _read(record)
        if not body.strip():
            continue
        parts += [body, "\n\n"]
        headings = (heading,) if heading else ()
        sections.append(
            Section(headings, length, length + len(body), metadata | {"record": number})
        )
        length += len(body) + 2
    return Document("", "".join(parts), tuple(sections))


def _read(record: Any) -> tuple[str, str, dict[str, Any]]:
    """Return heading, text and metadata of a record."""
    if not isinstance(record, dict):
        return "", "\n".join(_lines(record, "")), {}
    title = next((key for key in _TITLES if _is_text(record.get(key))), None)
    heading = "" if title is None else " ".join(record[title].split())
    main = [key for key in _TEXTS if _is_text(record.get(key))]
    rest = {key: value for key, value in record.items() if key not in (title, *main[:1])}
    metadata = {key: value for key, value in rest.items() if _is_plain(value)}
    if main:
        nested = {key: _small(value) for key, value in rest.items() if key not in metadata}
        metadata |= {key: value for key, value in nested.items() if value is not None}
        return heading, record[main[0]], metadata
    return heading, "\n".join(_lines(rest, "")) or heading, metadata


def _lines(value: Any, path: str) -> Iterator[str]:
    """Yield the values of a record, each with its path of keys."""
    waiting = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            inner = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
            waiting.extend(reversed(inner))
        elif isinstance(value, list):
            waiting.extend((path, item) for item in reversed(value))
        elif value is not None and value != "":
            shown = value if isinstance(value, str) else json.dumps(value)
            yield f"{path}: {shown}" if path else shown


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_plain(value: Any) -> bool:
    """Return whether a value can be filtered on: a number, a boolean or a short text."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_VALUE
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < 1 << 63


def _small(value: Any) -> Any:
    """Return the part of an object or list that filters can use; None if it is empty or too large."""
    kept = _reachable(value, _DEEPEST)
    return None if kept is None or len(json.dumps(kept)) > _LARGEST_NESTED else kept


def _reachable(value: Any, levels: int) -> Any:
    if isinstance(value, dict) and levels:
        inner = {key: _reachable(item, levels - 1) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item is not None} or None
    if isinstance(value, list) and levels:
        items = [_reachable(item, levels - 1) for item in value]
        return [item for item in items if item is not None] or None
    return value if _is_plain(value) else None


def _all_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _parse(text: str, where: str) -> Any:
    try:
        # NaN and Infinity are not JSON, but some programs write them for missing values.
        return json.loads(text, parse_constant=lambda constant: None)
    except RecursionError as error:
        raise DocumentError(f"broken: nested too deeply{where}") from error
    except ValueError as error:
        raise DocumentError(f"broken: not JSON{where}: {error}") from error
