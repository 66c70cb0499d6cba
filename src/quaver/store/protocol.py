"""What a store can do; every store fits this protocol and passes the same tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage
from quaver.sparse_encoder import SparseVector
from quaver.store.filters import Filter
from quaver.store.manifest import Manifest, TokenModel
from quaver.store.status import UpdateNote

Mode = Literal["dense", "bm25", "sparse", "hybrid", "dense+sparse", "dense+bm25+sparse"]
"""How a search ranks: by vectors, by words, by the weights of a sparse encoder, or by several of these
with their ranks fused; "hybrid" is dense and bm25."""

CANDIDATES = 100
"""Number of hits of each ranking that are fused, and of those that are reranked; k if that is more."""


@dataclass(frozen=True)
class Hit:
    """A stored passage that a search found.

    Attributes:
        id: the passage's id.
        score: higher is better. "dense": cosine similarity to the query, -1 to 1. "bm25": BM25,
            above 0. "sparse": product of the weights, above 0. Several: the sum of reciprocal ranks.
            Reranked by token vectors: MaxSim. From a ranker: the ranker's score.
        text: the passage's text.
        source: path relative to the indexed folder.
        heading: the headings above the text, joined by " > ".
        start: first character in the document's text; `Passage.start` says what that means per
            format.
        end: one past the last character.
        root: the indexed folder as an absolute path, or the name it was given; empty for a passage
            that belongs to none.
        metadata: what else was stored with it, for example the page of a PDF.
    """

    id: str
    score: float
    text: str
    source: str
    heading: str
    start: int
    end: int
    root: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class FileVersion:
    """The version of a file that a passage came from, stored with each of its passages.

    A file is indexed exactly when `passages` passages with this digest are stored and none with
    another: the record of finished work is the work itself, so no crash can make the two disagree.

    Attributes:
        digest: hash of the file's bytes and of how they were split.
        passages: into how many passages the file was split.
    """

    digest: str
    passages: int

    def place(self, start: int) -> str:
        """Return what identifies a position in this version, for `content_digest`.

        Args:
            start: the passage's first character in the document.
        """
        return f"{self.digest} {start}"


@dataclass
class StoredSource:
    """What is stored of one source.

    Attributes:
        ids: the ids of its passages, by the version they came from (None: added without a file).
    """

    ids: dict[FileVersion | None, set[str]] = field(default_factory=dict)

    def is_complete(self, version: FileVersion | None) -> bool:
        """Return whether all passages of this version are stored, and none of another."""
        return (
            version is not None
            and list(self.ids) == [version]
            and len(self.ids[version]) == version.passages
        )

    def has_digest(self, digest: str) -> bool:
        """Return whether the version with this digest, and only it, is stored completely."""
        return all(
            v is not None and v.digest == digest and self.is_complete(v) for v in self.ids
        ) and bool(self.ids)


@dataclass(frozen=True, eq=False)
class PassageTokens:
    """What the sparse and the multi-vector model of a store made of a passage.

    Attributes:
        sparse: the weights of its words; None where the store has no such model, or none is stored.
        multi: int8 (T, D), the vectors of its tokens, unit length times 127; None likewise.
    """

    sparse: SparseVector | None = None
    multi: NDArray[np.int8] | None = None


@dataclass(frozen=True)
class StoredPassage:
    """A passage as a store holds it.

    Attributes:
        passage: the passage.
        version: the file version it came from; None: added without a file.
        vector: float32 (dimension,), unit length; None where none is stored or none was asked for.
        tokens: sparse and token vectors; None where none was asked for, or the store has none.
    """

    passage: Passage
    version: FileVersion | None = None
    vector: NDArray[np.float32] | None = field(default=None, compare=False)
    tokens: PassageTokens | None = field(default=None, compare=False)


class VectorStore(Protocol):
    """A searchable store of passages and vectors.

    An id is any string; a UUID takes the least space. Every method raises StoreError or a subclass
    when the store fails, and InputError for an invalid argument.
    """

    @property
    def manifest(self) -> Manifest:
        """The store's manifest."""
        ...

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32] | None,
        *,
        versions: Mapping[str, FileVersion] | None = None,
        tokens: Sequence[PassageTokens] | None = None,
    ) -> None:
        """Store passages; one whose id is already stored is replaced.

        Args:
            passages: the passages, with distinct ids.
            vectors: float32 (len(passages), dimension), unit rows; None stores passages that are
                found only by words, filters and ids.
            versions: the file version of each source, for passages of one root; None for passages
                that belong to no file.
            tokens: sparse and token vectors of each passage, of the models in the manifest; None
                stores none, and `incomplete` names the passages.
        """
        ...

    def add_models(
        self, *, sparse: TokenModel | None = None, multi: TokenModel | None = None
    ) -> None:
        """Record models for sparse and token vectors; stored passages are `incomplete` until then.

        Args:
            sparse: the model of the sparse vectors; None changes nothing.
            multi: the model of the token vectors; None changes nothing.

        Raises:
            StoreMismatchError: the store has vectors of another model.
        """
        ...

    def incomplete(self) -> list[str]:
        """Return the ids of passages that lack sparse or token vectors of the models in the manifest."""
        ...

    def require_space(self, passages: int, text_bytes: int = 0) -> None:
        """Check that so many more passages fit on the store's disk, before they are embedded.

        Args:
            passages: how many.
            text_bytes: bytes of their texts in UTF-8.

        Raises:
            StoreWriteError: they cannot fit.
        """

    def flush(self) -> None:
        """Wait until all earlier upserts and deletions are on disk."""
        ...

    def search(
        self,
        vector: NDArray[np.float32] | None = None,
        *,
        k: int,
        text: str | None = None,
        mode: Mode | None = None,
        filter: Filter | None = None,
        sparse: SparseVector | None = None,
        multi: NDArray[np.float32] | None = None,
        candidates: int = CANDIDATES,
    ) -> list[Hit]:
        """Find the k best passages.

        Args:
            vector: float32 (dimension,); "dense" and the modes with it need it.
            k: maximum number of hits, at least 1.
            text: the question as text; "bm25" and the modes with it need it.
            mode: how to rank; None uses whatever is given of vector, text and sparse.
            filter: return only passages that match.
            sparse: the question's weights; "sparse" and the modes with it need them.
            multi: float32 (T, D), vectors of the question's tokens: the best candidates are reranked
                by MaxSim with the stored token vectors; None does not rerank.
            candidates: how many passages are reranked; k if that is more.

        Returns:
            hits, best first; equal scores in the order of their ids.
        """
        ...

    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPassage]:
        """Return the stored passages with these ids, in the order of `ids`."""
        ...

    def scan(
        self, filter: Filter | None = None, *, with_vectors: bool = False
    ) -> Iterator[StoredPassage]:
        """Yield every passage that matches, in no particular order."""
        ...

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the stored vectors of these ids by id, each float32 (dimension,)."""
        ...

    def vectors_of_content(self, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of stored passages with the given content.

        Args:
            digests: digests from `content_digest`; with late chunking those of passages in a version of
                a file, as the store computes them.

        Returns:
            float32 (dimension,) by digest, for those that are stored.
        """
        ...

    def tokens(self, ids: Sequence[str]) -> dict[str, PassageTokens]:
        """Return the sparse and token vectors of these ids by id, for passages that lack none."""
        ...

    def tokens_of_content(self, digests: Sequence[str]) -> dict[str, PassageTokens]:
        """Return the same of stored passages with the given content, by digest."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove passages; ids that are not stored are ignored."""
        ...

    def delete_matching(self, filter: Filter) -> int:
        """Remove every passage that matches, and return how many there were."""
        ...

    def count(self, filter: Filter | None = None) -> int:
        """Return the number of stored passages, or of those that match."""
        ...

    def roots(self) -> dict[str, int]:
        """Return the number of passages of each root."""
        ...

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Return what is stored of each source of a root."""
        ...

    def note_update(self, root: str, note: UpdateNote | None) -> None:
        """Store the note of a root's last update; None removes it. A server stores no notes."""
        ...

    def notes(self) -> dict[str, UpdateNote]:
        """Return the notes of updates, by root."""
        ...

    def size(self) -> int | None:
        """Return the size of the store on disk in bytes; None if unknown."""
        ...

    def optimize(self) -> None:
        """Reorganize the store for faster search after many changes; may take a while."""
        ...

    def refresh(self) -> bool:
        """Move to the newest committed state, for a store opened to read.

        Returns:
            whether anything changed. A store opened to write is always up to date.
        """
        ...

    def close(self) -> None:
        """Write pending changes and release the store for other processes."""
        ...
