"""Translate the filters of LangChain's stores into the store's.

{"year": 2020, "author": {"$in": ["Ada", "Alan"]}}
{"$or": [{"year": {"$gte": 2020}}, {"$not": {"draft": True}}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quaver.errors import InputError
from quaver.integrations.embedded_store import META_FIELD
from quaver.store import And, Compare, Filter, Not, Or

_OPERATORS = {
    "$eq": "==",
    "$ne": "!=",
    "$gt": ">",
    "$gte": ">=",
    "$lt": "<",
    "$lte": "<=",
    "$in": "in",
    "$nin": "not in",
}


def to_filter(filter: Mapping[str, Any] | None) -> Filter | None:
    """Translate a filter.

    Args:
        filter: metadata fields, each with a value or with operators; `$and`, `$or` and `$not`
            join filters. Dots name nested fields. None for no filter.

    Returns:
        the store's filter, or None.

    Raises:
        InputError: the filter is invalid; the message names the part.
    """
    return None if filter is None else _part(filter)


def _part(filter: Any) -> Filter:
    if not isinstance(filter, Mapping):
        raise InputError(
            "a filter must be a dict of metadata fields like {'year': {'$gte': 2020}}: got "
            f"{type(filter).__name__}"
        )
    return And(*(_condition(name, value) for name, value in filter.items()))


def _condition(name: Any, value: Any) -> Filter:
    if name == "$not":
        return Not(_part(value))
    if name in ("$and", "$or"):
        if not isinstance(value, list):
            raise InputError(f"a filter's {name} needs a list: got {type(value).__name__}")
        parts = [_part(part) for part in value]
        return And(*parts) if name == "$and" else Or(*parts)
    if not isinstance(name, str) or name.startswith("$"):
        raise InputError(f"a filter joins by $and, $or or $not, or names a field: got {name!r}")
    if isinstance(value, Mapping):
        return And(*(_comparison(name, operator, one) for operator, one in value.items()))
    return Compare(f"{META_FIELD}.{name}", "==", value)


def _comparison(name: str, operator: Any, value: Any) -> Filter:
    if operator == "$exists":
        missing = Compare(f"{META_FIELD}.{name}", "==", None)
        return Not(missing) if value else missing
    if operator not in _OPERATORS:
        known = ", ".join([*_OPERATORS, "$exists"])
        raise InputError(f"a filter's operators are {known}: got {operator!r} for {name!r}")
    return Compare(f"{META_FIELD}.{name}", _OPERATORS[operator], value)  # type: ignore[arg-type]
