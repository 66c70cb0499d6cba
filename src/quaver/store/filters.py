"""Filters: conditions on passages for searching, counting and deleting.

    Compare("year", ">=", 2020)
    And(Compare("source", "in", ["a.md", "b.md"]), Not(Compare("draft", "==", True)))
    {"root": "handbook", "author.name": "Ada"}         a mapping: every field equals its value

A field is one of a passage's own (`id`, `text`, `source`, `heading`, `root`, `start`,
`end`) or a key of its metadata; dots reach nested objects, `authors[].name` those in a
list. `metadata.source` is the metadata key if a passage has a field of the same name.

The rules, the same in every store:

- `==` and `!=` compare strings, numbers (1 equals 1.0), booleans and None. None stands for a
  field that is missing, null, an empty list or a list with a null.
- `<`, `<=`, `>`, `>=` compare numbers with numbers, and ISO 8601 dates with dates; a value
  without a time zone is UTC.
- A field that holds a list matches when one of its items does.
- A field that is missing matches `!=` and `not in` and nothing else; `!=` is the complement
  of `==`, `not in` that of `in`, and `Not` that of its filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias, cast, get_args

from quaver.errors import InputError

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
Scalar: TypeAlias = "str | int | float | bool | None"
PASSAGE_FIELDS = ("id", "text", "source", "heading", "root", "start", "end")
METADATA = "metadata"
_OPERATORS = get_args(Operator)


@dataclass(frozen=True)
class Compare:
    """A field compared with a value.

    Attributes:
        field: a passage's field, or a metadata key; dots reach nested objects.
        operator: one of == != < <= > >= in, not in.
        value: a string, number, boolean or None; a list of them for "in" and "not in".
    """

    field: str
    operator: Operator
    value: Scalar | Sequence[Scalar]


@dataclass(frozen=True)
class And:
    """Every filter matches. Without filters, every passage matches."""

    filters: tuple[Filter, ...]

    def __init__(self, *filters: Filter) -> None:
        """Combine filters.

        Args:
            *filters: the filters.
        """
        object.__setattr__(self, "filters", filters)


@dataclass(frozen=True)
class Or:
    """At least one filter matches. Without filters, no passage matches."""

    filters: tuple[Filter, ...]

    def __init__(self, *filters: Filter) -> None:
        """Combine filters.

        Args:
            *filters: the filters.
        """
        object.__setattr__(self, "filters", filters)


@dataclass(frozen=True)
class Not:
    """The filter does not match."""

    filter: Filter


Filter: TypeAlias = "Compare | And | Or | Not | Mapping[str, Scalar]"


# --- What a store translates ----------------------------------------------------------------------
@dataclass(frozen=True)
class Equal:
    """The field's value, or one item of its list, is one of these.

    Attributes:
        key: the payload key.
        values: strings, numbers and booleans; not empty.
    """

    key: str
    values: tuple[str | int | float | bool, ...]


@dataclass(frozen=True)
class Missing:
    """The field is missing, null, an empty list or a list with a null."""

    key: str


@dataclass(frozen=True)
class Within:
    """The field's number or date is within a limit.

    Attributes:
        key: the payload key.
        operator: the comparison with the limit: < <= > >=.
        limit: the limit; a datetime has a time zone.
    """

    key: str
    operator: Literal["<", "<=", ">", ">="]
    limit: float | datetime


@dataclass(frozen=True)
class Every:
    """All of these match."""

    parts: tuple[Plan, ...]


@dataclass(frozen=True)
class Some:
    """At least one of these matches."""

    parts: tuple[Plan, ...]


@dataclass(frozen=True)
class Negated:
    """A part that must not match."""

    part: Plan


Plan: TypeAlias = "Equal | Missing | Within | Every | Some | Negated"


def plan(filter: Filter) -> Plan:
    """Check a filter and reduce it to the few forms that a store translates.

    Args:
        filter: the filter.

    Returns:
        the same condition over payload keys.

    Raises:
        InputError: it is not a filter, or a part of it is invalid; the message names the part.
    """
    if isinstance(filter, Compare):
        return _plan_comparison(filter)
    if isinstance(filter, And):
        return Every(tuple(plan(part) for part in filter.filters))
    if isinstance(filter, Or):
        return Some(tuple(plan(part) for part in filter.filters))
    if isinstance(filter, Not):
        return Negated(plan(filter.filter))
    if isinstance(filter, Mapping):
        return Every(tuple(plan(Compare(key, "==", value)) for key, value in filter.items()))
    raise InputError(
        "a filter must be a Compare, And, Or, Not, or a mapping of fields to values: "
        f"got {type(filter).__name__}"
    )


def payload_key(field: str) -> str:
    """Return the payload key of a field.

    Args:
        field: a field as a filter names it.

    Returns:
        a passage's own field unchanged, anything else below `metadata.`.

    Raises:
        InputError: the name is invalid.
    """
    if not isinstance(field, str) or not all(field.split(".")):
        raise InputError(f"a filter's field must be a name like 'author.name': got {field!r}")
    if field in PASSAGE_FIELDS or field.startswith(f"{METADATA}."):
        return field
    return f"{METADATA}.{field}"


def _plan_comparison(comparison: Compare) -> Plan:
    key, operator, value = payload_key(comparison.field), comparison.operator, comparison.value
    if operator in ("in", "not in"):
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise InputError(f"{_said(comparison)}: {operator!r} needs a list of values")
        found: Plan = _one_of(key, value, comparison)
        return Negated(found) if operator == "not in" else found
    if operator in ("==", "!="):
        found = _one_of(key, [cast(Scalar, value)], comparison)
        return Negated(found) if operator == "!=" else found
    if operator in ("<", "<=", ">", ">="):
        limit = moment(value) if isinstance(value, str) else value
        if isinstance(limit, bool) or not isinstance(limit, (int, float, datetime)):
            raise InputError(
                f"{_said(comparison)}: {operator!r} compares with a number or an ISO 8601 date"
            )
        return Within(key, cast(Any, operator), limit)
    raise InputError(f"a filter's operator must be one of {' '.join(_OPERATORS)}: got {operator!r}")


def _one_of(key: str, values: Sequence[Scalar], comparison: Compare) -> Plan:
    for value in values:
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise InputError(
                f"{_said(comparison)}: values are strings, numbers, booleans or None, "
                f"not {type(value).__name__}"
            )
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise InputError(f"{_said(comparison)}: a number must be finite")
    given = tuple(value for value in values if value is not None)
    parts: tuple[Plan, ...] = (Equal(key, given),) if given else ()
    if len(given) < len(values):
        parts += (Missing(key),)
    return parts[0] if len(parts) == 1 else Some(parts)


def moment(text: str) -> datetime | None:
    """Read an ISO 8601 date or time.

    Args:
        text: a string.

    Returns:
        the time with its time zone, UTC if it has none; None if it is not a date.
    """
    try:
        # Python 3.10 does not parse the Z.
        found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def _said(comparison: Compare) -> str:
    return f"filter {comparison.field} {comparison.operator} {comparison.value!r}"
