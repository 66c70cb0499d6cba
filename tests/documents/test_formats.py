"""Formats beside text and HTML: what is read, its headings, pages and metadata."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from quaver.documents import (
    Converter,
    Document,
    Selection,
    read_document,
    scan_folder,
    split,
)
from quaver.documents.formats import FORMATS, GZIP_ENDING, SUPPORTED_ENDINGS
from quaver.documents.limits import LIMITS
from quaver.documents.recognize import ending_for
from quaver.errors import DocumentError
from quaver.store import Manifest
from quaver.store.memory import MemoryStore
from sample_documents import (
    EMAIL,
    MANUAL,
    MDOC,
    NOTEBOOK,
    ODP,
    ODT,
    RTF,
    write_docx,
    write_epub,
    write_open_document,
    write_pdf,
    write_pptx,
    write_xlsx,
    write_zip,
)


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter() as worker:
        yield worker


def outline(document: Document) -> list[tuple[str, str]]:
    """Each section as (heading path, body without outer white space)."""
    return [
        (" > ".join(section.headings), document.text[section.start : section.end].strip())
        for section in document.sections
    ]


class Words:
    """Counts words as tokens."""

    def count(self, text: str) -> int:
        return len(text.split())

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [self.count(text) for text in texts]

    def token_ends(self, text: str) -> list[int]:
        return [word.end() for word in re.finditer(r"\S+", text)]


def test_pdf_has_pages_and_the_headings_of_its_outline(converter: Converter) -> None:
    pages = [
        ["# Tea", "Boil the water and", "wait some min-", "utes or so."],
        ["It goes on here.", "# Coffee", "Grind the beans."],
        ["The last page."],
    ]
    document = converter.convert(".pdf", write_pdf(pages))
    assert outline(document) == [
        ("Tea", "Boil the water and\nwait some minutes or so.\n\nIt goes on here."),
        ("Coffee", "Grind the beans.\n\nThe last page."),
    ]
    assert [document.text[start:][:6] for start in document.pages] == [
        "Tea\nBo",
        "It goe",
        "The la",
    ]
    passages = split(document, Words(), 13)
    assert [(p.text.split("\n")[0], p.metadata) for p in passages] == [
        ("Boil the water and", {"page": 1}),
        ("It goes on here.", {"page": 2}),
        ("Grind the beans.", {"page": 2}),
    ]
    assert all(document.text[p.start : p.end] == p.text for p in passages)


def test_pdf_loses_running_titles_and_page_numbers(converter: Converter) -> None:
    pages = [
        [f"Manual {n}", *(f"line {n}.{row} of its own {'x' * row}" for row in range(8)), f"- {n} -"]
        for n in range(1, 7)
    ]
    document = converter.convert(".pdf", write_pdf(pages))
    assert "Manual" not in document.text
    assert "- 3 -" not in document.text
    assert document.text.count("of its own") == 48


def test_pdf_without_text_is_empty(converter: Converter) -> None:
    assert converter.convert(".pdf", write_pdf([[]])).sections == ()


def test_docx_has_headings_lists_and_tables(converter: Converter) -> None:
    assert outline(converter.convert(".docx", write_docx())) == [
        ("Handbook", "For everyone."),
        ("Handbook > Tea", "Boil the water.\n\nleaves"),
        ("Handbook > Tea > Green", "kind | degrees\nsencha | 70"),
    ]


def test_pptx_has_slides_notes_tables_and_groups(converter: Converter) -> None:
    document = converter.convert(".pptx", write_pptx())
    assert outline(document) == [
        ("Plan", "measure\nthen cut\n\nSay hello."),
        ("Costs", "wood | 12\n\nin a group"),
        ("", "no title"),
        ("", "Questions?"),
    ]
    assert [p.metadata["page"] for p in split(document, Words(), 50)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "content", "body"),
    [
        (
            "a.md",
            "---\nx: y\n---\n# Only heading\n\n## And another\n",
            "# Only heading\n\n## And another",
        ),
        ("a.rst", "Only heading\n============\n", "Only heading\n============"),
        ("a.html", "<h1>Only heading</h1><h2></h2>", "Only heading"),
        ("a.md", "---\nx: y\n---\n\n", None),
        ("a.html", "<h1> </h1>", None),
    ],
)
def test_headings_are_text_where_there_is_no_other(
    tmp_path: Path, name: str, content: str, body: str | None
) -> None:
    (tmp_path / name).write_text(content)
    document = read_document(tmp_path / name)
    assert outline(document) == ([] if body is None else [("", body)])
    assert [passage.text for passage in split(document, Words(), 50)] == ([body] if body else [])


def test_xlsx_names_sheets_and_columns(converter: Converter) -> None:
    people = [["name", "born"], ["Ada", 1815], ["Alan", 1912.5], ["", ""], ["Kurt", None]]
    sheets = {"People": people, "Empty": [], "Numbers": [[1, 2], [3, 4]]}
    assert outline(converter.convert(".xlsx", write_xlsx(sheets))) == [
        ("People", "name | born\nname: Ada; born: 1815\nname: Alan; born: 1912.5\nname: Kurt"),
        ("Numbers", "1 | 2\n3 | 4"),
    ]


def test_epub_has_chapters_in_reading_order(converter: Converter) -> None:
    book = write_epub(
        {
            "one": "<html><body><h1>Book</h1><p>Preface &undefined here.</p></body></html>",
            "two": "<html><body><h2>Sea</h2><p>Call me.</p></body></html>",
        }
    )
    document = converter.convert(".epub", book)
    assert outline(document) == [("Book", "Preface &undefined here."), ("Book > Sea", "Call me.")]


def test_email_has_its_subject_people_and_text(converter: Converter) -> None:
    document = converter.convert(".eml", EMAIL)
    ((heading, body),) = outline(document)
    assert heading == "Tee für alle"
    assert body.startswith("From: Ada <ada@example.org>\nTo: Bob <bob@example.org>\nDate: Mon")
    assert body.endswith("\n\nHello Bob,\n\ntea at four.\n\nAttachment: menu.pdf")
    assert document.metadata["from"] == "Ada <ada@example.org>"


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (b"Mon, 1 Jun 2026 10:00:00 +0200", "2026-06-01T10:00:00+02:00"),
        (b"1 Jun 2026 10:00 -0000", "2026-06-01T10:00:00"),
        (b"last  summer", "last summer"),
    ],
)
def test_the_date_of_an_email_can_be_compared(
    converter: Converter, header: bytes, kept: str
) -> None:
    content = EMAIL.replace(b"Mon, 1 Jun 2026 10:00:00 +0000", header)
    assert converter.convert(".eml", content).metadata["date"] == kept
    without = EMAIL.replace(b"Date: Mon, 1 Jun 2026 10:00:00 +0000\n", b"")
    assert "date" not in converter.convert(".eml", without).metadata


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("name;city\nAda;London\n'';\n", "name | city\nname: Ada; city: London\nname: ''"),
        ('a,b\n"x, y","two\nlines"\n', "a | b\na: x, y; b: two lines"),
        ("only\none\ncolumn\n", "only\none\ncolumn"),
        ("a\tb\n1\t2\n", "a | b\na: 1; b: 2"),
        ("a,b\n1,2,3\n", "a | b\n1 | 2 | 3"),
        ("\n,,\n", ""),
    ],
)
def test_csv_says_what_its_values_are(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert read_document(tmp_path / "a.csv").text == text


def test_json_lines_are_records_with_fields_to_filter_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"_id": "d1", "title": "Tea", "text": "Boil it.", "year": 2020}\n\n'
        '{"a": {"b": [1, "x"]}, "none": NaN, "huge": 1e999, "big": 99999999999999999999}\n'
        '"just text"\n'
    )
    document = read_document(path)
    assert outline(document)[0] == ("Tea", "Boil it.")
    assert outline(document)[1][1].startswith("a.b: 1\na.b: x\n")
    assert outline(document)[2] == ("", "just text")
    metadata = [dict(section.metadata) for section in document.sections]
    assert metadata == [{"_id": "d1", "year": 2020, "record": 1}, {"record": 2}, {"record": 3}]
    assert split(document, Words(), 50)[0].metadata == metadata[0]


def test_nested_fields_of_a_json_record_can_be_filtered_on(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    record = {
        "text": "Boil it.",
        "by": {"name": "Ada", "born": None, "note": "x" * 201},
        "tags": ["tea", 3, None, True, 1e400],
        "authors": [{"name": "Ada"}, {}],
        "deep": deep,
        "none": [],
        "huge": list(range(1000)),
    }
    path.write_text(json.dumps(record))
    (passage,) = split(read_document(path), Words(), 50)
    assert passage.metadata == {
        "by": {"name": "Ada"},
        "tags": ["tea", 3, True],
        "authors": [{"name": "Ada"}],
        "record": 1,
    }
    store = MemoryStore(Manifest("model", "f" * 64, 8, 100, ""))
    store.upsert([passage], None)
    for field, value, count in (
        ("by.name", "Ada", 1),
        ("tags", "tea", 1),
        ("authors[].name", "Ada", 1),
        ("tags", "coffee", 0),
    ):
        assert store.count({field: value}) == count


def test_a_json_list_of_objects_is_records_and_anything_else_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"name": "x", "v": 1}, {"name": "y"}]')
    assert outline(read_document(path)) == [("x", "v: 1"), ("y", "y")]
    path.write_text('{"k": [1, 2], "t": true}')
    assert outline(read_document(path)) == [("", "k: 1\nk: 2\nt: true")]


def test_json_text_that_cannot_be_stored_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        r'{"title": "a\ud800", "text": "b\u0000c", "k\udfff": "\ud800", "n": [{"\u0000": "\ud800"}]}'
    )
    document = read_document(path)
    assert outline(document) == [("a\ufffd", "b\ufffdc")]
    assert document.sections[0].metadata["k\ufffd"] == "\ufffd"
    assert document.sections[0].metadata["n"] == [{"\ufffd": "\ufffd"}]


def test_source_code_is_kept_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\r\n    return 1\n", newline="")
    assert read_document(tmp_path / "a.py").text == "def f():\r\n    return 1\n"


@pytest.mark.parametrize("sign", ["#", "¶", "§", "🔗"])
def test_the_link_of_a_heading_to_itself_is_no_part_of_it(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        f'<h2 id="a">Events<a class="mark" href="#a">{sign}</a></h2><p>One.'
        f'<h2>The <a href="#b">C{sign}</a> language</h2><p>Two <a href="#a">{sign}</a>.'
    )
    document = read_document(path)
    assert [s.headings for s in document.sections] == [("Events",), (f"The C{sign} language",)]
    assert document.text.rstrip().endswith(f"Two {sign}.")


def test_html_tables_of_values_are_rows_and_layout_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    row = "<tr><th>Ro<b>w</b></th><td><p>1</p><p>2</p></td><td> </td></tr>"
    path.write_text(f"<p>x</p><table>{row}{row}</table><p>y</p>")
    assert read_document(path).text == "x\n\nRow | 1 2\nRow | 1 2\n\ny\n\n"
    path.write_text("<table><tr><td><h2>H</h2><p>prose</p></td><td>side</td></tr></table>")
    assert outline(read_document(path)) == [("H", "prose\n\nside")]


def test_large_text_goes_through_the_worker_and_stays_the_same(
    tmp_path: Path, converter: Converter
) -> None:
    path = tmp_path / "a.md"
    path.write_text("# Größe\n\n" + "word " * 210_000)
    document = read_document(path, source="s", root="r", converter=converter)
    assert (document.source, document.root, document.markdown) == ("s", "r", True)
    assert document.text == path.read_text()
    assert document.sections[0].headings == ("Größe",)


def test_endings_are_small_and_belong_to_one_format() -> None:
    endings = [ending for format in FORMATS for ending in format.endings]
    assert [*endings, GZIP_ENDING] == list(dict.fromkeys(SUPPORTED_ENDINGS))
    assert all(ending == ending.lower() and ending.startswith(".") for ending in endings)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What lies in the way of the worker's imports is found first, as if nothing were installed.
    (tmp_path / "pypdfium2.py").write_text("raise ModuleNotFoundError('no', name='pypdfium2')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        Converter() as worker,
        pytest.raises(ImportError, match=r"pypdfium2 is not installed: .* 'quaver\[files\]'"),
    ):
        worker.convert(".pdf", write_pdf([["x"]]))


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"no")
    with pytest.raises(DocumentError, match=r"^a\.pdf: broken: "):
        read_document(tmp_path / "a.pdf")


# --- Names that say nothing ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "start", "ending"),
    [
        ("README", b"Read me.", ".txt"),
        ("Makefile", b"all:\n", ".txt"),
        ("run", b"#!/bin/sh\n", ".txt"),
        ("notes", "Größe".encode("latin-1") * 9, ".txt"),  # reading says what is wrong with it
        ("notes", "x".encode("utf-16"), ".txt"),
        ("README.Debian", b"Read me.", ".txt"),
        ("Dockerfile.dev", b"FROM x", ".txt"),
        ("page", b"\xef\xbb\xbf<!DOCTYPE html><p>x", ".html"),
        ("feed", b'<?xml version="1.0"?><rss/>', ".xml"),
        ("paper", b"%PDF-1.7\n\x00", ".pdf"),
        ("inbox", b"From a@b Mon\nFrom: a@b\n", ".mbox"),
        ("ls.1", b'.\\" x\n.TH LS 1\n', ".man"),
        ("perl.3pm", b".TH A 3\n", ".man"),
        ("syslog.1", b"Jun 1 started\n", ".txt"),
        ("syslog.2.gz", gzip.compress(b"Jun 1 started\n", mtime=0), ".txt.gz"),
        ("ls.1.gz", gzip.compress(b".TH LS 1\n", mtime=0), ".man.gz"),
        ("changelog.Debian.gz", gzip.compress(b"tea (1.0)\n", mtime=0), ".txt.gz"),
        ("a.tar.gz", gzip.compress(b"x" * 9, mtime=0), None),
        ("a.gz.gz", gzip.compress(b"x", mtime=0), None),
        ("a.pdf.gz", b"", ".pdf.gz"),
        ("libtea.so.1", b"\x7fELF\0", None),
        ("tea", b"\x7fELF\x02\0", None),
        ("tea", bytes(range(1, 32)) * 9, None),
        ("id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", None),
        ("README~", b"Read me.", None),
        ("a.xyz", b"text", None),
        (".xyz", b"text", ".txt"),
    ],
)
def test_a_file_is_known_by_its_name_or_its_beginning(
    name: str, start: bytes, ending: str | None
) -> None:
    assert ending_for(name, lambda: start) == ending


def test_a_folder_has_its_files_without_ending(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("Read me.")
    (tmp_path / "program").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "data.xyz").write_text("text of an unknown kind")
    (tmp_path / "picture.xyz").write_bytes(b"\0\1\2")
    os.mkfifo(tmp_path / "pipe")
    scan = scan_folder(tmp_path)
    assert [path.name for path in scan.files] == ["README"]
    assert scan.others == {"": 2, ".xyz": 2}
    forced = scan_folder(tmp_path, Selection.of(["*.xyz"]))
    assert [path.name for path in forced.files] == ["data.xyz"]
    assert read_document(forced.files[0]).text == "text of an unknown kind"


# --- Compressed -----------------------------------------------------------------------------------
def test_compressed_files_are_read_as_what_is_inside(converter: Converter) -> None:
    packed = gzip.compress(b"# Tea\n\nBoil it.\n")
    assert outline(converter.convert(".md.gz", packed)) == [("Tea", "Boil it.")]
    pages = converter.convert(".pdf.gz", gzip.compress(write_pdf([["One."], ["Two."]]))).pages
    assert len(pages) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"text", mtime=0)[:-5], "broken: cannot be unpacked"),
        (b"\x1f\x8b", "broken: cannot be unpacked"),
        (b"text", "broken: cannot be unpacked"),
        (gzip.compress(b"text\0", mtime=0), "not text, it holds a NUL"),
    ],
    ids=["cut", "header alone", "not packed", "holds NUL"],
)
def test_broken_compressed_files_are_refused(
    content: bytes, reason: str, converter: Converter
) -> None:
    with pytest.raises(DocumentError, match=reason):
        converter.convert(".txt.gz", content)


def test_a_compressed_bomb_is_refused(converter: Converter) -> None:
    content = gzip.compress(bytes(LIMITS.file_bytes + 1), 1)
    with pytest.raises(DocumentError, match="unpacks to more than 100 MB: refused"):
        converter.convert(".txt.gz", content)


# --- Manual pages ---------------------------------------------------------------------------------
def test_a_manual_page_has_its_name_and_sections(converter: Converter) -> None:
    assert outline(converter.convert(".man", MANUAL.encode())) == [
        ("tea(1) > NAME", "tea - make tea"),
        ("tea(1) > SYNOPSIS", "tea [OPTION]..."),
        (
            "tea(1) > OPTIONS",
            "-g, --green\nmake it green; see coffee(1).\n\n• with milk\n\nExample:\n\n"
            "tea -g  \\\n   --hot\n\nsencha | 70\nblack tea | 100",
        ),
        ("tea(1) > OPTIONS > More on it", "“Well” — cafe\u0301."),
    ]


def test_a_manual_page_in_mdoc_reads_the_same(converter: Converter) -> None:
    assert outline(converter.convert(".man", MDOC.encode())) == [
        ("tea(8) > NAME", "tea - make tea"),
        ("tea(8) > SYNOPSIS", "tea [-gh] [-t minutes] cup ..."),
        (
            "tea(8) > DESCRIPTION",
            "tea boils water, see coffee(1), or “brew”.\n\n-t minutes\nWait.",
        ),
    ]


# --- Notebooks, mailboxes, subtitles --------------------------------------------------------------
def test_a_notebook_is_markdown_with_code_and_what_it_printed(converter: Converter) -> None:
    document = converter.convert(".ipynb", json.dumps(NOTEBOOK).encode())
    assert document.markdown
    (heading, tea), (inner, green) = outline(document)
    assert (heading, inner) == ("Tea", "Tea > Green")
    assert tea.startswith("Boil it. ```\n\n````python\n# no heading\nprint('```')\n````\n\n")
    assert "70\n80\n<F>\nxxxx" in tea
    assert len(tea) < 2200
    assert green == "```python\n1 / 0\n```\n\n```\nZeroDivisionError: by zero\n```\n\nraw"
    old = {"worksheets": [{"cells": [{"cell_type": "heading", "level": 2, "source": "Old"},
                                     {"cell_type": "code", "input": "x", "language": "python"}]}]}  # fmt: skip
    assert outline(converter.convert(".ipynb", json.dumps(old).encode())) == [
        ("Old", "```\nx\n```")
    ]


@pytest.mark.parametrize("content", ["3", "{}", '{"cells": 1}', "{", "[" * 100_000])
def test_what_is_no_notebook_is_refused(content: str, converter: Converter) -> None:
    with pytest.raises(DocumentError, match=r"^broken: "):
        converter.convert(".ipynb", content.encode())


def test_a_mailbox_has_its_messages(converter: Converter) -> None:
    second = (
        b"Subject: Two\nContent-Type: text/plain; charset=nonsense\n\n"
        b"B\xc3\xa4r\n\n>From here on, tea.\nFrom a line inside.\n"
    )
    box = b"From ada Mon\n" + EMAIL.rstrip() + b"\n\nFrom bob Tue\n" + second
    document = converter.convert(".mbox", box)
    assert [headings for headings, _ in outline(document)] == ["Tee für alle", "Two"]
    assert outline(document)[1][1] == "Bär\n\nFrom here on, tea.\nFrom a line inside."
    first, last = (section.metadata for section in document.sections)
    assert first["from"] == "Ada <ada@example.org>"
    assert last == {"subject": "Two"}
    with pytest.raises(DocumentError, match="broken: not a mailbox"):
        converter.convert(".mbox", b"Subject: x\n\ntext\n")


def test_subtitles_become_parts_with_their_time(converter: Converter) -> None:
    cues = [(0, 2, "<v Ada>Good &amp; <i>well</i>."), (2, 4, "Good & well."), (4, 5, "Boil it")]
    cues += [(3661 + 5 * n, 3664 + 5 * n, f"Sentence {n}.") for n in range(14)]
    lines = [
        f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}.500 --> 01:09:09.000 align:start\n{said}\n"
        for s, _, said in cues
    ]
    text = "WEBVTT - tea\n\nNOTE nothing\n\nSTYLE\n::cue {}\n\n" + "\n".join(lines)
    document = converter.convert(".vtt", text.encode())
    assert document.text.startswith("Ada: Good & well. Good & well. Boil it\n\nSentence 0.")
    assert [dict(section.metadata) for section in document.sections] == [
        {"time": "0:00:00", "seconds": 0.5},
        {"time": "1:01:01", "seconds": 3661.5},
        {"time": "1:02:01", "seconds": 3721.5},
    ]
    srt = "\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\nHi\r\n\r\n2\r\n00:00:02,500 --> 00:00:04,000\r\n{\\an8}there\r\n"
    assert outline(converter.convert(".srt", srt.encode())) == [("", "Hi there")]
    with pytest.raises(DocumentError, match="broken: not subtitles"):
        converter.convert(".srt", b"just text")


# --- Office and Rich Text -------------------------------------------------------------------------
def test_odt_has_its_title_headings_lists_tables_and_notes(converter: Converter) -> None:
    assert outline(converter.convert(".odt", write_open_document(ODT))) == [
        ("Handbook", "For  everyone. [A note.]"),
        ("Handbook > Tea", "leaves\n\nIn a box."),
        ("Handbook > Tea > Green", "sencha | 70"),
    ]


def test_odp_has_slides_with_their_notes(converter: Converter) -> None:
    document = converter.convert(".odp", write_open_document(ODP))
    assert outline(document) == [("Plan", "measure\n\nSay hello."), ("", "no title")]
    assert [p.metadata["page"] for p in split(document, Words(), 50)] == [1, 2]


def test_hostile_open_documents_are_refused(converter: Converter) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "boom">]>'
    with pytest.raises(DocumentError, match="declares XML entities"):
        converter.convert(".odt", write_open_document(ODT, before=bomb))
    locked = "<manifest><encryption-data/></manifest>"
    with pytest.raises(DocumentError, match="encrypted: save it without a password"):
        converter.convert(".odt", write_open_document(ODT, manifest=locked))
    deep = "<text:span>" * 5000 + "</text:span>" * 5000
    with pytest.raises(DocumentError, match=r"^broken: "):
        converter.convert(".odt", write_open_document(f"<office:text>{deep}</office:text>"))
    with pytest.raises(DocumentError, match="broken: neither"):
        converter.convert(".odt", write_open_document("<office:spreadsheet/>"))
    with pytest.raises(DocumentError, match=r"^broken: "):
        converter.convert(".odt", write_zip({"content.xml": " " * 100_000_000}))


def test_rtf_has_its_text(converter: Converter) -> None:
    assert outline(converter.convert(".rtf", RTF)) == [
        ("", "Grüße bold\nSecond 😀 line\nsencha|70|")
    ]
    with pytest.raises(DocumentError, match="broken: not Rich Text"):
        converter.convert(".rtf", b"just text")
    converter.convert(".rtf", b"{\\rtf1" + b"{" * 100_000)


# --- XML ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "<book><info><title>Tea</title></info><chapter><title>Green <b>one</b></title>"
            "<para>Boil <b>it</b>&nbsp;well.</para><screen>a\n  b</screen></chapter>"
            "<para>After.</para></book>",
            [("Tea > Green one", "Boil it well.\n\na\n  b"), ("Tea", "After.")],
        ),
        (
            "<rss><channel><title>News</title><item><title>One</title></item><item><title>Two</title>"
            "<description>&lt;p&gt;Hot &lt;b&gt;tea&lt;/b&gt;&lt;/p&gt;</description></item>"
            "</channel></rss>",
            [("News", "One"), ("News > Two", "Hot tea")],
        ),
        (
            "<list><tea><groupId>Ada</groupId><v>1</v></tea><row><entry>a</entry><entry>b</entry>"
            "</row></list>",
            [("", "groupId: Ada; v: 1\n\na | b")],
        ),
        ('<list><tea name="sencha" degrees="70"/></list>', [("", "name: sencha; degrees: 70")]),
        ("<html><body><h1>One</h1><p>text</p></body></html>", [("One", "text")]),
        ('<!DOCTYPE x PUBLIC "-//X" "http://x/x.dtd"><x>a&mdash;b</x>', [("", "a—b")]),
        ('<?xml version="1.0" encoding="iso-8859-1"?><x>Gr\xfc\xdfe</x>', [("", "Grüße")]),
        ("<a>" * 50_000 + "deep" + "</a>" * 50_000, [("", "deep")]),
    ],
)
def test_xml_is_its_text_below_its_titles(
    content: str, expected: list[tuple[str, str]], converter: Converter
) -> None:
    encoded = content.encode("latin-1" if "8859" in content else "utf-8")
    assert outline(converter.convert(".xml", encoded)) == expected


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE x [<!ENTITY a "boom"><!ENTITY b "&a;&a;">]><x>&b;</x>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "file:///etc/passwd">%a;]><x/>',
    ],
)
def test_xml_that_declares_entities_is_refused(content: str, converter: Converter) -> None:
    with pytest.raises(DocumentError, match=r"declares XML entities \('[ab]'\): refused"):
        converter.convert(".xml", content.encode())


# --- Light markup: the text is the file's own ------------------------------------------------------
@pytest.mark.parametrize(
    ("ending", "content", "expected"),
    [
        (
            ".org",
            "#+TITLE: Notes\nintro\n* TODO [#A] Tea [[http://x][link]] :a:b:\nboil\n** Green\nx\n"
            "#+begin_src\n,* no\n#+end_src\n*bold* text\n",
            [
                ("Notes", "intro"),
                ("Notes > Tea link", "boil"),
                ("Notes > Tea link > Green", "x\n#+begin_src\n,* no\n#+end_src\n*bold* text"),
            ],
        ),
        (
            ".adoc",
            "= Guide\nAda\n\n== One\ntext\n----\n== no\n----\n[discrete]\n== nor\n=== Two ===\nx\n"
            "====\n== in an example\n====\n",
            [
                ("Guide", "Ada"),
                ("Guide > One", "text\n----\n== no\n----\n[discrete]\n== nor"),
                ("Guide > One > Two", "x\n====\n== in an example\n===="),
            ],
        ),
        (
            ".tex",
            "\\documentclass{x}\n\\title{On \\emph{Tea}\\thanks{me}}\n\\begin{document}\n\\maketitle\n"
            "% \\section{no}\n\\section[short]{Water \\& {more}}\\label{w}\nBoil 50\\% \\section*{B}\n"
            "\\begin{verbatim}\n\\section{nor}\n\\end{verbatim}\n\\end{document}\nnothing",
            [
                ("On Tea", "\\maketitle\n% \\section{no}"),
                ("On Tea > Water & more", "\\label{w}\nBoil 50\\%"),
                ("On Tea > B", "\\begin{verbatim}\n\\section{nor}\n\\end{verbatim}"),
            ],
        ),
        (".tex", "no document, \\section{x}\ny", [("", "no document,"), ("x", "y")]),
    ],
)
def test_light_markup_has_headings_and_stays_as_it_is(
    ending: str, content: str, expected: list[tuple[str, str]], converter: Converter
) -> None:
    for newline in ("\n", "\r\n"):
        document = converter.convert(ending, content.replace("\n", newline).encode())
        found = [(heading, body.replace("\r\n", "\n")) for heading, body in outline(document)]
        assert found == expected
        assert content.replace("\n", newline).startswith(document.text)


# --- Damaged --------------------------------------------------------------------------------------
NEW = {
    ".man": MANUAL.encode(),
    ".man.gz": gzip.compress(MANUAL.encode() * 20),
    ".ipynb": json.dumps(NOTEBOOK).encode(),
    ".mbox": b"From ada Mon\n" + EMAIL + b"\n\nFrom bob Tue\n" + EMAIL,
    ".vtt": b"WEBVTT\n\n" + b"00:01.000 --> 00:02.000\ntea\n\n" * 20,
    ".odt": write_open_document(ODT),
    ".odp": write_open_document(ODP),
    ".rtf": RTF,
    ".xml": b"<book><title>Tea</title><p>Boil <b>it</b>.</p></book>" ,
    ".org": b"#+title: Tea\n* One :a:\ntext\n",
    ".adoc": b"= Tea\n\n== One\ntext\n----\nx\n----\n",
    ".tex": b"\\title{T}\\begin{document}\\section{One} text \\end{document}",
}  # fmt: skip


@pytest.mark.parametrize("ending", NEW)
def test_damaged_and_foreign_files_are_read_or_refused(ending: str, converter: Converter) -> None:
    draw = random.Random(ending)
    variants = [
        b"",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        bytes(500),
        NEW[".rtf"],
        b"<" * 5000,
        b"[" * 5000,
    ]
    for number in range(40):
        damaged = bytearray(
            NEW[ending][: draw.randrange(len(NEW[ending]))] if number % 2 else NEW[ending]
        )
        for _ in range(draw.choice((1, 20))):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        variants.append(bytes(damaged))
    for content in variants:
        try:
            document = converter.convert(ending, content)
        except DocumentError as error:
            assert str(error).strip()  # noqa: PT017 - a reason is as good as a text
            continue
        assert all(0 <= s.start <= s.end <= len(document.text) for s in document.sections)
        document.text.encode("utf-8")


# --- Running titles of a PDF ----------------------------------------------------------------------
def body(page: int, lines: int = 9) -> list[str]:
    words = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "yew"]
    return [
        f"{words[(page * 7 + n * 3) % 11]} {words[(page + n) % 11]} grows {'on' * n}"
        for n in range(lines)
    ]


@pytest.mark.parametrize(
    "furniture",
    [
        lambda n: ([f"The Guide {n} / 30"], []),
        lambda n: ([f"{n} The Guide" if n % 2 else f"Chapter One {n}"], []),
        lambda n: ([["The Guide", "Tea"][n % 2]], [f"- {n + 10} -"]),
        lambda n: ([f"Chapter {1 + n // 6}: about it"], [f"Page {n} of 30"]),
        lambda n: ([f"{n // 2}.1 Title {'abcdefghijklmnopqrst'[n // 2]}   {n}"], []),
        lambda n: (["The Guide", "Second edition"], [f"{1 + n // 8}-{1 + n % 8}"]),
        lambda n: ([], [["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"][n] if n < 10 else str(n)]),
    ],
)  # fmt: skip
def test_pdf_loses_titles_that_change(
    furniture: Callable[[int], tuple[list[str], list[str]]], converter: Converter
) -> None:
    pages = []
    for n in range(24):
        above, below = furniture(n)
        pages.append([*above, *body(n), *below])
    text = converter.convert(".pdf", write_pdf(pages)).text
    assert text.split() == [word for n in range(24) for line in body(n) for word in line.split()]


def test_pdf_keeps_what_repeats_inside_pages_and_rows_of_numbers(converter: Converter) -> None:
    rows = [[f"{n * 9 + row} {(n * row) % 7} {n * 3}" for row in range(12)] for n in range(8)]
    text = converter.convert(".pdf", write_pdf(rows)).text
    assert text.split("\n") == "\n\n".join("\n".join(page) for page in rows).split("\n")
    warned = [[*body(n, 5), "Warning: hot", *body(n + 3, 5)] for n in range(8)]
    assert converter.convert(".pdf", write_pdf(warned)).text.count("Warning: hot") == 8
    slides = [
        [f"Slide {['one', 'two', 'three', 'four', 'five'][n]}", "Any questions?"] for n in range(5)
    ]
    assert converter.convert(".pdf", write_pdf(slides)).text.count("Any questions?") == 5
