"""Sections of Markdown, by markdown-it-py, which knows that `# this` in code is not a heading."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt

from quaver.documents.outline import LONGEST_TITLE, Heading, sections_between
from quaver.documents.passage import Section

_FRONT_MATTER = re.compile(
    r"---[ \t]*(?:\r\n?|\n).*?^(?:---|\.\.\.)[ \t]*(?:\r\n?|\n|\Z)", re.DOTALL | re.MULTILINE
)
_LINE_END = re.compile(r"\r\n?|\n")


def markdown_sections(text: str) -> tuple[Section, ...]:
    """Find the sections of a Markdown document.

    Args:
        text: the decoded file. Front matter (YAML between two lines of `---` at the top) is
        skipped: CommonMark would read it as a heading.

    Returns:
        the sections in order; offsets are exact characters of `text`.

    Source:
        CommonMark 0.31, "ATX headings" and "Setext headings".
    """
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    return sections_between(text, markdown_headings(text, begin), start=begin)


def markdown_headings(text: str, begin: int = 0) -> list[Heading]:
    """Find the headings of a Markdown document.

    Args:
        text: the document.
        begin: where its Markdown begins.

    Returns:
        the top-level headings with a title; offsets are characters of `text`.
    """
    # The parser counts lines in the same way: \r\n, \n and a lone \r each end one.
    starts = [begin, *(match.end() for match in _LINE_END.finditer(text, begin))]
    # Only the words of headings are needed. Paragraphs are not parsed inside: on some texts ("[[[[")
    # that takes quadratic time.
    parser = MarkdownIt("commonmark").disable("inline")
    environment: dict[str, Any] = {}
    tokens = parser.parse(text[begin:], environment)
    parser.enable("inline")
    headings = []
    for token, inline in pairwise(tokens):
        # A heading inside a list or a quotation (level > 0) does not begin a section.
        if token.type != "heading_open" or token.level > 0 or token.map is None:
            continue
        first, last = token.map
        end = starts[last] if last < len(starts) else len(text)
        (parsed,) = parser.parseInline(inline.content[:LONGEST_TITLE], environment)
        title = "".join(
            part.content or " " for part in parsed.children or () if part.type in _WITH_TEXT
        )
        headings.append(Heading(int(token.tag[1]), " ".join(title.split()), starts[first], end))
    return [heading for heading in headings if heading.title]


_WITH_TEXT = frozenset({"text", "code_inline", "softbreak", "hardbreak", "image"})
