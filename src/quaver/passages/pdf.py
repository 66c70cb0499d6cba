"""The text of a PDF page by page, with the headings of its outline, by PDFium.

PDFium is the reader of Chrome, and is fuzzed like it.
"""

from __future__ import annotations

import re

from quaver.errors import DocumentError
from quaver.extras import needs_extra
from quaver.passages.outline import Heading, sections_between
from quaver.passages.passage import Document

_ENCRYPTED = (4, 5)  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
_HYPHEN = re.compile("[\ufffe\x02\xad]\\s*")
_LINE_ENDS = re.compile(r"[ \t]*(?:\r\n|\r)")
_DEEPEST = 6
_FURNITURE = 4
"""On as many pages, and a third of all, a line must stand to be a running title."""

_SHORTEST_PAGE = 8
"""Lines; of a shorter page nothing is taken away."""

_PAGE_NUMBER = re.compile(r"^\W*(?:\d+|[ivxlc]+)\b|\b(?:\d+|[ivxlc]+)\W*$")


def pdf_document(content: bytes) -> Document:
    """Reads a PDF.

    Args:
        content: The file.

    Returns:
        The document; ``pages`` says where each page begins. Lines that stand at the top or the foot
        of most pages (running titles, page numbers) are left out. A page that is only a picture has
        no text.

    Raises:
        DocumentError: The file is encrypted or broken.
        ImportError: The extra "files" is not installed.
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
    """Finds the entries of the outline in the text; one that is not found begins its page."""
    headings: list[Heading] = []
    last = 0
    for bookmark in pdf.get_toc(max_depth=_DEEPEST):  # type: ignore[attr-defined]
        title = " ".join(bookmark.get_title().split())
        destination = bookmark.get_dest()
        number = destination.get_index() if destination is not None else None
        if not title or number is None or not 0 <= number < len(pages):
            continue
        words = r"\s+".join(map(re.escape, title.split()))
        # Its own number (2.1) may stand before it in the text and not in the outline.
        found = re.compile(rf"^[ \t]*(?:[\dA-Z.]+[ \t]+)?{words}[ \t]*$", re.M).search(
            pages[number], max(last - starts[number], 0)
        )
        start, end = found.span() if found else (0, 0)
        start, end = starts[number] + start, starts[number] + end
        if start < last:  # an outline that jumps back gives no sections
            continue
        headings.append(Heading(bookmark.level, title, start, end))
        last = end
    return headings


def _without_furniture(pages: list[str]) -> list[str]:
    """Takes away first and last lines that, but for the page's number, most pages share."""
    lines = [page.split("\n") for page in pages]
    long = [page for page in lines if len(page) >= _SHORTEST_PAGE]
    for at in (0, -1):
        for _ in range(2):
            seen: dict[str, int] = {}
            for page in long:
                key = _PAGE_NUMBER.sub("#", page[at])
                seen[key] = seen.get(key, 0) + 1
            least = max(_FURNITURE, len(pages) / 3)
            for page in long:
                if seen[_PAGE_NUMBER.sub("#", page[at])] >= least:
                    del page[at]
    return ["\n".join(page).strip("\n") for page in lines]
