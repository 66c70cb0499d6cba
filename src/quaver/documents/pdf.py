"""The text of a PDF page by page, with the headings of its outline, by PDFium.

PDFium is Chrome's PDF reader and is fuzzed with it.
"""

from __future__ import annotations

import re

from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document
from quaver.errors import DocumentError, needs_extra

_ENCRYPTED = (4, 5)  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
_HYPHEN = re.compile("[\ufffe\x02\xad]\\s*")
_LINE_ENDS = re.compile(r"[ \t]*(?:\r\n|\r)")
_DEEPEST = 6
_ROUNDS = 3
"""Lines at the top, and at the bottom, that may be running titles and page numbers."""

_FEWEST = 3
"""Minimum number of nearby pages that share a line."""

_NEAR = 2
"""Maximum distance between two such pages: left and right pages have different titles."""

_SHORTEST_PAGE = 8
"""Lines. A shorter page loses a line without a page number only if most pages have it."""

_LONGEST_TITLE = 200
_NUMBER = re.compile(r"\d{1,5}|\b(?:[ivxlc]{1,8}|[IVXLC]{1,8})\b")
_BORDER = " -–—|/·•.,:[]()"  # noqa: RUF001
"""Characters allowed around a page number."""

_OF = re.compile(r"\s*(?:/|of|von|de|sur|di|z|из|\|)\s*\d+\W*")
"""Text allowed after a page number: the number of pages."""

_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


def pdf_document(content: bytes) -> Document:
    """Read a PDF.

    Args:
        content: the file.

    Returns:
        the document; `pages` says where each page begins. Running titles and page numbers are
        left out. A page that is only a picture has no text.

    Raises:
        DocumentError: the file is encrypted or broken.
        ImportError: the extra "files" is not installed.
    """
    with needs_extra("files"):
        import pypdfium2
    try:
        pdf = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if error.err_code in _ENCRYPTED:
            raise DocumentError("encrypted: save a copy without a password") from error
        raise DocumentError(f"broken: {error}") from error
    with pdf:
        pages = []
        for number in range(len(pdf)):
            try:
                text = pdf[number].get_textpage().get_text_range()
            except pypdfium2.PdfiumError as error:
                raise DocumentError(f"broken: page {number + 1}: {error}") from error
            pages.append(_LINE_ENDS.sub("\n", _HYPHEN.sub("", text)).strip("\n"))
        pages = _without_furniture(pages)
        starts = [0]
        for page in pages:
            starts.append(starts[-1] + len(page) + 2)
        headings = _headings(pdf, pages, starts)
    text = "\n\n".join(pages)
    return Document("", text, sections_between(text, headings), pages=tuple(starts[:-1]))


def _headings(pdf: object, pages: list[str], starts: list[int]) -> list[Heading]:
    """Find the entries of the outline in the text; place one that is not found at the top of its page."""
    headings: list[Heading] = []
    last = 0
    for bookmark in pdf.get_toc(max_depth=_DEEPEST):  # type: ignore[attr-defined]
        title = " ".join(bookmark.get_title().split())
        destination = bookmark.get_dest()
        number = destination.get_index() if destination is not None else None
        if not title or number is None or not 0 <= number < len(pages):
            continue
        words = r"\s+".join(map(re.escape, title.split()))
        # In the text, but not in the outline, a number (2.1) may precede it.
        found = re.compile(rf"^[ \t]*(?:[\dA-Z.]+[ \t]+)?{words}[ \t]*$", re.M).search(
            pages[number], max(last - starts[number], 0)
        )
        start, end = found.span() if found else (0, 0)
        start, end = starts[number] + start, starts[number] + end
        if start < last:  # skip entries of an outline that jumps back
            continue
        headings.append(Heading(bookmark.level, title, start, end))
        last = end
    return headings


def _without_furniture(pages: list[str]) -> list[str]:
    """Remove running titles and page numbers: lines that pages share at the top or bottom.

    Only the outermost lines are examined, so text that repeats inside pages stays. Numbers count as
    equal only if they grow with the pages, so rows of a table that continues are kept.
    """
    lines = [page.split("\n") for page in pages]
    for at in (0, -1):
        for _ in range(_ROUNDS):
            for number in _titled(lines, at):
                del lines[number][at]
    return ["\n".join(page).strip("\n") for page in lines]


def _titled(lines: list[list[str]], at: int) -> list[int]:
    """Return the pages whose first (or last) line is a running title or a page number."""
    same: dict[str, list[int]] = {}
    counted: dict[tuple[str, int], list[int]] = {}
    edged: dict[int, list[int]] = {}
    for number, page in enumerate(lines):
        line = " ".join(page[at].split()) if page else ""
        if not line or len(line) > _LONGEST_TITLE:
            continue
        same.setdefault(line, []).append(number)
        offsets = set[int]()
        for match in _NUMBER.finditer(line):
            before, after = line[: match.start()], line[match.end() :]
            if before.strip(_BORDER) and after.strip(_BORDER) and not _OF.fullmatch(after):
                continue
            offset = _value(match.group()) - number
            counted.setdefault((f"{before}#{after}", offset), []).append(number)
            offsets.add(offset)
        for offset in offsets:
            edged.setdefault(offset, []).append(number)
    found = set[int]()
    for members in same.values():
        many = len(members) >= max(_FEWEST + 1, len(lines) / 2)
        near = set(members if len(members) >= max(_FEWEST + 1, len(lines) / 3) else _near(members))
        found |= {
            n for n in near if len(lines[n]) >= _SHORTEST_PAGE or (many and len(lines[n]) > 2)
        }
    # If half of all pages have their number at the edge of this line, the line holds titles, even if
    # their words change.
    places = [members for members in edged.values() if len(members) >= max(4, len(lines) / 2)]
    for members in (*(m for m in counted.values() if len(m) >= _FEWEST), *places):
        found |= {
            n
            for n in members
            if len(lines[n]) > 1 or not _NUMBER.sub("", lines[n][at]).strip(_BORDER)
        }
    return sorted(found)


def _near(numbers: list[int]) -> list[int]:
    """Return the pages that have enough others nearby."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number - groups[-1][-1] <= _NEAR:
            groups[-1].append(number)
        else:
            groups.append([number])
    return [number for group in groups if len(group) >= _FEWEST for number in group]


def _value(digits: str) -> int:
    """Return the value of a number, Arabic or Roman."""
    if digits.isdecimal():
        return int(digits)
    values = [_ROMAN[digit] for digit in digits.lower()]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < following else value for value, following in pairs)
