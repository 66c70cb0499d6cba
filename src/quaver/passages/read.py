"""A file becomes a document."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

from quaver.errors import DocumentError
from quaver.passages.formats import ENDINGS_SHOWN, convert, needs_worker
from quaver.passages.isolation import Converter
from quaver.passages.limits import LIMITS
from quaver.passages.passage import Document
from quaver.passages.recognize import ending_for


def read_document(
    path: Path,
    *,
    source: str | None = None,
    root: str = "",
    content: bytes | None = None,
    converter: Converter | None = None,
) -> Document:
    """Reads one file.

    Args:
        path: The file; its ending decides the format, and where that is none, how it begins: any
            text is read.
        source: The name to keep for citing; the file's name if None.
        root: The indexed folder that ``source`` is relative to, or its name.
        content: The file's bytes if they have been read already.
        converter: The worker process that takes hostile files apart; None starts one for this file
            if it needs it. Give one to read many files.

    Returns:
        The document with its sections. What offsets mean per format: see ``Document.text``.

    Raises:
        DocumentError: The ending is not supported and the file no text; or it cannot be read, is
            encrypted, broken or too large; or its bytes are not text in the encoding they should
            have (a byte order mark's, for HTML and XML the declared one, else UTF-8).
        ImportError: The format needs the extra "files".
    """
    if content is None:
        content = read_bytes(path)
    start = content[:8192]
    ending = ending_for(path.name, lambda: start, forced=True)
    if ending is None:
        raise DocumentError(
            f"{path.name}: a document must be text or have a supported ending: {ENDINGS_SHOWN}"
        )
    try:
        if not needs_worker(ending, len(content)):
            document = convert(ending, content)
        elif converter is not None:
            document = converter.convert(ending, content)
        else:
            with Converter() as own:
                document = own.convert(ending, content)
    except DocumentError as error:
        raise DocumentError(f"{path.name}: {error}") from error
    return replace(document, source=path.name if source is None else source, root=root)


def read_bytes(path: Path, most: int = LIMITS.file_bytes) -> bytes:
    """Reads a file's bytes; waits for nothing but the disk.

    Args:
        path: The file.
        most: How many bytes it may have.

    Returns:
        Its content.

    Raises:
        DocumentError: It cannot be read, is not a regular file, is too large, or does not end.
    """
    try:
        # Opening some devices does something, so the kind is looked at before, and again after: it
        # may have changed.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DocumentError(f"{path.name}: not a regular file")
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return _content(file, path.name, most)
        finally:
            os.close(file)
    except BlockingIOError as error:
        raise DocumentError(f"{path.name}: not a document: it waits for more to come") from error
    except OSError as error:
        raise DocumentError(f"{path.name}: cannot be read: {error.strerror}") from error


def _content(file: int, name: str, most: int) -> bytes:
    """Reads an open file to its end."""
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode):
        raise DocumentError(f"{name}: not a regular file")
    # Files of the kernel (/proc, /sys) have no size, and some of them never end.
    limit = most if state.st_size else min(most, LIMITS.sizeless_bytes)
    parts: list[bytes] = []
    length = 0
    while state.st_size <= most and length <= limit:
        # A file may grow while it is read, so its size is no more than a guess.
        part = os.read(file, min(max(state.st_size - length, 0) + 4096, 1 << 20))
        if not part:
            return b"".join(parts)
        parts.append(part)
        length += len(part)
    if not state.st_size:
        raise DocumentError(f"{name}: not a document: it has no size and does not end")
    raise DocumentError(f"{name}: larger than {most / 1e6:g} MB: split it, or exclude it")
