"""What a store can do; every store fits this protocol and passes the same tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.documents import Passage
from quaver.store.filters import Filter
from quaver.store.manifest import Manifest
from quaver.store.status import UpdateNote

Mode = Literal["dense", "bm25", "hybrid"]
"""How a search ranks: by vectors, by words, or by both with their ranks fused."""


@dataclass(frozen=True)
class Hit:
    """A stored passage that a search found.

    Attributes:
        id: the passage's id.
        score: higher is better. "dense": cosine similarity to the query, -1 to 1. "bm25": BM25,
            above 0. "hybrid": the sum of reciprocal ranks. From a ranker: the ranker's score.
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


@dataclass(frozen=True)
class StoredPassage:
    """A passage as a store holds it.

    Attributes:
        passage: the passage.
        version: the file version it came from; None: added without a file.
        vector: float32 (dimension,), unit length; None where none is stored or none was asked for.
    """

    passage: Passage
    version: FileVersion | None = None
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


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
    ) -> None:
        """Store passages; one whose id is already stored is replaced.

        Args:
            passages: the passages, with distinct ids.
            vectors: float32 (len(passages), dimension), unit rows; None stores passages that are
                found only by words, filters and ids.
            versions: the file version of each source, for passages of one root; None for passages
                that belong to no file.
        """
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
    ) -> list[Hit]:
        """Find the k best passages.

        Args:
            vector: float32 (dimension,); "dense" and "hybrid" need it.
            k: maximum number of hits, at least 1.
            text: the question as text; "bm25" and "hybrid" need it.
            mode: how to rank; None uses whatever is given: text, vector or both.
            filter: return only passages that match.

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
            digests: digests from `content_digest`.

        Returns:
            float32 (dimension,) by digest, for those that are stored.
        """
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
