"""Recognize the format of a file by its ending, or by its first bytes if the ending is unknown."""

from __future__ import annotations

import codecs
import re
import stat
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath

from quaver.documents.formats import GZIP_ENDING, SUPPORTED_ENDINGS
from quaver.system import open_to_read

_START = 8192
"""Bytes examined at the start of a file."""

_MANUAL = re.compile(r"\.(?:[1-9][a-z]*|[nl])")
_ROFF = re.compile(rb"^[.'][ \t]*(?:TH|Dd|Dt|SH|Sh|so)\b", re.MULTILINE)
_MAILBOX = re.compile(rb"From \S+.*\r?\n[!-9;-~]+:")
_PRIVATE_KEY = re.compile(rb"\s*-----BEGIN [A-Z ]*PRIVATE KEY")
_CONTROL = bytes({*range(32)} - set(b"\t\n\v\f\r\b\x1b"))
_STEMS = frozenset(
    (
        *("authors", "bugs", "changelog", "changes", "containerfile", "contributing"),
        *("contributors", "copying", "copyright", "credits", "dockerfile", "faq", "gemfile"),
        *("gnumakefile", "hacking", "history", "install", "jenkinsfile", "justfile", "licence"),
        *("license", "maintainers", "makefile", "news", "notice", "procfile", "rakefile"),
        *("readme", "release-notes", "releasenotes", "security", "thanks", "todo", "upgrading"),
        *("vagrantfile", "version"),
    )
)
"""Names that mean more than their ending: README.Debian, Dockerfile.dev."""


def ending_of(path: Path, *, forced: bool = False) -> str | None:
    """Return the ending of the format that can read a file; open it only if its name is unclear.

    Args:
        path: the file.
        forced: whether to read a file with an unknown ending as text.

    Returns:
        an ending for `formats.convert`; None if no format fits.
    """
    return ending_for(path.name, partial(_start_of, path), forced=forced)


def ending_for(name: str, start: Callable[[], bytes], *, forced: bool = False) -> str | None:
    """Like `ending_of`, for a name and the start of the file.

    Args:
        name: the file's name.
        start: returns the first bytes of the file; called at most once.
        forced: as above.

    Returns:
        as above.
    """
    ending = PurePath(name).suffix.lower()
    if ending == GZIP_ENDING:
        inner = name[: -len(GZIP_ENDING)]
        if inner.lower().endswith(GZIP_ENDING):
            return None
        found = ending_for(inner, lambda: _unpacked(start()), forced=forced)
        return None if found is None else found + GZIP_ENDING
    if ending in SUPPORTED_ENDINGS:
        return ending
    known = not ending or name.partition(".")[0].lower() in _STEMS
    manual = _MANUAL.fullmatch(ending) is not None
    if name.endswith("~") or not (known or manual or forced):
        return None
    content = start()
    if manual and _ROFF.search(content):
        return ".man"
    if not ending:
        if content.startswith(b"%PDF-"):
            return ".pdf"
        if _MAILBOX.match(content):
            return ".mbox"
        opening = content[:200].lstrip(codecs.BOM_UTF8).lstrip().lower()
        if opening.startswith((b"<!doctype html", b"<html")):
            return ".html"
        if opening.startswith(b"<?xml"):
            return ".xml"
    return ".txt" if (known or manual or forced) and _is_text(content) else None


def _is_text(content: bytes) -> bool:
    """Return whether the start of a file looks like text that people wrote, in any encoding."""
    if _PRIVATE_KEY.match(content):
        return False
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    if b"\0" in content:
        return False
    controls = len(content) - len(content.translate(None, _CONTROL))
    return controls * 20 <= len(content)


def _unpacked(content: bytes) -> bytes:
    """Return the first bytes of the file inside a .gz; empty if damaged, which reading will report."""
    try:
        return zlib.decompressobj(31).decompress(content, _START)
    except zlib.error:
        return b""


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a file; for anything but a regular file, a byte that is not text."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b"\0"
        # Some files of /proc are as slow as pipes.
        with open(open_to_read(path), "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(_START) or b""
    except PermissionError:
        return b""  # reading will report it
    except OSError:
        return b"\0"
