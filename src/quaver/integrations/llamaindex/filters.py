"""Translate LlamaIndex's metadata filters into the store's."""

from __future__ import annotations

from typing import Any

from quaver.errors import InputError, needs_extra
from quaver.integrations.embedded_store import META_FIELD
from quaver.store import And, Compare, Filter, Not, Or

with needs_extra("llamaindex"):
    from llama_index.core.vector_stores.types import (
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
    )

SOURCE_FIELD = "ref_doc_id"
"""The key of a passage's metadata that names the document a node came from."""

_COMPARED = {
    FilterOperator.EQ: "==",
    FilterOperator.NE: "!=",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
    FilterOperator.IN: "in",
    FilterOperator.NIN: "not in",
    FilterOperator.ANY: "in",
    FilterOperator.CONTAINS: "==",
}


def to_filter(filters: MetadataFilters | None) -> Filter | None:
    """Translate filters.

    Args:
        filters: LlamaIndex's filters, nested or not; None for no filter.

    Returns:
        the store's filter, or None.

    Raises:
        InputError: the store does not support a filter; the message names it.
    """
    return None if filters is None else _group(filters)


def of_query(query: VectorStoreQuery) -> Filter | None:
    """Return the filter for a query's filters, node ids and document ids."""
    parts: list[Filter] = []
    if query.filters is not None:
        parts.append(_group(query.filters))
    if query.node_ids:  # an index passes an empty list if it does not select nodes
        parts.append(Compare("id", "in", query.node_ids))
    if query.doc_ids:
        parts.append(of_documents(query.doc_ids))
    return And(*parts) if parts else None


def of_documents(ids: list[str]) -> Filter:
    """Return the filter for the nodes of these documents."""
    return Compare(SOURCE_FIELD, "in", ids)


def _group(filters: MetadataFilters) -> Filter:
    parts = [
        _group(part) if isinstance(part, MetadataFilters) else _comparison(part)
        for part in filters.filters
    ]
    if filters.condition == FilterCondition.OR:
        return Or(*parts) if parts else And()
    # LlamaIndex's NOT: none of the filters matches.
    return Not(Or(*parts)) if filters.condition == FilterCondition.NOT else And(*parts)


def _comparison(filter: MetadataFilter) -> Filter:
    # LlamaIndex's stores keep a node's source document under these names.
    own = filter.key in ("ref_doc_id", "doc_id", "document_id")
    field = SOURCE_FIELD if own else f"{META_FIELD}.{filter.key}"
    value: Any = filter.value
    if filter.operator == FilterOperator.IS_EMPTY:
        return Or(Compare(field, "==", None), Compare(field, "==", ""))
    if filter.operator == FilterOperator.ALL:
        if not isinstance(value, list):
            raise InputError(f"the filter 'all' needs a list: got {value!r} for {filter.key!r}")
        return And(*(Compare(field, "==", one) for one in value))
    if filter.operator not in _COMPARED:
        known = ", ".join(operator.value for operator in FilterOperator if operator in _COMPARED)
        raise InputError(
            f"this store's filters are {known}, all, is_empty: got {filter.operator.value!r} for "
            f"{filter.key!r}; to search for words, use the query modes sparse and hybrid"
        )
    return Compare(field, _COMPARED[filter.operator], value)  # type: ignore[arg-type]
