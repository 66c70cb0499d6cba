"""What Index asks of a store, and nothing more; another store fits this protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.passages import Passage


@dataclass(frozen=True)
class Hit:
    """A stored passage that a search found.

    Attributes:
        id: The passage's id.
        score: Cosine similarity to the query, -1 to 1.
        text: The passage's text.
        source: Path relative to the indexed folder.
        heading: The headings above the text, joined by " > ".
        start: First character in the document's text; ``Passage.start`` says what that means per
            format.
        end: One past the last character.
        root: The indexed folder as an absolute path, or the name it was given; empty for a passage
            that belongs to none.
    """

    id: str
    score: float
    text: str
    source: str
    heading: str
    start: int
    end: int
    root: str


@dataclass(frozen=True)
class FileVersion:
    """The version of a file that a passage came from, stored with each of its passages.

    A file is indexed exactly when ``passages`` passages with this digest are stored and none with
    another: the record of finished work is the work itself, so no crash can make the two disagree.

    Attributes:
        digest: Hash of the file's bytes and of how they were split.
        passages: Into how many passages the file was split.
    """

    digest: str
    passages: int


@dataclass
class StoredSource:
    """What is stored of one source.

    Attributes:
        ids: The ids of its passages, by the version they came from (None: added without a file).
    """

    ids: dict[FileVersion | None, set[str]] = field(default_factory=dict)

    def is_complete(self, version: FileVersion | None) -> bool:
        """Whether all passages of this version are stored, and none of another."""
        return (
            version is not None
            and list(self.ids) == [version]
            and len(self.ids[version]) == version.passages
        )

    def has_digest(self, digest: str) -> bool:
        """Whether the version with this digest, and only it, is stored completely."""
        return all(
            v is not None and v.digest == digest and self.is_complete(v) for v in self.ids
        ) and bool(self.ids)


class VectorStore(Protocol):
    """Passages and their vectors, searchable; one process at a time.

    Every method raises StoreError, or the more exact error below it, when the store fails.
    """

    def upsert(
        self,
        passages: Sequence[Passage],
        vectors: NDArray[np.float32],
        *,
        versions: Mapping[str, FileVersion] | None = None,
    ) -> None:
        """Stores passages; one whose id is stored already is replaced.

        Args:
            passages: What to store.
            vectors: float32 (len(passages), dimension), unit rows.
            versions: The file version of each source, for passages of one root; None for passages
                that belong to no file.
        """
        ...

    def flush(self) -> None:
        """Returns when everything upserted and deleted before is on disk."""
        ...

    def search(
        self, vector: NDArray[np.float32], *, k: int, filter: Mapping[str, str] | None = None
    ) -> list[Hit]:
        """Finds the k passages with the highest cosine to a vector.

        Args:
            vector: float32 (dimension,).
            k: How many at most, at least 1.
            filter: Fields of a hit ("source", "heading", "root") and the value each must have.

        Returns:
            Hits, best first.
        """
        ...

    def vectors(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Returns the stored vectors of those ids that are stored, each float32 (dimension,)."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Removes passages; an id that is not stored is no error."""
        ...

    def count(self) -> int:
        """Returns how many passages are stored."""
        ...

    def roots(self) -> dict[str, int]:
        """Returns how many passages are stored of each root."""
        ...

    def sources(self, root: str) -> dict[str, StoredSource]:
        """Returns what is stored of each source of a root."""
        ...

    def optimize(self) -> None:
        """Makes searching faster after much was stored; may take a while."""
        ...

    def close(self) -> None:
        """Writes what is pending and lets other processes open the store."""
        ...
