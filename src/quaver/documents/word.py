"""The text and headings of a Word document, converted to HTML by mammoth."""

from __future__ import annotations

import io

from quaver.documents.archive import check_office
from quaver.documents.html import html_sections
from quaver.documents.passage import Document
from quaver.errors import DocumentError, needs_extra

# The title is above every heading.
_STYLES = "\n".join(
    (
        "p[style-name='Title'] => h1:fresh",
        *(f"p[style-name='Heading {n}'] => h{min(n + 1, 6)}:fresh" for n in range(1, 7)),
    )
)


def word_document(content: bytes) -> Document:
    """Read a .docx file: paragraphs, lists, tables, notes and text boxes, without pictures.

    Args:
        content: the file.

    Returns:
        the document; its sections follow the styles "Title" and "Heading 1" to "Heading 6".

    Raises:
        DocumentError: the file is encrypted, broken or refused.
        ImportError: the extra "files" is not installed.
    """
    with needs_extra("files"):
        import mammoth
    check_office(content)
    try:
        made = mammoth.convert_to_html(
            io.BytesIO(content),
            style_map=_STYLES,
            include_embedded_style_map=False,
            convert_image=mammoth.images.img_element(lambda image: {"src": ""}),
        )
    except OSError as error:
        raise DocumentError(f"broken: {error}") from error
    text, sections = html_sections(made.value)
    return Document("", text, sections)
