"""Translate a checked filter to Qdrant's form, for Qdrant's client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quaver.store.filters import Equal, Every, Filter, Missing, Negated, Plan, Some, plan

_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


@dataclass(frozen=True)
class Conditions:
    """How one of the two libraries builds conditions.

    Attributes:
        filter: takes must, should and must_not, lists of conditions.
        any_of: a key's value is one of these strings.
        flag: a key's value is this boolean.
        numbers: a key's value is within lt, lte, gt, gte, numbers.
        dates: a key's value is within lt, lte, gt, gte, ISO 8601 dates.
        empty: a key is missing, null or an empty list.
        null: a key is null, or a list with a null.
    """

    filter: Callable[..., Any]
    any_of: Callable[[str, list[str]], Any]
    flag: Callable[[str, bool], Any]
    numbers: Callable[[str, dict[str, float]], Any]
    dates: Callable[[str, dict[str, str]], Any]
    empty: Callable[[str], Any]
    null: Callable[[str], Any]


def translated_filter(filter: Filter | None, build: Conditions) -> Any:
    """Translate a filter.

    Args:
        filter: the filter, or None.
        build: the library's conditions.

    Returns:
        the library's filter; None stays None.

    Raises:
        InputError: the filter breaks the rules.
    """
    return None if filter is None else _translated(plan(filter), build)


def _translated(part: Plan, build: Conditions) -> Any:
    if isinstance(part, Every):
        return build.filter(must=[_translated(one, build) for one in part.parts])
    if isinstance(part, Some):
        if not part.parts:
            return build.filter(must_not=[build.filter(must=[])])
        return build.filter(should=[_translated(one, build) for one in part.parts])
    if isinstance(part, Negated):
        return build.filter(must_not=[_translated(part.part, build)])
    if isinstance(part, Missing):
        # For Qdrant a list of nulls is null, not empty.
        return build.filter(should=[build.empty(part.key), build.null(part.key)])
    if isinstance(part, Equal):
        return build.filter(should=_equal(part, build))
    bound = _BOUNDS[part.operator]
    if isinstance(part.limit, datetime):
        return build.filter(must=[build.dates(part.key, {bound: part.limit.isoformat()})])
    return build.filter(must=[build.numbers(part.key, {bound: part.limit})])


def _equal(part: Equal, build: Conditions) -> list[Any]:
    """Return conditions of which one must hold."""
    texts = [value for value in part.values if isinstance(value, str)]
    conditions = [build.any_of(part.key, texts)] if texts else []
    for value in part.values:
        if isinstance(value, bool):
            conditions.append(build.flag(part.key, value))
        elif not isinstance(value, str):
            # A range, because a match distinguishes 1 and 1.0.
            conditions.append(build.numbers(part.key, {"gte": float(value), "lte": float(value)}))
    return conditions
