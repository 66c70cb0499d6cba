"""What Haystack asks about the meta fields of stored documents."""

from __future__ import annotations

import asyncio
import json
from typing import Any

_TYPES = {bool: "boolean", int: "int", float: "float"}


class MetadataQueries:
    """Questions about meta fields, each answered by reading the meta of documents that match."""

    def _metas(self, filters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        raise NotImplementedError

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """Return how many documents match."""
        raise NotImplementedError

    def count_unique_metadata_by_filter(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """Return how many different values each field has in the documents that match.

        Args:
            filters: Haystack's filters.
            metadata_fields: names, with or without "meta.".

        Returns:
            The counts by name, without "meta.".
        """
        found = self._metas(filters)
        names = [name.removeprefix("meta.") for name in metadata_fields]
        return {name: len(_unique(found, name)) for name in names}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Return the type of each field: keyword, int, float or boolean."""
        return {
            name: {"type": _TYPES.get(type(value), "keyword")}
            for meta in self._metas()
            for name, value in meta.items()
            if value is not None
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Return the least and the largest value of a field as "min" and "max"; None without any.

        Args:
            metadata_field: the name, with or without "meta.".
        """
        values = [
            value
            for value in _unique(self._metas(), metadata_field.removeprefix("meta.")).values()
            if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        ]
        if not values or len({isinstance(value, str) for value in values}) > 1:
            return {"min": None, "max": None}
        return {"min": min(values), "max": max(values)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """Return a page of a field's different values, and how many there are.

        Args:
            metadata_field: the name, with or without "meta.".
            search_term: only values that contain this, whatever the case.
            from_: how many to leave out.
            size: how many to return at most.
            filters: only documents that match.
        """
        name = metadata_field.removeprefix("meta.")
        values = list(_unique(self._metas(filters), name).values())
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return values[from_ : from_ + size], len(values)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """Do what ``count_documents_by_filter`` does in a thread."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """Do what ``count_unique_metadata_by_filter`` does in a thread."""
        return await asyncio.to_thread(
            self.count_unique_metadata_by_filter, filters, metadata_fields
        )

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """Do what ``get_metadata_fields_info`` does in a thread."""
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """Do what ``get_metadata_field_min_max`` does in a thread."""
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """Do what ``get_metadata_field_unique_values`` does in a thread."""
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values,
            metadata_field,
            search_term,
            from_,
            size,
            filters,
        )


def _unique(metas: list[dict[str, Any]], name: str) -> dict[tuple[str, str], Any]:
    """Return the different values of a field; 1, 1.0, "1" and True are four."""
    values = (meta.get(name) for meta in metas)
    return {
        (type(value).__name__, json.dumps(value, sort_keys=True)): value
        for value in values
        if value is not None
    }
