r"""Sections of LaTeX.

Why not pylatexenc: it needs 40 seconds per megabyte, longer than embedding the text takes, drops
the output of the document's own macros, and returns text without offsets. Models can read LaTeX;
only the headings must be found.
"""

from __future__ import annotations

import re

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Section

_LEVELS = ("title", "part", "chapter", "section", "subsection", "subsubsection", "paragraph")
_COMMAND = re.compile(
    r"\\(" + "|".join(_LEVELS) + r")\*?[ \t]{0,20}(?:\[[^\[\]]{0,500}\])?[ \t]{0,20}\{"
)
_VERBATIM = re.compile(r"\\begin\{(verbatim\*?|lstlisting|minted|Verbatim|comment)\}")
_BEGIN, _END = r"\begin{document}", r"\end{document}"
_MARKUP = re.compile(
    r"\\(?:label|footnote|thanks|index)\{[^{}]{0,500}\}|\\[a-zA-Z]+\*?[ \t]?|[{}$]"
)
_SIGNS = {r"\&": "&", r"\%": "%", r"\_": "_", r"\#": "#", r"\$": "$", "~": " ", r"\\": " "}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_DASHES = re.compile("---?")
_LONGEST_TITLE = 1000
_LINE_END = re.compile(r"[ \t]*(?:\r\n?|\n)?")


def tex_sections(text: str) -> tuple[Section, ...]:
    r"""Find the sections of a LaTeX file.

    Args:
        text: the decoded file.

    Returns:
        the sections in order; offsets are exact characters of `text`. The document's title is the
        outermost heading. The text before `\begin{document}` and after `\end{document}` is left
        out; a file without them is read completely.

    Source:
        LaTeX2e: An unofficial reference manual, "Sectioning".
    """
    start = text.find(_BEGIN) + len(_BEGIN) if _BEGIN in text else 0
    end = text.find(_END, start)
    body = text if end < 0 else text[:end]
    headings: list[Heading] = []
    passed = 0
    verbatim = _listings(body)
    for found in _COMMAND.finditer(body):
        at = found.start()
        while verbatim and verbatim[-1][1] <= at:
            verbatim.pop()
        inside = bool(verbatim) and verbatim[-1][0] <= at
        if at < passed or inside or _is_comment(body, at):
            continue
        closing = _closing(body, found.end())
        if closing is None:
            continue
        title = _plain(body[found.end() : closing])
        if found[1] != "title" and at < start:  # the definition of a command
            continue
        if title:
            line = _LINE_END.match(body, closing + 1)
            passed = closing + 1 if line is None else line.end()
            # A title in the preamble is the heading of the text after the preamble.
            begin = max(at, start)
            headings.append(Heading(_LEVELS.index(found[1]), title, begin, max(passed, start)))
    return sections_between(body, headings, start)


def _listings(text: str) -> list[tuple[int, int]]:
    """Return the spans of listings and comments, last first."""
    found = []
    at = 0
    ends: dict[str, bool] = {}  # environments without an end from here on
    for begin in _VERBATIM.finditer(text):
        if begin.start() < at or begin[1] in ends:
            continue
        closing = text.find(f"\\end{{{begin[1]}}}", begin.end())
        if closing < 0:
            ends[begin[1]] = True
            continue
        found.append((begin.start(), closing))
        at = closing
    return found[::-1]


def _is_comment(text: str, at: int) -> bool:
    """Return whether a percent sign precedes this place in its line."""
    line = text[max(0, at - _LONGEST_TITLE) : at].rpartition("\n")[2]
    return re.search(r"(?<!\\)(?:\\\\)*%", line) is not None


def _closing(text: str, start: int) -> int | None:
    """Return the position of the closing brace that matches the one before `start`."""
    depth = 1
    for at in range(start, min(len(text), start + _LONGEST_TITLE)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if not depth:
                return at
    return None


def _plain(title: str) -> str:
    """Remove markup from a title."""
    title = _SIGN.sub(lambda sign: _SIGNS[sign.group()], title)
    return " ".join(_DASHES.sub("–", _MARKUP.sub("", title)).split())  # noqa: RUF001
