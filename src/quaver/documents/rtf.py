"""The text of a Rich Text file (.rtf), by striprtf."""

from __future__ import annotations

from typing import Any

from quaver.documents.outline import sections_between
from quaver.documents.passage import Document
from quaver.errors import DocumentError, needs_extra


def rtf_document(content: bytes) -> Document:
    """Read an .rtf file.

    Args:
        content: the file.

    Returns:
        the document, one section: the format has no headings, only large letters. Cells of a table
        are separated by bars; pictures are left out.

    Raises:
        DocumentError: it is not Rich Text.
        ImportError: the extra "files" is not installed.
    """
    with needs_extra("files"):
        from striprtf.striprtf import rtf_to_text
    if not content.lstrip().startswith(b"{\\rtf"):
        raise DocumentError("broken: not Rich Text, which begins with {\\rtf")
    # The file is ASCII; \'.. escapes are decoded with the code page that it declares.
    convert: Any = rtf_to_text  # it has no types
    text = str(convert(content.decode("latin-1"), errors="replace"))
    # A character above U+FFFF is written as two \u escapes.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return Document("", text, sections_between(text, ()))
