"""Whether a payload matches a filter: the rules of `filters` in plain Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from quaver.store.filters import Equal, Every, Missing, Negated, Plan, Some, Within, moment

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(payload: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether a payload matches a filter.

    Args:
        payload: a passage's fields, its metadata below "metadata".
        plan: the checked filter.

    Returns:
        whether it matches.
    """
    if isinstance(plan, Every):
        return all(matches(payload, part) for part in plan.parts)
    if isinstance(plan, Some):
        return any(matches(payload, part) for part in plan.parts)
    if isinstance(plan, Negated):
        return not matches(payload, plan.part)
    values = list(_values(payload, plan.key.split(".")))
    if isinstance(plan, Missing):
        return not values or any(value is None for value in values)
    if isinstance(plan, Equal):
        return any(_equal(value, wanted) for value in values for wanted in plan.values)
    return any(_within(value, plan) for value in values)


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    """Yield the values at a path: every item of a list, and for `name[]` the values in its items."""
    if not path:
        yield from value if isinstance(value, (list, tuple)) else [value]
        return
    name, rest = path[0].removesuffix("[]"), path[1:]
    if isinstance(value, Mapping) and name in value:
        inner = value[name]
        if name == path[0]:
            yield from _values(inner, rest)
        elif isinstance(inner, (list, tuple)):
            for item in inner:
                yield from _values(item, rest)


def _equal(value: Any, wanted: str | int | float | bool) -> bool:
    # In JSON, True does not equal 1.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _within(value: Any, plan: Within) -> bool:
    if isinstance(plan.limit, datetime):
        value = moment(value) if isinstance(value, str) else None
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        value = None
    return value is not None and _COMPARISONS[plan.operator](value, plan.limit)
