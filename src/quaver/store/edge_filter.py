"""A checked filter in Qdrant Edge's own form."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import qdrant_edge as edge

from quaver.store.filters import Equal, Every, Filter, Missing, Negated, Plan, Some, plan

_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def edge_filter(filter: Filter | None) -> edge.Filter | None:
    """Translates a filter.

    Args:
        filter: The filter, or None.

    Returns:
        The same condition for Qdrant Edge; None stays None.

    Raises:
        InputError: The filter breaks the rules.
    """
    return None if filter is None else _translated(plan(filter))


def _translated(part: Plan) -> edge.Filter:
    if isinstance(part, Every):
        return edge.Filter(must=[_translated(one) for one in part.parts])
    if isinstance(part, Some):
        if not part.parts:
            return edge.Filter(must_not=[edge.Filter()])
        return edge.Filter(should=[_translated(one) for one in part.parts])
    if isinstance(part, Negated):
        return edge.Filter(must_not=[_translated(part.part)])
    if isinstance(part, Missing):
        # To Qdrant a list of nulls is not empty, but null.
        empty, null = edge.IsEmptyCondition(key=part.key), edge.IsNullCondition(key=part.key)
        return edge.Filter(should=[empty, null])
    if isinstance(part, Equal):
        return edge.Filter(should=_equal(part))
    bound: dict[str, Any] = {_BOUNDS[part.operator]: part.limit}
    if isinstance(part.limit, datetime):
        bound = {_BOUNDS[part.operator]: part.limit.isoformat()}
        return edge.Filter(
            must=[edge.FieldCondition(key=part.key, range=edge.RangeDateTime(**bound))]
        )
    return edge.Filter(must=[edge.FieldCondition(key=part.key, range=edge.RangeFloat(**bound))])


def _equal(part: Equal) -> list[Any]:
    """Returns conditions of which one must hold."""
    texts = [value for value in part.values if isinstance(value, str)]
    conditions: list[Any] = []
    if texts:
        conditions.append(edge.FieldCondition(key=part.key, match=edge.MatchAny(texts)))
    for value in part.values:
        if isinstance(value, bool):
            # Of a plain bool qdrant-edge-py 0.9 makes the number 1 or 0.
            flag: Any = np.bool_(value)
            match = edge.MatchValue(flag)
            conditions.append(edge.FieldCondition(key=part.key, match=match))
        elif not isinstance(value, str):
            # A range, because a match tells 1 from 1.0.
            exactly = edge.RangeFloat(gte=float(value), lte=float(value))
            conditions.append(edge.FieldCondition(key=part.key, range=exactly))
    return conditions
