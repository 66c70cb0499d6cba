"""Reading a file: formats, headings, offsets, encodings."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaver.documents import Document, Section, read_document
from quaver.documents.rst import _without_targets
from quaver.errors import DocumentError


def read(folder: Path, name: str, content: str | bytes) -> Document:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path)


def outline(document: Document) -> list[tuple[str, str]]:
    """Each section as (heading path, body without outer white space)."""
    return [
        (" > ".join(section.headings), document.text[section.start : section.end].strip())
        for section in document.sections
    ]


def test_txt_is_one_section_and_keeps_every_character(tmp_path: Path) -> None:
    content = "first\r\n\r\n  sécond\t\n\n\nlast"
    document = read(tmp_path, "a.txt", content)
    assert document.text == content
    assert outline(document) == [("", content)]


def test_rst_headings_nest_in_the_order_of_their_styles(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "a.rst",
        "intro\n\n=====\nTitle\n=====\n\none\n\n.. _target:\n\n"
        "Part\n----\ntwo\n\nDeep\n~~~~\n\nthree\n\nNext\n----\nfour\n",
    )
    assert outline(document) == [
        ("", "intro"),
        ("Title", "one"),
        ("Title > Part", "two"),
        ("Title > Part > Deep", "three"),
        ("Title > Next", "four"),
    ]


@given(st.text("\r\n \t._:a", max_size=30))
def test_rst_targets_at_the_end_of_a_section_are_left_out(text: str) -> None:
    oracle = re.compile(  # which backtracks
        r"(?:^[ \t]*(?:\.\. _[^\r\n]*:|\.\.)[ \t]*(?:\r\n|\r|\n|\Z)|^[ \t]*(?:\r\n|\r|\n))+\Z",
        re.MULTILINE,
    )
    text = "=\nA\n=\nx\n" + re.sub("\r(?!\n)", "", text) + "\n"  # "^" is not behind a lone \r
    found = oracle.search(text, 6)
    expected = len(text) if found is None else found.start()
    assert _without_targets(text, Section((), 6, len(text))).end == expected


@pytest.mark.parametrize(
    "body",
    [
        "text::\n\n   Not a heading\n   =============\n\nend",
        "a paragraph\nof two lines\n------------\n",
        "==== ====\na    b\n==== ====\n1    2\n==== ====\n",
        "before\n\n----------\n\nafter",
        "-\n-\n",
    ],
)
def test_rst_other_lines_of_punctuation_are_no_headings(tmp_path: Path, body: str) -> None:
    assert outline(read(tmp_path, "a.rst", body)) == [("", body.strip())]


def test_rst_titles_lose_their_markup(tmp_path: Path) -> None:
    document = read(
        tmp_path, "a.rst", ":mod:`json` --- ``JSON`` *encoder*\n" + "=" * 34 + "\n\ntext"
    )
    assert outline(document) == [("json — JSON encoder", "text")]


def test_sphinx_directives_stay_in_the_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = ".. unknown:: x\n   :flag:\n\n   Inside :nosuchrole:`it`."
    assert outline(read(tmp_path, "a.rst", f"T\n=\n\n{body}\n"))[-1][1].endswith(body)
    assert capfd.readouterr() == ("", "")


def test_markdown_headings_but_not_in_code_or_front_matter(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "a.md",
        "---\ntitle: x\n---\n# One `code`\n\ntext\n\n```\n# comment\n```\n\n"
        "Two\n---\n\n> # quoted\n\n### Three ###\r\nend",
    )
    assert outline(document) == [
        ("One code", "text\n\n```\n# comment\n```"),
        ("One code > Two", "> # quoted"),
        ("One code > Two > Three", "end"),
    ]


def test_html_gives_the_visible_text_of_the_main_content(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "a.html",
        "<html><head><title>no</title><style>no</style></head><body><nav>no</nav><div role='main'>"
        "<h1>Top<a class='headerlink' href='#'>¶</a></h1><p>One <b>bold</b>\n word.</p>"
        "<ul><li>a</li><li>b</li></ul>"
        "<h2>Sub</h2><pre>x = 1\n  y</pre><!-- no -->"
        "<script>no</script></div><footer>no</footer></body></html>",
    )
    assert outline(document) == [("Top", "One bold word.\n\na\n\nb"), ("Top > Sub", "x = 1\n  y")]


@pytest.mark.slow
def test_html_of_several_articles_or_inside_a_form_keeps_all_text(tmp_path: Path) -> None:
    articles = "<body><article><p>One</p></article><article><p>Two</p></article></body>"
    assert outline(read(tmp_path, "a.html", articles)) == [("", "One\n\nTwo")]
    single = "<body><p>menu</p><article><p>One</p></article></body>"
    assert outline(read(tmp_path, "b.html", single)) == [("", "One")]
    form = "<body><form><p>Text</p><select><option>no</option></select></form></body>"
    assert outline(read(tmp_path, "c.html", form)) == [("", "Text")]


def test_html_rows_and_cells_need_no_end_tags(tmp_path: Path) -> None:
    table = "<table><tr><td>a<td>b <b>c</b><tr><th>d<td><p>e<p>f<!-- no --></table>"
    assert outline(read(tmp_path, "a.html", table)) == [("", "a | b c\nd | e f")]


@pytest.mark.slow
def test_html_that_is_never_closed_keeps_its_text(tmp_path: Path) -> None:
    page = "<p>one <!-- two <b>three</b> <a href='four"
    assert outline(read(tmp_path, "a.html", page)) == [("", "one <!-- two three <a href='four")]
    page = "<p>one <![if !IE]>two<![endif]> <!-- no --> three<!---->"
    assert outline(read(tmp_path, "b.html", page)) == [("", "one two three")]


@pytest.mark.slow
def test_html_without_a_body_and_deeply_nested_is_read(tmp_path: Path) -> None:
    assert outline(read(tmp_path, "a.htm", "just text"))[0][1] == "just text"
    deep = "<div>" * 3000 + "deep" + "</div>" * 3000
    assert outline(read(tmp_path, "b.html", deep))[0][1] == "deep"


def test_xhtml_is_read_without_a_warning(tmp_path: Path) -> None:
    document = read(tmp_path, "a.xhtml", '<?xml version="1.0"?><html><body><p>x</p></body></html>')
    assert outline(document) == [("", "x")]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html"])
def test_an_empty_file_has_no_sections(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, " \n\n ").sections == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "größe".encode("utf-8-sig")),
        ("a.md", "größe".encode("utf-16")),
        ("a.rst", b"\xfe\xff" + "größe".encode("utf-16-be")),
        ("a.txt", b"\xff\xfe\x00\x00" + "größe".encode("utf-32-le")),
        ("a.html", b"<meta charset='iso-8859-1'>gr\xf6\xdfe"),
        ("b.html", b"<?xml version='1.0' encoding='cp1252'?><p>gr\xf6\xdfe"),
    ],
)
def test_declared_encodings_are_followed(tmp_path: Path, name: str, content: bytes) -> None:
    assert outline(read(tmp_path, name, content)) == [("", "größe")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"gr\xf6sse", r"a.txt: not valid utf-8 .* byte 0xf6 at position 2; save it"),
        ("a.md", b"\xff\xfea", r"not valid utf-16-le"),
        ("a.rst", b"ab\0cd", r"NUL character at position 2"),
        ("a.html", b"<meta charset=nosuch>", r"declares the encoding nosuch, which does not exist"),
        ("a.html", b"<meta charset=ascii>\xe9", r"not valid ascii \(the page says so\)"),
    ],
)
def test_a_broken_encoding_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DocumentError, match=message):
        read(tmp_path, name, content)


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no\.txt: cannot be read: No such file"):
        read_document(tmp_path / "no.txt")
    (tmp_path / "a.exe").write_bytes(b"MZ\0\0")
    with pytest.raises(
        DocumentError, match=r"a\.exe: a document must be text or have a supported ending: \.txt"
    ):
        read_document(tmp_path / "a.exe")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_document(tmp_path / "pipe.txt")
