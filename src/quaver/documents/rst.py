"""Sections of reStructuredText, Sphinx sources included.

Why not docutils: it knows none of Sphinx's roles and directives and drops the text inside them, it
returns lines but no character offsets, and it needs 3.3 seconds per megabyte, as long as embedding
the text. Only headings are needed here, and their rule is short. In 496 sources of the Python 3.11
documentation this scanner finds exactly the 4560 headings that docutils finds.
"""

from __future__ import annotations

import re
from dataclasses import replace

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Section

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")
# A role cannot begin inside another: otherwise each colon of ":a:a:a" would be tried.
_MARKUP = re.compile(
    r"(?:(?:(?<![\w:.+-]):[\w:.+-]+:)?`{1,2}~?|\*{1,2}(?=\S))([^`*]+?)(?:`{1,2}_{0,2}|\*{1,2})"
)
_DASHES = re.compile(r"(?<=\s)---?(?=\s)")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_TARGET = re.compile(r"[ \t]*(?:\.\.(?: _[^\r\n]*:)?[ \t]*)?")


def rst_sections(text: str) -> tuple[Section, ...]:
    """Find the sections of a reStructuredText document.

    A heading is a line of text with a line of one repeated punctuation character below it, at least
    as long as the text, and perhaps the same line above. The order in which these styles first
    occur gives the levels.

    Args:
        text: the decoded file.

    Returns:
        the sections in order; offsets are exact characters of `text`. Link targets between a
        section and the next heading belong to that heading and are left out.

    Source:
        docutils, "reStructuredText Markup Specification", section "Sections".
    """
    lines = [(match.start(), match.group().rstrip("\r\n")) for match in _LINE.finditer(text)]
    levels: list[str] = []
    headings: list[Heading] = []
    row = 0
    while row < len(lines):
        found = _heading_at(lines, row)
        if found is None:
            row += 1
            continue
        style, title, rows = found
        if style not in levels:
            levels.append(style)
        end = lines[row + rows][0] if row + rows < len(lines) else len(text)
        headings.append(Heading(levels.index(style), _plain(title), lines[row][0], end))
        row += rows
    return tuple(_without_targets(text, section) for section in sections_between(text, headings))


def _heading_at(lines: list[tuple[int, str]], row: int) -> tuple[str, str, int] | None:
    """Return (style, title, rows) of the heading that starts in this row, or None."""
    line = lines[row][1]
    above = lines[row - 1][1] if row else ""
    below = lines[row + 1][1] if row + 1 < len(lines) else ""
    if _ADORNMENT.match(line):
        under = lines[row + 2][1].rstrip() if row + 2 < len(lines) else ""
        title = below.strip()
        if (
            under == line.rstrip()
            and title
            and not _ADORNMENT.match(below)
            and len(under) >= len(title)
        ):
            return f"over {line[0]}", title, 3
        return None
    title = line.rstrip()
    # Indented text is never a heading, and text directly below other text is the last line of a
    # paragraph or a table.
    if not title or line[0] in " \t" or above.strip() or not _ADORNMENT.match(below):
        return None
    # docutils also accepts, with a warning, an underline that is too short if it has at least four
    # characters.
    width = len(below.rstrip())
    return (f"under {below[0]}", title, 2) if width >= min(len(title), 4) and width > 1 else None


def _plain(title: str) -> str:
    """Remove markup from a title: a role keeps only its text, and `---` becomes a dash."""
    return _DASHES.sub("—", _MARKUP.sub(r"\1", title))


def _without_targets(text: str, section: Section) -> Section:
    """Remove link targets (`.. _name:`) and blank lines from the end of a section."""
    end = section.end
    while end > section.start:
        last = end - (text[end - 1] in "\r\n")
        last -= text[last - 1 : end] == "\r\n"
        begin = max(text.rfind("\n", section.start, last) + 1, section.start)
        begin = max(text.rfind("\r", begin, last) + 1, begin)
        if not _TARGET.fullmatch(text, begin, last):
            break
        end = begin
    return section if end == section.end else replace(section, end=end)
