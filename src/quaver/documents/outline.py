"""Turn headings with levels into sections with heading paths; shared by all formats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from quaver.documents.passage import Section

LONGEST_TITLE = 1_000
"""Characters. Every passage carries its heading, so a longer heading is cut at the end."""


@dataclass(frozen=True)
class Heading:
    """A heading in a text.

    Attributes:
        level: 0 is the outermost; levels may be skipped.
        title: one line, without the heading's markup; cut to `LONGEST_TITLE` characters.
        start: where the heading begins; the section before it ends here.
        end: where its own section's body begins.
    """

    level: int
    title: str
    start: int
    end: int


def sections_between(
    text: str, headings: Iterable[Heading], start: int = 0, *, alone: bool = False
) -> tuple[Section, ...]:
    """Cut a text at its headings.

    Args:
        text: the whole text.
        headings: in the order of the text.
        start: first character that belongs to a section (metadata before it is left out).
        alone: whether a heading without text below it is a section of its own, as on a slide.

    Returns:
        one section per heading, and one before the first heading, each with the headings above it.
        Sections with only white space are left out. A text of only headings is one section without
        headings.
    """
    begin = start
    sections: list[Section] = []
    open_headings: list[Heading] = []

    def close(end: int) -> None:
        if text[start:end].strip():
            sections.append(Section(tuple(heading.title for heading in open_headings), start, end))
        elif alone and open_headings and text[open_headings[-1].start : start].strip():
            above = tuple(heading.title for heading in open_headings[:-1])
            sections.append(Section(above, open_headings[-1].start, start))

    for heading in headings:
        close(heading.start)
        while open_headings and open_headings[-1].level >= heading.level:
            open_headings.pop()
        open_headings.append(replace(heading, title=heading.title[:LONGEST_TITLE]))
        start = heading.end
    close(len(text))
    if not sections and text[begin:].strip():
        sections.append(Section((), begin, len(text)))
    return tuple(sections)
