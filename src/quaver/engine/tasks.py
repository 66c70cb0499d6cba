"""A model that encodes queries with other weights than documents: two engines that are used as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from quaver.engine.engine import Engine
from quaver.models import TokenBatch


class TaskEngine:
    """An engine for documents, and one for queries that is loaded with the first query.

    The prompt decides: a text that begins with the tokens of the query prompt is a query, as a text that begins
    with its prompt does not get it twice. So one batch may have both.

    Attributes:
        spec: the encoder, the same for both.
        precision: as of `Engine`.
        isa: as of `Engine`.
        threads: as of `Engine`.
        nbytes: as of `Engine`; those of the queries' engine count before it is loaded.
    """

    def __init__(
        self, documents: Engine, load_queries: Callable[[], Engine], prompt: Sequence[int]
    ) -> None:
        """Join the engines.

        Args:
            documents: the engine of documents.
            load_queries: makes that of queries; called once at most.
            prompt: the tokens that every query begins with, special tokens included; at least one.
        """
        self.spec = documents.spec
        self.precision = documents.precision
        self.isa = documents.isa
        self.threads = documents.threads
        self.nbytes = 2 * documents.nbytes
        self._documents, self._load = documents, load_queries
        self._loaded: Engine | None = None
        self._loading = threading.Lock()
        self._prompt = np.array(prompt, np.int32)

    @property
    def _queries(self) -> Engine:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def encode(
        self,
        batch: TokenBatch,
        *,
        spans: NDArray[np.int32] | None = None,
        position: Callable[[int], int] | None = None,
    ) -> NDArray[np.float32]:
        """Encode a batch; arguments, result and errors are those of `Engine.encode`."""
        queries = self._are_queries(batch)
        if queries is None or not queries.any():
            return self._documents.encode(batch, spans=spans, position=position)
        if queries.all():
            return self._queries.encode(batch, spans=spans, position=position)
        texts = np.arange(len(batch))
        if spans is not None:
            texts = np.searchsorted(batch.offsets, spans[:, 0], side="right") - 1
        vectors = np.empty((len(texts), self.spec.outputs), np.float32)
        for engine, chosen in ((self._documents, ~queries), (self._queries, queries)):
            rows = np.flatnonzero(chosen)
            part, moved = _part(batch, rows)
            own = chosen[texts]
            parts = None
            if spans is not None:
                parts = spans[own] - moved[texts[own]][:, None]
            vectors[own] = engine.encode(
                part, spans=parts, position=_through(rows.tolist(), position)
            )
        return vectors

    def _are_queries(self, batch: TokenBatch) -> NDArray[np.bool_] | None:
        """Tell which texts begin with the query prompt; None for a batch that an engine will refuse."""
        ids, offsets = batch.ids, batch.offsets
        whole = isinstance(offsets, np.ndarray) and offsets.dtype == np.int32 and offsets.ndim == 1
        whole = whole and isinstance(ids, np.ndarray) and len(offsets) > 1
        if not whole or offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) <= 0).any():
            return None
        length = len(self._prompt)
        found = np.diff(offsets) >= length
        starts = offsets[:-1][found]
        places = starts[:, None] + np.arange(length)
        found[found] = (ids[places] == self._prompt).all(axis=1)
        return found


def _through(rows: Sequence[int], position: Callable[[int], int] | None) -> Callable[[int], int]:
    """Return where the caller has a text, from where one part of the batch has it."""
    return lambda i: rows[i] if position is None else position(rows[i])


def _part(batch: TokenBatch, rows: NDArray[np.intp]) -> tuple[TokenBatch, NDArray[np.int32]]:
    """Return some texts as a batch, and how far the tokens of each text of the whole moved forward."""
    lengths = np.diff(batch.offsets)
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths[rows], out=offsets[1:])
    moved = np.zeros(len(lengths), np.int32)
    moved[rows] = batch.offsets[rows] - offsets[:-1]
    kept = np.zeros(len(lengths), np.bool_)
    kept[rows] = True
    tokens = np.repeat(kept, lengths)
    types, keys, unpooled = batch.type_ids, batch.keys, batch.unpooled
    part = TokenBatch(
        batch.ids[tokens],
        offsets,
        None if types is None else types[tokens],
        0,
        None if keys is None else keys[rows],
        unpooled=None if unpooled is None else unpooled[rows],
    )
    return part, moved
