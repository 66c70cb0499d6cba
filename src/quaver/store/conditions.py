"""Filters as people write them: conditions such as `page>=3`, and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from quaver.errors import InputError
from quaver.store.filters import And, Compare, Filter, Not, Operator, Or, plan
from quaver.store.protocol import VectorStore

_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(==|=|!=|<=|>=|<|>)\s*(.*?)\s*", re.DOTALL)
_COMPARISON = {"field", "operator", "value"}
_DEEPEST = 20


def read_conditions(conditions: Sequence[str] | None, *, name: str = "--filter") -> Filter | None:
    """Read conditions such as `page>=3`.

    Args:
        conditions: each a field, one of = != < <= > >=, and a value. A value that JSON reads as a
            number, true, false, null or a quoted string is that value; any other is text.
        name: what the conditions are called, for messages.

    Returns:
        a filter that matches where all conditions do, which `plan` accepts; None if there are none.

    Raises:
        InputError: a condition cannot be read, or compares what has no order.
    """
    if not conditions:
        return None
    found = And(*(_condition(each, name) for each in conditions))
    plan(found)
    return found


def read_filter(value: Any) -> Filter | None:
    """Read a filter from JSON.

    Args:
        value: a condition or a list of conditions, as of `read_conditions`; an object of fields that
            equal their values; or `{"field": "page", "operator": ">=", "value": 3}`, `{"and": [...]}`,
            `{"or": [...]}` and `{"not": {...}}`. None is no filter.

    Returns:
        the filter, which `plan` accepts; None without conditions.

    Raises:
        InputError: it has another form, or a part of it is invalid.
    """
    if value is None or value in ("", [], {}):
        return None
    found = _filter(value, _DEEPEST)
    plan(found)
    return found


def unknown_fields(wanted: Filter | None, store: VectorStore) -> list[str]:
    """Return the fields of a filter that no passage has, which are probably misspelled.

    Args:
        wanted: a filter.
        store: the store.

    Returns:
        their names, each once.
    """
    return [field for field in dict.fromkeys(_fields(wanted)) if not _has(store, field)]


def _has(store: VectorStore, field: str) -> bool:
    return store.count(Compare(field, "!=", None)) > 0


def _fields(wanted: Filter | None) -> list[str]:
    if isinstance(wanted, (And, Or)):
        return [field for part in wanted.filters for field in _fields(part)]
    if isinstance(wanted, Not):
        return _fields(wanted.filter)
    if isinstance(wanted, Compare):
        return [wanted.field]
    return list(wanted or ())


def _condition(condition: str, name: str) -> Compare:
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise InputError(
            f"{name} must be a field, one of = != < <= > >=, and a value: got {condition!r}"
        )
    field, sign, text = found.groups()
    operator: Operator = "==" if sign == "=" else sign  # type: ignore[assignment]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return Compare(field, operator, text if isinstance(value, (list, dict)) else value)


def _filter(value: Any, depth: int) -> Filter:
    if depth == 0:
        raise InputError(f"a filter may be nested {_DEEPEST} deep: got one that is deeper")
    if isinstance(value, str):
        return _condition(value, "a condition")
    if isinstance(value, Sequence):
        return And(*(_filter(part, depth - 1) for part in value))
    if not isinstance(value, Mapping):
        raise InputError(
            'a filter must be a condition such as "page>=3", a list of them, or an object: '
            f"got {value!r:.40}"
        )
    if set(value) == _COMPARISON:
        return Compare(value["field"], value["operator"], value["value"])
    if len(value) == 1:
        ((word, inner),) = value.items()
        if word in ("and", "or") and isinstance(inner, Sequence) and not isinstance(inner, str):
            parts = [_filter(part, depth - 1) for part in inner]
            return And(*parts) if word == "and" else Or(*parts)
        if word == "not" and isinstance(inner, Mapping):
            return Not(_filter(inner, depth - 1))
    return dict(value)
