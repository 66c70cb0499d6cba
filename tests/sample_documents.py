"""Real documents for tests, written by the libraries that write them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

_CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf"/></rootfiles></container>'
)


def write_pdf(pages: Sequence[Sequence[str]], *, password: str | None = None) -> bytes:
    """A PDF; a line that starts with "# " is also an entry of the outline, without the "# "."""
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file, encrypt=None if password is None else StandardEncryption(password))
    for page in pages:
        for number, line in enumerate(page):
            if line.startswith("# "):
                key = f"{canvas.getPageNumber()}-{number}"
                canvas.bookmarkPage(key)
                canvas.addOutlineEntry(line[2:], key, 0)
            canvas.drawString(72, 800 - 14 * number, line.removeprefix("# "))
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def write_docx() -> bytes:
    """A Word document with a title, headings, a list and a table."""
    import docx

    document = docx.Document()
    document.add_heading("Handbook", 0)
    document.add_paragraph("For everyone.")
    document.add_heading("Tea", 1)
    document.add_paragraph("Boil the water.")
    document.add_paragraph("leaves", style="List Bullet")
    document.add_heading("Green", 2)
    table = document.add_table(2, 2)
    for row, cells in enumerate((("kind", "degrees"), ("sencha", "70"))):
        for column, cell in enumerate(cells):
            table.cell(row, column).text = cell
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def write_pptx() -> bytes:
    """Slides: with notes, with a table in a group's company, without a title, with only a title."""
    import pptx
    from pptx.util import Inches

    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Plan"
    first.placeholders[1].text = "measure\nthen cut"
    first.notes_slide.notes_text_frame.text = "Say hello."
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Costs"
    size = [Inches(2)] * 4
    table = second.shapes.add_table(1, 2, *size).table
    table.cell(0, 0).text, table.cell(0, 1).text = "wood", "12"
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(*size).text_frame.text = "in a group"
    third = deck.slides.add_slide(deck.slide_layouts[6])
    third.shapes.add_textbox(*size).text_frame.text = "no title"
    deck.slides.add_slide(deck.slide_layouts[5]).shapes.title.text = "Questions?"
    deck.slides.add_slide(deck.slide_layouts[6])
    file = io.BytesIO()
    deck.save(file)
    return file.getvalue()


def write_xlsx(
    sheets: Mapping[str, Sequence[Sequence[object]]], *, far_cell: bool = False
) -> bytes:
    """A workbook; ``far_cell`` puts a value into the last cell that there can be."""
    import xlsxwriter

    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"in_memory": True}) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
            if far_cell:
                sheet.write(1_048_575, 16_383, "far")
    return file.getvalue()


def write_zip(members: Mapping[str, str | bytes]) -> bytes:
    """An archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def epub_members(chapters: Mapping[str, str], *, title: str = "Book") -> dict[str, str | bytes]:
    """The members of an e-book; the spine has the chapters in reverse order of the manifest."""
    items = "".join(
        f'<item id="{name}" href="text/{name}.xhtml" media-type="application/xhtml+xml"/>'
        for name in reversed(chapters)
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    pages = {f"OPS/text/{name}.xhtml": body for name, body in chapters.items()}
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": _CONTAINER,
        "OPS/book.opf": package,
        **pages,
    }


def write_epub(chapters: Mapping[str, str]) -> bytes:
    """An e-book."""
    return write_zip(epub_members(chapters))


EMAIL = b"""\
From: Ada <ada@example.org>
To: Bob <bob@example.org>
Subject: =?utf-8?q?Tee_f=C3=BCr_alle?=
Date: Mon, 1 Jun 2026 10:00:00 +0000
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/html; charset=utf-8

<p>Hello <b>Bob</b>,</p><p>tea at <i>four</i>.</p><script>no</script>
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename="menu.pdf"

