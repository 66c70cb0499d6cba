"""What an update says while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quaver.documents import Failure


@dataclass(frozen=True)
class UpdateProgress:
    """How far an update is.

    Attributes:
        bytes_done: Bytes of files that are stored or were unchanged.
        bytes_total: Bytes of all files of the folder.
        passages: Passages embedded so far.
        work_done: Bytes of new and changed files that are stored.
        work_total: Bytes of all files that are new or changed, as far as is known by now: it grows by
            files that turn out to be changed, and shrinks by those that cannot be read or have no
            text. What the time left can be told from.
    """

    bytes_done: int
    bytes_total: int
    passages: int
    work_done: int
    work_total: int


@dataclass(frozen=True)
class UpdateReport:
    """What an update did.

    Attributes:
        files: Files of the folder that are now stored completely.
        added: Passages that were embedded and stored.
        reused: Passages that are new where they stand, but whose text was stored elsewhere, because
            a file was renamed, moved or copied; they were stored with the vector that was there.
        unchanged: Passages that were stored before and stay.
        removed: Passages that were dropped, because their file or their text is gone.
        failed: Files and folders that could not be read, with the reason; what was stored of them
            before stays.
        empty: Files in which no text was found; they count in ``files``.
        others: How many files were passed over, by ending, because their format is not supported.
        truncated: Embedded texts that were longer than the model reads.
        seconds: Time for everything, reading and splitting included.
        outside: Links that lead out of the folder and were not followed.
    """

    files: int
    added: int
    reused: int
    unchanged: int
    removed: int
    failed: tuple[Failure, ...]
    empty: tuple[str, ...]
    others: Mapping[str, int]
    truncated: int
    seconds: float
    outside: tuple[str, ...] = ()

    @property
    def passages_per_second(self) -> float:
        """Embedded passages per second of the whole update."""
        return self.added / self.seconds if self.seconds > 0 else 0.0
