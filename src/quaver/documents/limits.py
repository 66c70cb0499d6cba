"""Limits for one document, so that a hostile one ends in an error and not in an exhausted machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one document.

    Attributes:
        file_bytes: size of the file.
        sizeless_bytes: bytes read of a file whose reported size is 0, such as files in /proc.
        characters: length of its text.
        unpacked_bytes: total size of an unpacked archive (.docx, .pptx, .xlsx, .epub).
        members: number of members of an archive.
        seconds: CPU time of a conversion in the worker process.
        patience: limit of elapsed time as a multiple of `seconds`, for busy machines.
        memory_bytes: address space of the worker process.
        message_bytes: approximate size of the files sent to the worker process together.
        message_files: maximum number of files sent together.
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
