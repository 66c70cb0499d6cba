"""The text of a PowerPoint presentation, slide by slide, by python-pptx."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from quaver.documents.archive import check_office
from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document
from quaver.documents.table import row_text
from quaver.errors import needs_extra


def slides_document(content: bytes) -> Document:
    """Read a .pptx file: titles, text, tables and speaker's notes of every slide.

    Args:
        content: the file.

    Returns:
        the document; a slide's title is the heading of its text, or its text if there is no other,
        and `pages` are the slides.

    Raises:
        DocumentError: the file is encrypted, broken or refused.
        ImportError: the extra "files" is not installed.
    """
    with needs_extra("files"):
        import pptx
    check_office(content)
    parts: list[str] = []
    headings: list[Heading] = []
    pages: list[int] = []
    length = 0

    def add(text: str) -> None:
        nonlocal length
        parts.append(text + "\n\n")
        length += len(text) + 2

    for slide in pptx.Presentation(io.BytesIO(content)).slides:
        pages.append(length)
        title = slide.shapes.title
        name = " ".join(title.text_frame.text.split()) if title is not None else ""
        if name:
            add(name)
        # Also without a title: the text does not belong under the previous slide's title.
        headings.append(Heading(0, name, pages[-1], length))
        for text in _texts(shape for shape in slide.shapes if shape != title):
            add(text)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text.strip()
            if notes:
                add(notes)
    text = "".join(parts)
    return Document("", text, sections_between(text, headings, alone=True), pages=tuple(pages))


def _texts(shapes: Iterable[Any]) -> Iterator[str]:
    """Yield the text of shapes in order, including those in groups."""
    waiting = list(shapes)[::-1]
    while waiting:
        shape = waiting.pop()
        if hasattr(shape, "shapes"):
            waiting.extend(list(shape.shapes)[::-1])
        elif getattr(shape, "has_table", False):
            rows = [row_text(cell.text for cell in row.cells) for row in shape.table.rows]
            yield from filter(None, ["\n".join(filter(None, rows))])
        elif shape.has_text_frame and shape.text_frame.text.strip():
            yield shape.text_frame.text.replace("\v", "\n").strip()
