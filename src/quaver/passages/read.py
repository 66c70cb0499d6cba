"""A file becomes a document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quaver.errors import DocumentError
from quaver.passages.formats import SUPPORTED_ENDINGS, convert, needs_worker
from quaver.passages.isolation import Converter
from quaver.passages.limits import LIMITS
from quaver.passages.passage import Document


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
        path: The file; its ending decides the format.
        source: The name to keep for citing; the file's name if None.
        root: The indexed folder that ``source`` is relative to, or its name.
        content: The file's bytes if they have been read already.
        converter: The worker process that takes hostile files apart; None starts one for this file
            if it needs it. Give one to read many files.

    Returns:
        The document with its sections. What offsets mean per format: see ``Document.text``.

    Raises:
        DocumentError: The ending is not supported, or the file cannot be read, is encrypted, broken
            or too large, or its bytes are not text in the encoding they should have (a byte order
            mark's, for HTML the declared one, else UTF-8).
        ImportError: The format needs the extra "files".
    """
    ending = path.suffix.lower()
    if ending not in SUPPORTED_ENDINGS:
        endings = ", ".join(SUPPORTED_ENDINGS)
        raise DocumentError(f"{path.name}: a document must have a supported ending: {endings}")
    if content is None:
        content = read_bytes(path)
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


def read_bytes(path: Path) -> bytes:
    """Reads a file's bytes.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        DocumentError: It cannot be read, is not a regular file, or is too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise DocumentError(f"{path.name}: not a regular file")
        with path.open("rb") as file:
            # One byte more than allowed: a file may grow, and some have no size (/proc).
            content = file.read(LIMITS.file_bytes + 1)
    except OSError as error:
        raise DocumentError(f"{path.name}: cannot be read: {error.strerror}") from error
    if len(content) > LIMITS.file_bytes:
        raise DocumentError(
            f"{path.name}: larger than {LIMITS.file_bytes / 1e6:.0f} MB: split it, or exclude it"
        )
    return content
