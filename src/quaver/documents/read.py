"""Read files as documents."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from quaver.documents.converter import Converter
from quaver.documents.formats import ENDINGS_SHOWN
from quaver.documents.limits import LIMITS
from quaver.documents.passage import Document
from quaver.documents.recognize import ending_for
from quaver.errors import DocumentError
from quaver.system import open_to_read


@dataclass(frozen=True)
class Unread:
    """A file to convert to a document.

    Attributes:
        path: its path; the name decides the format.
        source: the name to keep for citing.
        root: the indexed folder that `source` is relative to, or its name.
        content: its bytes.
    """

    path: Path
    source: str
    root: str
    content: bytes


def read_document(
    path: Path,
    *,
    source: str | None = None,
    root: str = "",
    content: bytes | None = None,
    converter: Converter | None = None,
) -> Document:
    """Read one file.

    Args:
        path: the file. Its ending decides the format, or its first bytes if it has no ending; any
            text is accepted.
        source: the name to keep for citing; the file's name if None.
        root: the indexed folder that `source` is relative to, or its name.
        content: the file's bytes, if already read.
        converter: the worker process for untrusted files; None starts one for this file, which
            takes a fifth of a second. Pass one to read many files.

    Returns:
        the document with its sections. For the meaning of offsets see `Document.text`.

    Raises:
        DocumentError: the ending is not supported and the file is not text; or it cannot be read,
            is encrypted, broken or too large; or it is not valid in its encoding (from the byte
            order mark, or declared in HTML and XML, or UTF-8).
        ImportError: the format needs the extra "files".
    """
    if content is None:
        content = read_bytes(path)
    unread = Unread(path, path.name if source is None else source, root, content)
    with ExitStack() as own:
        (outcome,) = read_documents([unread], converter or own.enter_context(Converter()))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def read_documents(
    files: Sequence[Unread], converter: Converter
) -> Iterator[Document | DocumentError | ImportError]:
    """Read files together.

    Args:
        files: the files; best about `LIMITS.message_bytes` and at most `LIMITS.message_files`.
        converter: the worker process.

    Yields:
        for each file in order, what `read_document` would return or raise.
    """
    endings: list[str | DocumentError] = []
    for file in files:
        try:
            endings.append(_ending(file))
        except DocumentError as error:
            endings.append(error)
    outcomes = converter.convert_all(
        [(e, file.content) for e, file in zip(endings, files, strict=True) if isinstance(e, str)]
    )
    for ending, file in zip(endings, files, strict=True):
        outcome = next(outcomes) if isinstance(ending, str) else ending
        if isinstance(outcome, Document):
            yield replace(outcome, source=file.source, root=file.root)
        elif isinstance(outcome, DocumentError) and isinstance(ending, str):
            yield DocumentError(f"{file.path.name}: {outcome}")
        else:
            yield outcome


def _ending(file: Unread) -> str:
    """Return the ending that decides the format.

    Raises:
        DocumentError: the file is not text and has no supported format.
    """
    ending = ending_for(file.path.name, lambda: file.content[:8192], forced=True)
    if ending is None:
        raise DocumentError(
            f"{file.path.name}: a document must be text or have a supported ending: {ENDINGS_SHOWN}"
        )
    return ending


def read_bytes(path: Path, max_bytes: int = LIMITS.file_bytes) -> bytes:
    """Read a file's bytes without waiting for anything but the disk.

    Args:
        path: the file.
        max_bytes: maximum size in bytes.

    Returns:
        its content.

    Raises:
        DocumentError: it cannot be read, is not a regular file, is too large, or does not end.
    """
    try:
        # Opening some devices has side effects, so check the kind of file before opening, and again
        # afterwards in case it changed.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DocumentError(f"{path.name}: not a regular file")
        file = open_to_read(path)
        try:
            return _content(file, path.name, max_bytes)
        finally:
            os.close(file)
    except BlockingIOError as error:
        raise DocumentError(
            f"{path.name}: not a document: reading it would wait for more data"
        ) from error
    except OSError as error:
        raise DocumentError(f"{path.name}: cannot be read: {error.strerror}") from error


def _content(file: int, name: str, max_bytes: int) -> bytes:
    """Read an open file to its end."""
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode):
        raise DocumentError(f"{name}: not a regular file")
    # Files in /proc and /sys report size 0, and some of them never end.
    limit = max_bytes if state.st_size else min(max_bytes, LIMITS.sizeless_bytes)
    parts: list[bytes] = []
    length = 0
    while state.st_size <= max_bytes and length <= limit:
        # A file may grow while it is read, so its size is only an estimate.
        part = os.read(file, min(max(state.st_size - length, 0) + 4096, 1 << 20))
        if not part:
            return b"".join(parts)
        parts.append(part)
        length += len(part)
    if not state.st_size:
        raise DocumentError(f"{name}: not a document: it has no size and does not end")
    raise DocumentError(f"{name}: larger than {max_bytes / 1e6:g} MB: split it, or exclude it")
