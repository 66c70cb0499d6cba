"""Formats beside text and HTML: what is read, its headings, pages and metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from documents import EMAIL, write_docx, write_epub, write_pdf, write_pptx, write_xlsx
from quaver.errors import DocumentError
from quaver.passages import Converter, Document, read_document, split
from quaver.passages.formats import FORMATS, PACKED, SUPPORTED_ENDINGS
from quaver.store import Manifest
from quaver.store.memory import MemoryStore


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
    assert [*endings, PACKED] == list(dict.fromkeys(SUPPORTED_ENDINGS))
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
