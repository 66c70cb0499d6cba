"""The text of an XML file without its tags, by the standard library's expat."""

from __future__ import annotations

from dataclasses import dataclass
from html.entities import html5
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from quaver.documents.html import html_sections
from quaver.documents.passage import Document, Section
from quaver.documents.table import row_text
from quaver.errors import DocumentError

_TITLES = frozenset({"title", "head", "heading", "article-title", "caption"})
_HEADS = frozenset(
    (
        *("title-group", "article-meta", "front", "metadata", "header", "filedesc", "titlestmt"),
        *("teiheader", "info"),
    )
)
"""Elements that contain the title of their parent, like all whose name ends in "info"."""

_VERBATIM = frozenset({"programlisting", "screen", "literallayout", "pre", "verbatim", "synopsis"})
_CELLS = frozenset({"entry", "td", "th", "cell", "seg"})
_LONGEST_TITLE = 200
_LONGEST_VALUE = 200
_DEEPEST = 6


def xml_document(text: str) -> Document:
    """Read XML: DocBook, JATS, feeds, records or anything else.

    Args:
        text: the decoded file.

    Returns:
        the document. Titles are the headings of the elements around them. An element with text
        besides its children is one block; children of different names that are all short values
        become one line `name: value; name: value`. Comments are left out, and attributes
        where there is other text.

    Raises:
        DocumentError: the file is broken or declares entities.
    """
    root = _parsed(text)
    if _name(root) == "html":
        visible, sections = html_sections(text)
        return Document("", visible, sections)
    writer = _Writer()
    writer.write(root)
    if not writer.sections:
        writer.write_attributes(root)
    return Document("", "".join(writer.parts), tuple(writer.sections))


@dataclass
class _Open:
    """A title whose element is still open."""

    depth: int
    title: str
    start: int
    end: int
    used: bool = False


class _Writer:
    """Collects blocks, and sections that end where the element around a title ends."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.sections: list[Section] = []
        self._length = self._begin = 0
        self._open: list[_Open] = []

    def write(self, root: Element) -> None:
        """Write an element. Uses a stack, because files nest deeper than Python's recursion limit."""
        # An element, its depth and the depth that its title belongs to; or None and a depth that ends.
        waiting: list[tuple[Element | None, int, int]] = [(root, 0, 0)]
        while waiting:
            element, depth, owner = waiting.pop()
            if element is None:
                self._leave(depth)
                continue
            name = _name(element)
            if name in _TITLES and (title := _title(element)):
                self._enter(owner, title)
            elif name in _VERBATIM:
                self._add("".join(element.itertext()).strip("\n"))
            elif not len(element) or _is_mixed(element):
                self._add(_block(element))
            elif line := _record(element):
                self._add(line)
            else:
                inner = owner if name in _HEADS or name.endswith("info") else depth + 1
                waiting.append((None, depth + 1, 0))
                waiting.extend((child, depth + 1, inner) for child in reversed(element))
        self._leave(0)
        self._close()

    def write_attributes(self, root: Element) -> None:
        """Write each element's attributes as a line, for a file without other text."""
        for element in root.iter():
            values = (
                (name.rpartition(":")[2], " ".join(value.split()))
                for name, value in element.items()
                if not name.startswith("xmlns")
            )
            line = "; ".join(f"{name}: {value}" for name, value in values if value)
            if line:
                self.parts.append(line + "\n")
                self._length += len(line) + 1
        self._close()

    def _enter(self, depth: int, title: str) -> None:
        self._leave(depth)
        self._close()
        start = self._length
        self._add(title)
        self._open.append(_Open(depth, title, start, self._length))
        self._begin = self._length

    def _leave(self, depth: int) -> None:
        """Close the titles of an element; one without text below it becomes text."""
        while self._open and self._open[-1].depth >= depth:
            self._close()
            last = self._open.pop()
            if not last.used:
                self._section(last.start, last.end)

    def _close(self) -> None:
        if self._length > self._begin:
            self._section(self._begin, self._length)
        self._begin = self._length

    def _section(self, start: int, end: int) -> None:
        headings = tuple(above.title for above in self._open[-_DEEPEST:])
        self.sections.append(Section(headings, start, end))
        for above in self._open:
            above.used = True

    def _add(self, text: str) -> None:
        if text.strip():
            self.parts.append(text + "\n\n")
            self._length += len(text) + 2


def _record(element: Element) -> str:
    """Return an element whose children are short values as a line; empty for any other."""
    values = [(_local(child), " ".join((child.text or "").split())) for child in element]
    names = {name.lower() for name, _ in values}
    if (
        len(values) < 2
        or any(len(child) for child in element)
        or any(len(value) > _LONGEST_VALUE for _, value in values)
    ):
        return ""
    if names <= _CELLS:
        return row_text(value for _, value in values)
    if len(names) < len(values) or names & _TITLES:
        return ""
    return "; ".join(f"{name}: {value}" for name, value in values if value)


def _block(element: Element) -> str:
    """Return an element's text as one line; HTML inside, as in feeds, is converted."""
    text = "".join(element.itertext())
    if not len(element) and "</" in text:
        text, _ = html_sections(text)
        return text.strip()
    return " ".join(text.split())


def _is_mixed(element: Element) -> bool:
    """Return whether there is text between an element's children."""
    return bool((element.text or "").strip()) or any((c.tail or "").strip() for c in element)


def _title(element: Element) -> str:
    """Return a title; empty if it is too long, or if the element only contains another title."""
    if len(element) and not _is_mixed(element) and _TITLES & {_name(c) for c in element}:
        return ""
    title = " ".join("".join(element.itertext()).split())
    return title if len(title) <= _LONGEST_TITLE else ""


def _name(element: Element) -> str:
    return _local(element).lower()


def _local(element: Element) -> str:
    """Return an element's name without its namespace's prefix."""
    return str(element.tag).rpartition(":")[2]


def _parsed(text: str) -> Element:
    """Parse XML; refuse entity declarations and fetch nothing."""
    parser = expat.ParserCreate()
    builder = TreeBuilder()

    def refuse(name: str, *_: Any) -> None:
        raise DocumentError(f"declares XML entities ({name!a}): refused")

    def start(name: str, attributes: dict[str, str]) -> None:
        builder.start(name, attributes)

    def skipped(name: str, parameter: bool) -> None:
        builder.data("" if parameter else html5.get(f"{name};", f"&{name};"))

    # &nbsp; and others are defined in a document type that is not fetched.
    parser.UseForeignDTD(True)
    parser.SkippedEntityHandler = skipped
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
        root: Element = builder.close()
    except expat.ExpatError as error:
        raise DocumentError(f"broken: not XML: {error}") from error
    return root
