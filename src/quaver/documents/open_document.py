"""The text of OpenDocument files (.odt, .odp): XML in a ZIP archive, by lxml.

Why not odfpy: no release since 2020. Spreadsheets (.ods) are read by calamine, see `table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quaver.documents.archive import open_archive, read_member
from quaver.documents.epub import parse_xml
from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document
from quaver.documents.table import row_text
from quaver.errors import DocumentError

_UNSEEN = frozenset(
    (
        *("tracked-changes", "annotation", "annotation-end", "forms", "sequence-decls", "scripts"),
        *("settings", "automatic-styles", "font-face-decls", "table-of-content", "bibliography"),
        *("alphabetical-index", "illustration-index", "table-index", "object-index", "desc"),
        *("event-listeners", "date-time-decl", "footer-decl", "header-decl", "binary-data"),
    )
)
_LARGEST_INDENT = 100


def open_document(content: bytes) -> Document:
    """Read an .odt or .odp file: paragraphs, lists, tables, notes and text boxes.

    Args:
        content: the file.

    Returns:
        the document. The headings of a text are its sections below its title; a slide's title is
        the heading of its text and speaker's notes, and `pages` are the slides. Comments, deleted
        text, tables of contents and pictures are left out.

    Raises:
        DocumentError: the file is encrypted, broken or refused.
        ImportError: the extra "files" is not installed.

    Source:
        OASIS, "OpenDocument 1.3, part 3: Schema", 5 and 10.
    """
    with open_archive(content) as archive:
        names = archive.namelist()
        if "META-INF/manifest.xml" in names and b"encryption-data" in read_member(
            archive, "META-INF/manifest.xml"
        ):
            raise DocumentError("encrypted: save it without a password")
        root = parse_xml(read_member(archive, "content.xml"), "content.xml")
    if root.getroottree().docinfo.doctype:
        raise DocumentError("declares XML entities, in 'content.xml': refused")
    body = next((part for part in root.iter() if _name(part) in ("text", "presentation")), None)
    if body is None or not str(body.tag).startswith("{urn:oasis:names:tc:opendocument"):
        raise DocumentError("broken: neither an OpenDocument text nor a presentation")
    writer = _Writer(_titles(root))
    writer.write(body, slides=_name(body) == "presentation")
    text = "".join(writer.parts)
    sections = sections_between(text, writer.headings, alone=bool(writer.pages))
    return Document("", text, sections, pages=tuple(writer.pages))


class _Writer:
    """Collects the text block by block."""

    def __init__(self, titles: frozenset[str]) -> None:
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self.pages: list[int] = []
        self._length, self._titles = 0, titles

    def write(self, body: Any, *, slides: bool) -> None:
        waiting = [body]
        while waiting:
            node = waiting.pop()
            name = _name(node)
            if name in _UNSEEN:
                continue
            if name == "page" and slides:
                self.pages.append(self._length)
                titled = next((f for f in node.iter() if _attribute(f, "class") == "title"), None)
                title = "" if titled is None else " ".join(" ".join(_texts(titled)).split())
                self._heading(0, title)
                waiting.extend(child for child in reversed(node) if child is not titled)
            elif name in ("h", "p"):
                text = _inline(node)
                level = _attribute(node, "outline-level")
                if name == "h" and text.strip():
                    self._heading(int(level) if level and level.isdecimal() else 1, text)
                elif _attribute(node, "style-name") in self._titles and text.strip():
                    self._heading(0, text)
                else:
                    self._add(text.strip())
                waiting.extend(reversed([box for box in node.iter() if _name(box) == "text-box"]))
            elif name == "table":
                self._add("\n".join(_rows(node)))
            else:
                waiting.extend(reversed(node))

    def _heading(self, level: int, text: str) -> None:
        title, start = " ".join(text.split()), self._length
        self._add(title)
        # Also without a title: a slide's text does not belong under the previous title.
        self.headings.append(Heading(level, title, start, self._length))

    def _add(self, text: str) -> None:
        if text:
            self.parts.append(text + "\n\n")
            self._length += len(text) + 2


def _titles(root: Any) -> frozenset[str]:
    """Return the names of the styles for the title of a document."""
    derived = {
        _attribute(style, "name")
        for style in root.iter()
        if _name(style) == "style" and _attribute(style, "parent-style-name") == "Title"
    }
    return frozenset({"Title", *filter(None, derived)})


def _rows(table: Any) -> Iterator[str]:
    """Yield a table's rows as lines; a nested table is part of its cell."""
    waiting = [table]
    while waiting:
        node = waiting.pop()
        if _name(node) == "table-row":
            cells = (cell for cell in node if _name(cell) == "table-cell")
            row = row_text(" ".join(_texts(cell)) for cell in cells)
            if row:
                yield row
        elif node is table or _name(node) in (
            *("table-rows", "table-header-rows", "table-row-group"),
        ):
            waiting.extend(reversed(node))


def _texts(node: Any) -> Iterator[str]:
    """Yield the paragraphs in a node."""
    for part in node.iter():
        if _name(part) in ("p", "h") and not any(_name(a) in _UNSEEN for a in part.iterancestors()):
            yield _inline(part)


def _inline(node: Any) -> str:
    """Return the text of a paragraph, with notes in brackets and without text boxes."""
    parts: list[str] = []

    def visit(element: Any, *, outer: bool = False) -> None:
        name = _name(element)
        if name == "s":
            count = _attribute(element, "c") or "1"
            spaces = int(count) if count.isdecimal() and len(count) < 4 else 1
            parts.append(" " * min(spaces, _LARGEST_INDENT))
        elif name == "tab":
            parts.append("\t")
        elif name == "line-break":
            parts.append("\n")
        elif name == "note":
            notes = [part for part in element if _name(part) == "note-body"]
            parts.append(f" [{' '.join(' '.join(map(' '.join, map(_texts, notes))).split())}]")
        elif name not in _UNSEEN and name not in ("text-box", "image", "object"):
            parts.append(element.text or "")
            for child in element:
                visit(child)
        if not outer:
            parts.append(element.tail or "")

    visit(node, outer=True)
    return "".join(parts)


def _name(node: Any) -> str:
    """Return an element's name without its namespace; an empty string for a comment."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def _attribute(node: Any, name: str) -> str | None:
    """Return an attribute of any namespace."""
    return next((v for key, v in node.attrib.items() if key.rpartition("}")[2] == name), None)
