"""Sections of Org files.

Why not orgparse: it returns text without offsets. The rule for headlines is simple: a line that
begins with asterisks and a space. Inside a block, such a line is escaped by a comma.
"""

from __future__ import annotations

import re

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Section

_HEADLINE = re.compile(r"^(\*+)[ \t]+(\S[^\r\n]*)(?:\r\n?|\n|\Z)", re.MULTILINE)
_TITLE = re.compile(r"^#\+title:[ \t]*(\S[^\r\n]*)(?:\r\n?|\n|\Z)", re.MULTILINE | re.IGNORECASE)
_STATE = re.compile(r"(?:TODO|DONE|NEXT|WAITING|CANCELL?ED)[ \t]+|\[#[A-Z0-9]\][ \t]*")
_TAGS = re.compile(r":[\w@#%:]+:")
_LINK = re.compile(r"\[\[[^\[\]]*\]\[([^\[\]]*)\]\]")


def org_sections(text: str) -> tuple[Section, ...]:
    """Find the sections of an Org file.

    Args:
        text: the decoded file.

    Returns:
        the sections in order; offsets are exact characters of `text`. `#+TITLE` is the
        outermost heading; states, priorities and tags are removed from headings.

    Source:
        Org syntax, "Headings".
    """
    title = _TITLE.search(text)
    headings = [] if title is None else [Heading(0, title[1].strip(), title.start(), title.end())]
    for found in _HEADLINE.finditer(text, 0 if title is None else title.end()):
        name, _, last = found[2].rstrip().rpartition(" ")
        if not name or not _TAGS.fullmatch(last.strip()):
            name = found[2]
        while state := _STATE.match(name):
            name = name[state.end() :]
        name = " ".join(_LINK.sub(r"\1", name).split())
        if name:
            headings.append(Heading(len(found[1]), name, found.start(), found.end()))
    return sections_between(text, headings)