%PDF
--b--
"""


_ODF = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" '
    'xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0" '
    'xmlns:presentation="urn:oasis:names:tc:opendocument:xmlns:presentation:1.0" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"'
)


def write_open_document(body: str, *, manifest: str = "<manifest/>", before: str = "") -> bytes:
    """An OpenDocument file: what its <office:body> holds, in the prefixes that LibreOffice writes."""
    content = (
        f"{before}<office:document-content {_ODF}><office:automatic-styles>"
        '<style:style style:name="P1" style:family="paragraph" style:parent-style-name="Title"/>'
        f"</office:automatic-styles><office:body>{body}</office:body></office:document-content>"
    )
    return write_zip({"content.xml": content, "META-INF/manifest.xml": manifest})


ODT = (
    "<office:text><text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
    '<text:p text:style-name="P1">Handbook</text:p><text:p>For<text:s text:c="2"/>every<text:span>one'
    "</text:span>.<text:note><text:note-body><text:p>A note.</text:p></text:note-body></text:note>"
    "<office:annotation><text:p>a comment</text:p></office:annotation></text:p>"
    '<text:h text:outline-level="1">Tea</text:h><text:list><text:list-item><text:p>leaves</text:p>'
    "</text:list-item></text:list><text:p><draw:frame><draw:text-box><text:p>In a box.</text:p>"
    '</draw:text-box></draw:frame></text:p><text:h text:outline-level="2">Green</text:h>'
    "<table:table><table:table-row><table:table-cell><text:p>sencha</text:p></table:table-cell>"
    "<table:table-cell><text:p>70</text:p></table:table-cell></table:table-row></table:table>"
    "</office:text>"
)
ODP = (
    '<office:presentation><draw:page><draw:frame presentation:class="title"><draw:text-box>'
    "<text:p>Plan</text:p></draw:text-box></draw:frame><draw:frame><draw:text-box><text:p>measure"
    "</text:p></draw:text-box></draw:frame><presentation:notes><draw:frame><draw:text-box><text:p>"
    "Say hello.</text:p></draw:text-box></draw:frame></presentation:notes></draw:page><draw:page>"
    "<draw:frame><draw:text-box><text:p>no title</text:p></draw:text-box></draw:frame></draw:page>"
    "</office:presentation>"
)
RTF = (
    rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0 Arial;}}{\info{\title hidden}}\f0 Gr\'fc\'dfe \b bold"
    rb"\b0\par Second \u-10179?\u-8704? line\par{\pict\pngblip 89504e47}\trowd sencha\cell 70\cell\row}"
)
NOTEBOOK = {
    "nbformat": 4,
    "metadata": {"kernelspec": {"language": "python", "name": "python3"}},
    "cells": [
        {"cell_type": "markdown", "source": ["# Tea\n", "\n", "Boil it. ```"]},
        {
            "cell_type": "code",
            "source": "# no heading\nprint('```')",
            "outputs": [
                {"output_type": "stream", "text": ["70\n", "80\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBORw", "text/plain": "<F>"}},
                {"output_type": "execute_result", "data": {"text/plain": "x" * 5000}},
            ],
        },
        {"cell_type": "markdown", "source": "## Green"},
        {
            "cell_type": "code",
            "source": "1 / 0",
            "outputs": [
                {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "by zero",
                 "traceback": ["\x1b[31mlong\x1b[0m"]}
            ],
        },
        {"cell_type": "raw", "source": "raw"},
    ],
}  # fmt: skip
MANUAL = r""".\" A comment
.TH TEA 1 "2026" "brew 1.0"
.SH NAME
tea \- make \fItea\fR
.SH SYNOPSIS
.B tea
[\fIOPTION\fR]...
.SH OPTIONS
.TP
.BR \-g ", " \-\-green
make it green;
see
.BR coffee (1).
.IP \(bu 4
with milk
.if t \{\
never on a terminal
.\}
.PP
Example:
.nf
tea \-g  \e
   \-\-hot
.fi
.TS
tab(;);
l l.
sencha;70
T{
black
tea
T};100
.TE
.SS "More on it"
.de XX
not text
..
\(lqWell\(rq \(em caf\['e].
"""
MDOC = r""".Dd June 1, 2026
.Dt TEA 8
.Os
.Sh NAME
.Nm tea
.Nd make tea
.Sh SYNOPSIS
.Nm
.Op Fl gh
.Op Fl t Ar minutes
.Ar cup ...
.Sh DESCRIPTION
.Nm
boils water, see
.Xr coffee 1 ,
or
.Dq brew .
.Bl -tag -width Ds
.It Fl t Ar minutes
Wait.
.El
"""
