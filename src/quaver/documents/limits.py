"""What a document may cost: a hostile one ends in an error, not in a full machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one document.

    Attributes:
        file_bytes: Size of the file.
        sizeless_bytes: What is read of a file that says it has no bytes, as those of the kernel do.
        characters: Length of its text.
        unpacked_bytes: Size of everything in an archive together (.docx, .pptx, .xlsx, .epub).
        members: How many parts an archive may have.
        seconds: CPU time of a conversion in the worker process.
        patience: How many times as long it may take by the clock, for a machine that is busy.
        memory_bytes: Address space of the worker process.
        message_bytes: Files that go to the worker process together have as many bytes, about.
        message_files: How many files go to it together.
    """

    file_bytes: int = 100_000_000
    sizeless_bytes: int = 1_000_000
    characters: int = 20_000_000
    unpacked_bytes: int = 500_000_000
    members: int = 20_000
    seconds: float = 60
    patience: float = 10
    memory_bytes: int = 2 << 30
    message_bytes: int = 1_000_000
    message_files: int = 64


LIMITS = Limits()
