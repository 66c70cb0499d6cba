"""Decode bytes to text. Strict, because text in a guessed encoding looks valid but is wrong."""

from __future__ import annotations

import codecs
import re

from quaver.errors import DocumentError

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
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def decode(content: bytes, *, declared: bool = False) -> str:
    """Decode a text file.

    Args:
        content: the file.
        declared: whether the file may name its encoding itself, as HTML does.

    Returns:
        the text, without a byte order mark.

    Raises:
        DocumentError: the bytes are not text in the encoding they should have: a byte order mark's,
            the declared one, else UTF-8.
    """
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
            f"declares the encoding {encoding}, which does not exist; save it as UTF-8"
        ) from error
    except UnicodeError as error:
        at = start + getattr(error, "start", 0)
        raise DocumentError(
            f"not valid {encoding} ({why}): byte 0x{content[at]:02x} at position {at}; "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DocumentError(f"not text, it holds a NUL character at position {text.index(chr(0))}")
    return text


def storable(text: str) -> str:
    """Replace characters that no store can hold (NUL, halves of surrogate pairs).

    Args:
        text: what a converter found in a file.

    Returns:
        text of the same length.
    """
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)
