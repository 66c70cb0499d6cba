"""Sections of AsciiDoc files. Its maintained processors are not written in Python."""

from __future__ import annotations

import re

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Section

_LINE = re.compile(r"([^\r\n]*)(\r\n?|\n|\Z)")
_HEADING = re.compile(r"(={1,6}|#{1,6})[ \t]+(\S.*)")
_BLOCK = re.compile(r"(?:-{4,}|\.{4,}|\+{4,}|/{4,}|={4,}|\*{4,}|_{4,}|`{3,}|\|===+|--)[ \t]*")
_STYLE = re.compile(r"\[(?:discrete|float)\b")
_VERBATIM = "-.+/`|"


def asciidoc_sections(text: str) -> tuple[Section, ...]:
    """Find the sections of an AsciiDoc file.

    Args:
        text: the decoded file.

    Returns:
        the sections in order; offsets are exact characters of `text`. The document's title is the
        outermost heading. Headings in listings, examples and other blocks, and discrete headings,
        do not begin a section.

    Source:
        AsciiDoc language documentation, "Section Titles and Levels", "Delimited Blocks".
    """
    headings: list[Heading] = []
    open_blocks: list[str] = []
    above = ""
    for line in _LINE.finditer(text):
        content = line[1].rstrip()
        if _BLOCK.fullmatch(content) and content != "--":
            if content in open_blocks:
                del open_blocks[open_blocks.index(content) :]
            elif not (open_blocks and open_blocks[-1][0] in _VERBATIM):
                open_blocks.append(content)
        elif not open_blocks and (found := _HEADING.fullmatch(content)) and not _STYLE.match(above):
            title = " ".join(found[2].removesuffix(found[1]).split())
            headings.append(Heading(len(found[1]), title, line.start(), line.end()))
        above = content
        if line.end() == len(text):
            break
    return sections_between(text, headings)
