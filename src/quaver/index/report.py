"""The progress and the report of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quaver.documents import Failure


@dataclass(frozen=True)
class UpdateProgress:
    """The progress of an update.

    Attributes:
        bytes_done: bytes of files that are embedded, stored or not yet, or need no embedding.
        bytes_total: bytes of all files in the folder.
        passages: passages that are embedded and stored.
        embedded: passages that are embedded, stored or not yet.
        work_done: bytes of new and changed files that are embedded, stored or not yet.
        work_total: bytes of all new and changed files known so far; use it to estimate the time
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
        files: files of the folder that are now stored completely.
        added: passages that were embedded and stored.
        reused: new passages whose text was already stored elsewhere, because a file was renamed,
            moved or copied; they were stored with the existing vector.
        unchanged: passages that were stored before and stay.
        removed: passages that were dropped because their file or their text is gone.
        failed: files and folders that could not be read, with the reason; their stored passages
            stay.
        empty: files without text; they count in `files`.
        others: number of skipped files by ending, because their format is not supported.
        truncated: embedded texts that were longer than the model reads.
        seconds: time for the whole update, including reading and splitting.
        outside: links that lead out of the folder and were not followed.
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
