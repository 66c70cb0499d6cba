"""The store behind the frameworks' store classes: texts, metadata and vectors by id."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage
from quaver.errors import InputError, StoreMismatchError
from quaver.index import TokenEncoders, add_models
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.store import (
    RANKINGS,
    Filter,
    FolderStore,
    Hit,
    Manifest,
    MemoryStore,
    Mode,
    StoredPassage,
    TokenKind,
    VectorStore,
    maxsim,
    to_payload,
)

FOREIGN_VECTORS = "vectors given by a framework"
"""The manifest's model name: frameworks pass vectors, so only the dimension is known."""

META_FIELD = "meta"
"""Key of a framework's metadata in a passage's, so one framework can open what another wrote."""

_KINDS: dict[TokenKind, tuple[str, type[Any]]] = {
    "sparse": ("sparse vectors", SparseEncoder),
    "multi": ("vectors of tokens", MultiVectorEncoder),
}

Found = TypeVar("Found")
_changed = threading.Condition()
_open: weakref.WeakValueDictionary[str, EmbeddedStore] = weakref.WeakValueDictionary()
_held: set[str] = set()
"""Folders this process has open, including those that are being closed."""


class EmbeddedStore:
    """An open store that the components of a process share; `embedded_store` returns it.

    Threads can share it: calls run one at a time. It closes when nothing references it.

    Attributes:
        dimension: dimension of the vectors.
    """

    def __init__(self, store: VectorStore, location: str | Path) -> None:
        """Wrap an open store; use `embedded_store` instead.

        Args:
            store: the store.
            location: where it is, for messages.
        """
        self._store = store
        self._lock = threading.Lock()
        self._encoders = TokenEncoders(location, lambda: store.manifest)
        self.dimension = store.manifest.dimension

    def add_models(
        self, *, sparse: SparseEncoder | None = None, multi: MultiVectorEncoder | None = None
    ) -> None:
        """Store sparse or token vectors from now on, also of the passages that are stored already.

        The store records the models, and loads them by itself when it is opened again.

        Args:
            sparse: the model of the sparse vectors; None changes nothing.
            multi: the model of the token vectors; None changes nothing.

        Raises:
            InputError: a model is of another class.
            StoreMismatchError: the store has vectors of another model.
        """
        if sparse is not None or multi is not None:
            with self._lock:
                add_models(self._store, self._encoders, sparse=sparse, multi=multi)

    def require_dimension(self, dimension: int) -> None:
        """Check the dimension of a vector.

        Raises:
            StoreMismatchError: the store holds vectors of another dimension.
        """
        if dimension != self.dimension:
            raise StoreMismatchError(
                f"this store holds vectors of dimension {self.dimension}: got one of {dimension}; "
                "use the model it was made with, or another store"
            )

    def write(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[dict[str, Any]],
        vectors: Sequence[Sequence[float] | None],
    ) -> None:
        """Store texts with their vectors, replacing what is stored under the same ids.

        Args:
            ids: N ids; if an id is repeated, its last text is stored.
            texts: N texts, indexed for keyword search.
            metadata: N dicts of JSON values, available to filters.
            vectors: N vectors of D floats; None for a text without a vector.

        Raises:
            InputError: a vector is not finite, or metadata is not valid JSON.
            StoreMismatchError: a vector has the wrong dimension.
            StoreError: writing failed.
        """
        rows: dict[bool, dict[str, tuple[Passage, Sequence[float] | None]]] = {True: {}, False: {}}
        for identity, text, data, vector in zip(ids, texts, metadata, vectors, strict=True):
            if vector is not None:
                self.require_dimension(len(vector))
            passage = Passage(identity, text, "", "", 0, len(text), metadata=data)
            rows[vector is None].pop(identity, None)
            rows[vector is not None].pop(identity, None)
            rows[vector is not None][identity] = passage, vector
        if all(rows.values()):  # there are two writes: check the second before the first is made
            for passage, _ in rows[False].values():
                to_payload(passage, None)
        with self._lock:
            for with_vector, found in rows.items():
                if found:
                    matrix = _unit([v for _, v in found.values()]) if with_vector else None
                    passages = [passage for passage, _ in found.values()]
                    tokens = self._encoders.passages(passages)
                    self._store.upsert(passages, matrix, tokens=tokens)
            self._store.flush()

    def search(
        self,
        vector: Sequence[float] | None,
        *,
        k: int,
        text: str | None = None,
        mode: Mode | None = None,
        filter: Filter | None = None,
        maxsim: bool = False,
    ) -> list[Hit]:
        """Find the k best passages; see `VectorStore.search`.

        The store's own models encode the text for the modes with "sparse" and for `maxsim`, which reranks
        by the vectors of tokens.

        Raises:
            InputError: an argument is invalid.
            StoreMismatchError: the vector has the wrong dimension, or the store has no vectors for the
                mode or for `maxsim`.
        """
        by_words = mode is not None and "sparse" in RANKINGS.get(mode, ())
        query = None if vector is None else np.asarray(vector, np.float32)
        if query is not None:
            self.require_dimension(len(query))
            if not query.any():
                raise InputError("a query vector must not be all zeros: it has no direction")
        sparse = self._encoders.sparse_query(self._asked("sparse", text)) if by_words else None
        multi = self._encoders.multi_query(self._asked("multi", text)) if maxsim else None
        return self._locked(
            lambda: self._store.search(
                query, k=k, text=text, mode=mode, filter=filter, sparse=sparse, multi=multi
            )
        )

    @property
    def has_sparse(self) -> bool:
        """Whether sparse vectors are stored."""
        return self._store.manifest.sparse is not None

    def maxsim(self, text: str | None, ids: Sequence[str]) -> dict[str, float]:
        """Score passages by the vectors of their tokens.

        Args:
            text: the question.
            ids: the passages.

        Returns:
            scores by id; without passages that have no vectors of tokens.

        Raises:
            InputError: there is no question.
            StoreMismatchError: the store has no vectors of tokens.
        """
        query = self._encoders.multi_query(self._asked("multi", text))
        held = self._locked(lambda: self._store.tokens(ids))
        found = {i: one.multi for i, one in held.items() if one.multi is not None}
        return dict(zip(found, maxsim(query, list(found.values())), strict=True))

    def _asked(self, kind: TokenKind, text: str | None) -> str:
        """Return the question, for which a model of the store is needed."""
        if getattr(self._store.manifest, kind) is None:
            called, opens = _KINDS[kind]
            raise StoreMismatchError(
                f"this store has no {called}: give it the model that makes them, "
                f"{kind}={opens.__name__}.from_pretrained(...)"
            )
        if text is None:
            raise InputError(f"{_KINDS[kind][0]} need the question as text: got none")
        return text

    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPassage]:
        """Return the stored passages with these ids, in their order.

        Raises:
            InputError: ids is a str.
        """
        _require_list(ids)
        return self._locked(lambda: self._store.get(ids, with_vectors=with_vectors))

    def scan(
        self, filter: Filter | None = None, *, with_vectors: bool = False
    ) -> list[StoredPassage]:
        """Return every matching passage."""
        return self._locked(lambda: list(self._store.scan(filter, with_vectors=with_vectors)))

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the unit vectors stored under these ids."""
        return self._locked(lambda: self._store.vectors(ids))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove the passages with these ids; unknown ids are ignored.

        Raises:
            InputError: ids is a str.
        """
        _require_list(ids)
        with self._lock:
            self._store.delete(ids)
            self._store.flush()

    def delete_matching(self, filter: Filter) -> int:
        """Remove every matching passage and return their number."""
        with self._lock:
            found = self._store.delete_matching(filter)
            self._store.flush()
        return found

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of stored passages that match."""
        return self._locked(lambda: self._store.count(filter))

    def optimize(self) -> None:
        """Build the search graph if the store is large enough; useful after a bulk load."""
        self._locked(self._store.optimize)

    def _locked(self, call: Callable[[], Found]) -> Found:
        with self._lock:
            return call()


def embedded_store(
    path: str | Path | None,
    dimension: int,
    *,
    sparse: SparseEncoder | None = None,
    multi: MultiVectorEncoder | None = None,
) -> EmbeddedStore:
    """Open or create a store; a folder already open in this process is shared.

    Args:
        path: the store's folder; None for a store in memory, which is never shared.
        dimension: dimension of the vectors.
        sparse: as for `EmbeddedStore.add_models`.
        multi: as for `EmbeddedStore.add_models`.

    Returns:
        the store.

    Raises:
        InputError: a model is of another class.
        StoreMismatchError: the store holds vectors of another dimension or of other models.
        StoreError: the store cannot be opened or created; the subclass gives the reason.
    """
    manifest = Manifest(
        model=FOREIGN_VECTORS,
        fingerprint=FOREIGN_VECTORS,
        dimension=dimension,
        passage_tokens=0,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if path is None:
        made = EmbeddedStore(MemoryStore(manifest), ":memory:")
        made.add_models(sparse=sparse, multi=multi)
        return made
    folder = Path(path).expanduser()
    key = str(folder.resolve())
    with _changed:
        while (found := _open.get(key)) is None and key in _held:
            _changed.wait()  # another thread is closing it
        if found is None:
            store = _opened(folder, manifest)
            found = _open[key] = EmbeddedStore(store, folder)
            _held.add(key)
            weakref.finalize(found, _close, key, store)
    found.require_dimension(dimension)
    found.add_models(sparse=sparse, multi=multi)
    return found


def _opened(folder: Path, manifest: Manifest) -> FolderStore:
    if not FolderStore.exists(folder):
        return FolderStore.create(folder, manifest)
    if Manifest.read(folder).model != FOREIGN_VECTORS:
        raise StoreMismatchError(
            f"a framework's store needs a folder of its own: `quaver index` created {folder}; open "
            "that folder with quaver.Index, or pass another path"
        )
    return FolderStore.open(folder)


def _close(key: str, store: VectorStore) -> None:
    try:
        store.close()
    finally:
        with _changed:
            _held.discard(key)
            _changed.notify_all()


class StorePlace:
    """A store's location; the store is created once the first vector shows the dimension.

    Attributes:
        path: the store's folder; None for memory.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> None:
        """Set the location without opening anything.

        Args:
            path: the store's folder; None for memory.
            sparse: as for `EmbeddedStore.add_models`.
            multi: as for `EmbeddedStore.add_models`.
        """
        self.path = path
        self._models: dict[str, Any] = {"sparse": sparse, "multi": multi}
        self._lock = threading.Lock()
        self._opened: EmbeddedStore | None = None

    def store(self, dimension: int) -> EmbeddedStore:
        """Open or create the store.

        Args:
            dimension: dimension of the vectors.

        Raises:
            StoreMismatchError: the store holds vectors of another dimension.
            StoreError: the store cannot be opened or created.
        """
        with self._lock:
            if self._opened is None:
                self._opened = embedded_store(self.path, dimension, **self._models)
            found = self._opened
        found.require_dimension(dimension)
        return found

    def existing(self) -> EmbeddedStore | None:
        """Open the store; return None if it does not exist yet."""
        if self._opened is None and self.path is not None:
            folder = Path(self.path).expanduser()
            if FolderStore.exists(folder):
                self.store(Manifest.read(folder).dimension)
        return self._opened

    def close(self) -> None:
        """Close the folder; the next use opens it again. A store in memory stays."""
        if self.path is not None:
            self._opened = None


def _require_list(ids: object) -> None:
    """Refuse a str: "12" would be read as the ids "1" and "2"."""
    if isinstance(ids, str):
        raise InputError(f"ids must be a list of str: got the str {ids!r:.40}; write [id]")


def _unit(vectors: Sequence[Sequence[float] | None]) -> NDArray[np.float32]:
    matrix = np.array(vectors, np.float32)
    if not np.isfinite(matrix).all():
        raise InputError("vectors must be finite: got NaN or infinity")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    matrix /= lengths
    return matrix
