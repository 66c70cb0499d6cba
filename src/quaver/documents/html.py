"""The visible text of an HTML page and its sections, by Beautiful Soup."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, PageElement, PreformattedString

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Section

_UNSEEN = (
    "script, style, template, noscript, nav, aside, head, svg, iframe, a.headerlink, "
    "button, input, select, textarea"
)
_INLINE = frozenset(
    (
        *(
            "a",
            "abbr",
            "b",
            "bdi",
            "bdo",
            "cite",
            "code",
            "data",
            "del",
            "dfn",
            "em",
            "font",
            "i",
            "ins",
            "kbd",
        ),
        *(
            "label",
            "mark",
            "q",
            "ruby",
            "s",
            "samp",
            "small",
            "span",
            "strong",
            "sub",
            "sup",
            "time",
            "tt",
            "u",
        ),
        *("var", "wbr"),
    )
)
_HEADING = re.compile(r"h[1-6]")
_COMMENT_END = re.compile(r"--!?\s*>")
_STRUCTURE = frozenset(("table", "pre", "ul", "ol", "dl", "h1", "h2", "h3", "h4", "h5", "h6"))
_PERMALINKS = ("#", "¶", "§", "🔗", "\uf0c1")
"""Texts of a heading's link to itself; the last is an icon of Sphinx's theme."""

_BLOCKS = frozenset({"p", "div", "br"})
"""Elements that separate the words of a cell."""

_LONGEST_CELL = 300
"""Characters. A longer cell is prose: the table only lays out the page."""


def html_sections(markup: str) -> tuple[str, tuple[Section, ...]]:
    """Extract the visible text of a page and find its sections.

    Only the main content counts where the page names one (`<main>`, `role="main"`, its only
    `<article>`): menus and page furniture would otherwise become passages.

    Args:
        markup: the decoded page.

    Returns:
        the visible text (blocks separated by an empty line, white space collapsed outside
        `<pre>`) and its sections, whose offsets are characters of this text, not of the file.
    """
    with warnings.catch_warnings():
        # An XHTML page is a page: read as HTML its text is the same.
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        page = BeautifulSoup(_closable(markup), "html.parser")
    for unseen in page.select(_UNSEEN):
        if not unseen.decomposed:  # already removed with its parent
            unseen.decompose()
    articles = page.find_all("article", limit=2)
    writer = _Writer()
    writer.write(
        page.find("main")
        or page.select_one("[role=main]")
        or (articles[0] if len(articles) == 1 else None)
        or page.body
        or page
    )
    return writer.finish()


def _closable(markup: str) -> str:
    """Escape markup that begins but never ends, in linear time.

    The standard library's parser searches the whole page for the end of each comment or tag, and
    without one resumes a character later: 100 KB of "<!--" take ten seconds.
    """
    # In a page this is a comment that ends at the next ">", except that the parser looks for "]>".
    markup = markup.replace("<![", "<!")
    ends = [found.end() for found in _COMMENT_END.finditer(markup)]
    commented = ends[-1] if ends else 0
    markup = markup[:commented] + markup[commented:].replace("<!--", "&lt;!--")
    closed = markup.rfind(">") + 1
    return markup[:closed] + markup[closed:].replace("<", "&lt;")


class _Writer:
    """Collects the text block by block and records its headings."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._length = 0
        self._line: list[str] = []
        self._headings: list[Heading] = []

    def finish(self) -> tuple[str, tuple[Section, ...]]:
        self._end_block()
        text = "".join(self._blocks)
        return text, sections_between(text, self._headings)

    def write(self, node: Tag) -> None:
        """Write an element. Uses a stack, because pages nest deeper than Python's recursion limit."""
        stack: list[Tag | str] = list(reversed([*_parts(node)]))
        while stack:
            part = stack.pop()
            if isinstance(part, str):
                self._line.append(part) if part else self._end_block()
            elif part.name == "pre":
                self._end_block()
                self._add_block(part.get_text().strip("\r\n"))
            elif _HEADING.fullmatch(part.name):
                self._end_block()
                self._add_heading(part)
            elif part.name == "table" and (rows := _rows(part)):
                self._end_block()
                self._add_block("\n".join(rows))
            elif part.name in _INLINE:
                stack.extend(reversed([*_parts(part)]))
            else:
                # An empty string marks the border of a block.
                stack.extend(reversed(["", *_parts(part), ""]))

    def _add_heading(self, tag: Tag) -> None:
        for link in tag.find_all("a"):
            if str(link.get("href", "")).startswith("#") and _own_text(link) in _PERMALINKS:
                link.decompose()
        title = " ".join(tag.get_text().split())
        if title:
            start = self._length
            self._add_block(title)
            self._headings.append(Heading(int(tag.name[1]), title, start, self._length))

    def _end_block(self) -> None:
        block = " ".join("".join(self._line).split())
        self._line.clear()
        self._add_block(block)

    def _add_block(self, block: str) -> None:
        if block:
            self._blocks.append(block + "\n\n")
            self._length += len(block) + 2


def _rows(table: Tag) -> list[str]:
    """Return the rows of a table of values as lines; an empty list for a layout table."""
    if any(isinstance(node, Tag) and node.name in _STRUCTURE for node in _inside(table)):
        return []
    rows: list[list[list[str]]] = []
    # End tags of rows and cells may be missing; the parser then nests the next one in the last. So a
    # row or cell ends where the next begins.
    for node in _inside(table):
        if not isinstance(node, Tag):
            if rows and rows[-1] and _is_visible(node):
                rows[-1][-1].append(str(node))
        elif node.name == "tr":
            rows.append([])
        elif node.name in ("td", "th") and rows:
            rows[-1].append([])
        elif node.name in _BLOCKS and rows and rows[-1]:
            rows[-1][-1].append(" ")
    texts = [[" ".join("".join(cell).split()) for cell in row] for row in rows]
    if any(len(cell) > _LONGEST_CELL for row in texts for cell in row):
        return []
    return [" | ".join(filter(None, row)) for row in texts if any(row)]


def _is_visible(text: PageElement) -> bool:
    """Return whether a text is visible: not a comment, and not empty."""
    return (
        isinstance(text, NavigableString)
        and not isinstance(text, PreformattedString)
        and bool(text)
    )


def _inside(tag: Tag) -> Iterator[PageElement]:
    """Yield the nodes inside an element, in the order of the page.

    Why not a selector or `descendants`: they first walk to the root or to the last element, which
    is slow in nested tables.
    """
    waiting = tag.contents[::-1]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Tag):
            waiting.extend(reversed(node.contents))


def _own_text(tag: Tag) -> str | None:
    """Return the text of an element that contains only text, directly or in one child."""
    for node in tag.contents if len(tag.contents) == 1 else ():
        inner = node.contents if isinstance(node, Tag) else [node]
        if len(inner) == 1 and isinstance(inner[0], NavigableString):
            return str(inner[0]).strip()
    return None


def _parts(node: Tag) -> list[Tag | str]:
    """Return the visible children: elements and text, without comments."""
    parts: list[Tag | str] = []
    for child in node.children:
        if isinstance(child, Tag):
            parts.append(child)
        elif _is_visible(child):
            parts.append(str(child))
    return parts
