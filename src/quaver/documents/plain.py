"""Readers of plain text, source code, light markup and HTML."""

from __future__ import annotations

from quaver.documents.asciidoc import asciidoc_sections
from quaver.documents.html import html_sections
from quaver.documents.markdown import markdown_sections
from quaver.documents.org import org_sections
from quaver.documents.outline import sections_between
from quaver.documents.passage import Document
from quaver.documents.rst import rst_sections
from quaver.documents.tex import tex_sections


def plain_document(text: str) -> Document:
    """Return text or source code unchanged, as one section."""
    return Document("", text, sections_between(text, ()))


def markdown_document(text: str) -> Document:
    """Read a Markdown file."""
    return Document("", text, markdown_sections(text), markdown=True)


def rst_document(text: str) -> Document:
    """Read a reStructuredText file."""
    return Document("", text, rst_sections(text))


def org_document(text: str) -> Document:
    """Read an Org file."""
    return Document("", text, org_sections(text))


def asciidoc_document(text: str) -> Document:
    """Read an AsciiDoc file."""
    return Document("", text, asciidoc_sections(text))


def tex_document(text: str) -> Document:
    """Read a LaTeX file."""
    return Document("", text, tex_sections(text))


def html_document(text: str) -> Document:
    """Read the visible text of an HTML page."""
    visible, sections = html_sections(text)
    return Document("", visible, sections)
