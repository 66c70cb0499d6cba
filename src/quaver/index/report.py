"""The progress and the report of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quaver.documents import Failure


@dataclass(frozen=True)
class UpdateProgress:
    """The progress of an update.

    Attributes:
        bytes_done: Bytes of files that are embedded, stored or not yet, or need no embedding.
        bytes_total: Bytes of all files in the folder.
        passages: Passages that are embedded and stored.
        embedded: Passages that are embedded, stored or not yet.
        work_done: Bytes of new and changed files that are embedded, stored or not yet.
        work_total: Bytes of all new and changed files known so far; use it to estimate the time
            left. It grows with files that turn out to be changed, and shrinks with those that cannot
            be read or have no text.
    """

    bytes_done: int
    bytes_total: int
    passages: int
    embedded: int
    work_done: int
    work_total: int


@dataclass(frozen=True)
class UpdateReport:
    """What an update did.

    Attributes:
        files: Files of the folder that are now stored completely.
        added: Passages that were embedded and stored.
        reused: New passages whose text was already stored elsewhere, because a file was renamed,
            moved or copied; they were stored with the existing vector.
        unchanged: Passages that were stored before and stay.
        removed: Passages that were dropped because their file or their text is gone.
        failed: Files and folders that could not be read, with the reason; their stored passages
            stay.
        empty: Files without text; they count in ``files``.
        others: Number of skipped files by ending, because their format is not supported.
        truncated: Embedded texts that were longer than the model reads.
        seconds: Time for the whole update, including reading and splitting.
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
