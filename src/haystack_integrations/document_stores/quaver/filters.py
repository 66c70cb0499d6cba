"""Translate Haystack's filters into the store's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from quaver.errors import needs_extra
from quaver.store import And, Compare, Filter, Not, Or

with needs_extra("haystack"):
    from haystack import Document
    from haystack.errors import FilterError

_GROUPS = {"AND", "OR", "NOT"}
_NAMES = {"id": "id", "content": "text"}
_DOCUMENT_FIELDS = {field.name for field in fields(Document)}


def to_filter(filters: dict[str, Any] | None) -> Filter | None:
    """Translate a filter.

    Args:
        filters: a comparison or a group, as Haystack documents them; None or {} for no filter.

    Returns:
        the store's filter, or None.

    Raises:
        FilterError: the filter is invalid, or the store cannot make this comparison.
    """
    return _part(filters) if filters else None


def _part(filters: Any) -> Filter:
    if not isinstance(filters, Mapping):
        raise FilterError(f"a filter must be a dict: got {type(filters).__name__}")
    return _comparison(filters) if "field" in filters else _group(filters)


def _group(filters: Mapping[str, Any]) -> Filter:
    if "operator" not in filters:
        raise FilterError(f"a filter needs 'operator', and 'field' or 'conditions': got {filters}")
    if "conditions" not in filters:
        raise FilterError(f"a filter without 'field' needs 'conditions': got {filters}")
    operator = filters["operator"]
    if operator not in _GROUPS:
        raise FilterError(f"conditions are joined by AND, OR or NOT: got {operator!r}")
    parts = [_part(part) for part in filters["conditions"]]
    if operator == "OR":
        return Or(*parts)
    return Not(And(*parts)) if operator == "NOT" else And(*parts)


def _comparison(filters: Mapping[str, Any]) -> Filter:
    for name in ("operator", "value"):
        if name not in filters:
            raise FilterError(f"a comparison needs {name!r}: got {dict(filters)}")
    operator, value = filters["operator"], filters["value"]
    if operator in ("in", "not in") and not isinstance(value, list):
        raise FilterError(f"{operator!r} needs a list of values: got {type(value).__name__}")
    if operator in ("<", "<=", ">", ">=") and value is None:
        return Or()  # nothing is greater or less than None
    return Compare(_field(filters["field"]), operator, value)


def _field(name: str) -> str:
    if name.startswith("meta."):
        return name
    if name not in _DOCUMENT_FIELDS:
        return f"meta.{name}"
    if name not in _NAMES:
        raise FilterError(f"a filter can name id, content and meta fields: got {name!r}")
    return _NAMES[name]
