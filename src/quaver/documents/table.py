"""Tables as text: .csv and .tsv by the standard library, spreadsheets by calamine.

If the first row can be column names, each row becomes one line with names and values,
`name: Ada; born: 1815`: a passage from the middle of a table is then clear on its own.

Why not openpyxl: no release since 2024, and only .xlsx.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from quaver.documents.archive import check_office
from quaver.documents.limits import LIMITS
from quaver.documents.outline import Heading, sections_between
from quaver.documents.passage import Document
from quaver.errors import DocumentError, needs_extra

_SAMPLE = 65_536


def csv_document(text: str) -> Document:
    """Read comma- (or semicolon-, or tab-) separated values.

    Args:
        text: the decoded file.

    Returns:
        the document, one section.

    Raises:
        DocumentError: the rows cannot be parsed.
    """
    csv.field_size_limit(LIMITS.characters)
    try:
        delimiter = _delimiter(text[:_SAMPLE])
        table = table_text(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DocumentError(f"broken: {error}") from error
    return Document("", table, sections_between(table, ()))


def _delimiter(sample: str) -> str:
    """Return the delimiter for which most rows of a sample have the same number of columns.

    Why not `csv.Sniffer`: its regular expressions need minutes for 20 KB of quotation marks.
    """
    best, kept = (0.0, 0), ","
    for delimiter in ",;\t|":
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        widths = Counter(len(row) for row in rows if row)
        width, most = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        share = most / max(widths.total(), 1)
        if width > 1 and (share, width) > best:
            best, kept = (share, width), delimiter
    return kept


def sheets_document(content: bytes) -> Document:
    """Read a spreadsheet: .xlsx, .xlsb, .xls or .ods.

    Args:
        content: the file.

    Returns:
        the document; each sheet's name is the heading of its rows. Cells have their values, not
        their formulas.

    Raises:
        DocumentError: the file is encrypted, broken or refused.
        ImportError: the extra "files" is not installed.
    """
    with needs_extra("files"):
        import python_calamine as calamine
    if content.startswith(b"PK"):
        check_office(content)
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheets = [
            (name, table_text(map(_plain, book.get_sheet_by_name(name).iter_rows())))
            for name in book.sheet_names
        ]
    except calamine.PasswordError as error:
        raise DocumentError("encrypted: save it without a password") from error
    except calamine.CalamineError as error:
        raise DocumentError(f"broken: {error}") from error
    text = ""
    headings = []
    for name, table in sheets:
        if table:
            start = len(text)
            text += f"{name}\n"
            headings.append(Heading(0, name, start, len(text)))
            text += f"{table}\n\n"
    return Document("", text, sections_between(text, headings))


def table_text(rows: Iterable[Sequence[str]]) -> str:
    """Convert a table to lines.

    Args:
        rows: the cells of each row.

    Returns:
        one line for each row that is not empty.
    """
    filled = ([" ".join(cell.split()) for cell in row] for row in rows)
    kept: Iterator[list[str]] = (row for row in filled if any(row))
    first = next(kept, None)
    if first is None:
        return ""
    names = first if _are_names(first) else []
    lines = [row_text(first)]
    for row in kept:
        if len(row) <= len(names):
            cells = zip(names, row, strict=False)
            lines.append("; ".join(f"{name}: {cell}" for name, cell in cells if cell))
        else:
            lines.append(row_text(row))
    return "\n".join(lines)


def row_text(cells: Iterable[str]) -> str:
    """Convert a row without column names to a line.

    Args:
        cells: the cells.

    Returns:
        one line; empty cells are left out.
    """
    return " | ".join(filter(None, (" ".join(cell.split()) for cell in cells)))


def _are_names(row: list[str]) -> bool:
    """Return whether a first row can be column names: none missing, repeated or a number."""
    return (
        len(row) > 1
        and len(set(row)) == len(row)
        and all(cell and not cell[0].isdigit() and len(cell) <= 60 for cell in row)
    )


def _plain(row: Sequence[object]) -> list[str]:
    """Return the cells as people see them: 3 for 3.0."""
    return [
        str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
        for cell in row
    ]
