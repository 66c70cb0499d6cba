"""A folder becomes a list of files, and a file becomes a document."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quaver.errors import DocumentError
from quaver.passages.html import html_sections
from quaver.passages.markdown import markdown_sections
from quaver.passages.outline import sections_between
from quaver.passages.passage import Document, Failure
from quaver.passages.rst import rst_sections

SUPPORTED_ENDINGS = (".txt", ".md", ".markdown", ".rst", ".html", ".htm", ".xhtml")
"""Endings of the files that are read, compared without regard to case."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(
    rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]+encoding\s*=\s*["']([\w.:-]+)""",
    re.I,
)


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        files: Supported files, sorted by their path.
        failures: Folders that could not be listed and names that are not text.
    """

    files: tuple[Path, ...]
    failures: tuple[Failure, ...]


def scan_folder(folder: Path) -> Scan:
    """Lists the supported files of a folder and its sub-folders.

    Hidden files and folders (a leading dot) are skipped. A link to a folder is followed when it
    leads outside; a link to a folder inside is not, because its files are found under their own
    name. So links that form a loop end.

    Args:
        folder: The folder to list.

    Returns:
        The files, and what could not be listed.

    Raises:
        DocumentError: The folder does not exist, is not a folder, or neither it nor what could be
            listed below it holds a file with a supported ending.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DocumentError(
            f"documents come from a folder: there is {found} at {folder}; give an existing folder"
        )
    files: list[Path] = []
    failures: list[Failure] = []
    for path, error in _walk(folder):
        source = path.relative_to(folder).as_posix()
        if not source.isprintable() and not _is_text(source):
            failures.append(Failure(ascii(source)[1:-1], "its name is not valid UTF-8: rename it"))
        elif error is not None:
            failures.append(Failure(source, f"cannot list the folder: {error.strerror}"))
        elif path.suffix.lower() in SUPPORTED_ENDINGS:
            files.append(path)
    if not files and not failures:
        endings = ", ".join(SUPPORTED_ENDINGS)
        raise DocumentError(
            f"a folder needs at least one document: found none in {folder}; "
            f"supported endings: {endings}"
        )
    return Scan(tuple(sorted(files)), tuple(failures))


def read_document(
    path: Path, *, source: str | None = None, root: str = "", content: bytes | None = None
) -> Document:
    """Reads one file.

    Args:
        path: The file; its ending decides the format.
        source: The name to keep for citing; the file's name if None.
        root: The indexed folder that ``source`` is relative to, or its name.
        content: The file's bytes if they have been read already.

    Returns:
        The document with its sections. What offsets mean per format: see ``Document.text``.

    Raises:
        DocumentError: The ending is not supported, the file cannot be read, or its bytes are not
            text in the encoding they should have (a byte order mark's, for HTML the declared one,
            else UTF-8).
    """
    ending = path.suffix.lower()
    if ending not in SUPPORTED_ENDINGS:
        endings = ", ".join(SUPPORTED_ENDINGS)
        raise DocumentError(f"{path.name}: a document must have a supported ending: {endings}")
    if content is None:
        content = read_bytes(path)
    is_html = ending in (".html", ".htm", ".xhtml")
    text = _decode(content, path.name, declared=is_html)
    source = path.name if source is None else source
    if is_html:
        visible, sections = html_sections(text)
        return Document(source, visible, sections, root=root)
    if ending in (".md", ".markdown"):
        return Document(source, text, markdown_sections(text), markdown=True, root=root)
    sections = rst_sections(text) if ending == ".rst" else sections_between(text, ())
    return Document(source, text, sections, root=root)


def read_bytes(path: Path) -> bytes:
    """Reads a file's bytes.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        DocumentError: It cannot be read, or is not a regular file.
    """
    try:
        if path.exists() and not path.is_file():
            raise DocumentError(f"{path.name}: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{path.name}: cannot be read: {error.strerror}") from error


def _walk(root: Path) -> Iterator[tuple[Path, OSError | None]]:
    """Yields every visible file, and every folder that cannot be listed with its error."""
    real_root = root.resolve()
    seen = {real_root}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield folder, error
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield path, None
                continue
            real = path.resolve()
            if real in seen or (
                entry.is_symlink()
                and (real.is_relative_to(real_root) or real_root.is_relative_to(real))
            ):
                continue
            seen.add(real)
            folders.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; what cannot be reached (a link to itself) counts as a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_text(name: str) -> bool:
    """Whether a file name can be stored as UTF-8 (a name with undecodable bytes cannot)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _decode(content: bytes, name: str, *, declared: bool) -> str:
    """Decodes a file; strict, because a guessed encoding looks healthy and is wrong."""
    encoding, why, start = "utf-8", "text must be UTF-8, or begin with a byte order mark", 0
    for mark, marked in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            encoding, why, start = marked, "the byte order mark says so", len(mark)
            break
    else:
        declaration = _DECLARED.search(content, 0, 2048) if declared else None
        if declaration is not None:
            encoding = (declaration[1] or declaration[2]).decode("ascii")
            why = "the page says so"
    try:
        text = content[start:].decode(encoding)
    except LookupError as error:
        raise DocumentError(
            f"{name}: declares the encoding {encoding}, which does not exist; save it as UTF-8"
        ) from error
    except UnicodeError as error:
        at = start + getattr(error, "start", 0)
        raise DocumentError(
            f"{name}: not valid {encoding} ({why}): byte 0x{content[at]:02x} at position {at}; "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DocumentError(
            f"{name}: not text, it holds a NUL character at position {text.index(chr(0))}"
        )
    return text
