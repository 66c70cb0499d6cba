"""A cache of one field's values in all passages, so that filters need not read the passages again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.store.filters import METADATA, Equal, Missing, Within
from quaver.store.matching import matches

MAX_VALUES = 1 << 16
"""Maximum number of different values that are cached; a field with more is read for each filter."""

_NONE = object()


class Field:
    """The values of a passage's field, or of a first-level key of its metadata."""

    def __init__(self, key: str) -> None:
        """Start without values.

        Args:
            key: a payload key, as in a filter's plan.
        """
        parts = key.split(".")
        self._in_metadata = parts[0] == METADATA
        self._name = parts[1 if self._in_metadata else 0].removesuffix("[]")
        self._codes = np.empty(0, np.uint32)
        self._values: list[Any] = [_NONE]
        self._code_of: dict[Any, int] = {}
        self.rows = 0

    @staticmethod
    def name_of(key: str) -> str:
        """Return the field name that different forms of a key share."""
        parts = key.split(".")
        return ".".join(parts[:2] if parts[0] == METADATA else parts[:1]).removesuffix("[]")

    @property
    def is_full(self) -> bool:
        """Whether there are too many different values to cache."""
        return len(self._values) > MAX_VALUES

    def extend(self, payloads: Iterable[Mapping[str, Any] | None], count: int) -> None:
        """Add the values of further rows.

        Args:
            payloads: the payload of each row; None for a removed one.
            count: the number of rows.
        """
        codes = np.fromiter((self._code(payload) for payload in payloads), np.uint32, count)
        self._codes = np.concatenate([self._codes, codes])
        self.rows += count

    def _code(self, payload: Mapping[str, Any] | None) -> int:
        if payload is None or self.is_full:
            return 0
        fields = payload.get(METADATA, {}) if self._in_metadata else payload
        value = fields.get(self._name, _NONE)
        if value is _NONE:
            return 0
        key = json.dumps(value) if isinstance(value, (list, dict)) else (type(value), value)
        code = self._code_of.get(key)
        if code is None:
            code = self._code_of[key] = len(self._values)
            self._values.append(value)
        return code

    def mask(self, leaf: Equal | Missing | Within) -> NDArray[np.bool_]:
        """Return the mask of rows whose value matches, bool (rows,)."""
        fits = np.array([matches(self._payload(value), leaf) for value in self._values], np.bool_)
        found: NDArray[np.bool_] = fits[self._codes]
        return found

    def _payload(self, value: Any) -> Mapping[str, Any]:
        fields = {} if value is _NONE else {self._name: value}
        return {METADATA: fields} if self._in_metadata else fields
