# ruff: noqa: E501 - the tables of fragments are read across
"""Documents of every format, the patterns that select them, and their splitting into passages."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

from mutation import (
    mutate_bytes,
    mutate_json,
    mutate_markup,
    mutate_zip,
    pack_zip,
    pumped,
    scattered,
)
from target import BrokenPromiseError, Case, Target

from quaver.documents import (
    SUPPORTED_ENDINGS,
    Converter,
    Document,
    Section,
    Selection,
    embedded_text,
    read_document,
    scan_folder,
    split,
)
from quaver.errors import DocumentError
from quaver.models.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
import sample_documents
from tiny_model import tiny_tokenizer

CONVERTER_SECONDS = 8
LIBRARIES = (".pdf", ".docx", ".pptx", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
"""Formats that a library takes apart alone: it may need a limit, our own patterns may not."""

# --- What the formats are made of ---
_PLAIN = (
    "word ",
    "a",
    ". ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " ",
    "😀",
    "ünï",
    "東京",
    "\u200d",
    "\u0301",
    "\ufeff",
    "\x0c",
    "\x1b[0m",
)
_MARKS = (
    "# ",
    "=",
    "-",
    "*",
    "_",
    "`",
    "~",
    "|",
    ">",
    "[",
    "]",
    "(",
    ")",
    "!",
    "<",
    "&",
    "\\",
    ":",
    "1. ",
    "    ",
    "```",
    "---\n",
)
FRAGMENTS: dict[str, tuple[str, ...]] = {
    ".txt": _PLAIN,
    ".md": (*_PLAIN, *_MARKS, "[a](b)", "![", "](", "[a]: b\n", "<a ", "<!--", "**", "|a|b|\n|-|-|\n", "- ", "> ", "$$", "[^1]"),
    ".rst": (
        *_PLAIN, *_MARKS, "====\n", "----\n", ":a", ":a: ", ".. ", ".. _a: b\n", "::\n", "``", "`a`_", "|a|", ".. code::\n",
        "+--+\n", "====  ====\n", "__", "\n   ", ".. [1] ", ":field: x\n", ".. image:: x\n",
    ),
    ".html": (
        *_PLAIN, "<!--", "-->", "<a b='", "<a b=\"", "'", '"', ">", "<", "</", "<p>", "</p>", "<div>", "</div>", "<table>", "<tr>", "<td>",
        "</table>", "<h1>", "</h1>", "<h6>x</h6>", "<pre>", "<script>", "</script>", "<style>", "<![CDATA[", "]]>", "<!DOCTYPE ", "<?xml ",
        "&", "&#", "&amp;", "&#x41;", "&#99999999999;", "<main>", "<article>", "<br/>", "<a href='#'>#</a>", "<b>", "<i>", "<li>", "<ul>", "<a ",
        "<meta charset=utf-7>", "<svg>", "<math>", "<template>", "<textarea>", "<title>", "<option>", "<![", "<!", "=", "<a\n", "/",
    ),
    ".csv": (*_PLAIN, ",", ";", '"', '""', '"x', '\n"x', "'", "|", "a,b\n", "1,2,3\n", '"a\nb",c\n', "\0", "=", ":"),
    ".json": ("[", "]", "{", "}", '{"a":', '"a"', ":", ",", "1", "-", "1e", "9" * 400, "null", "true", "NaN", '"', "\\u", "\\", "[{}],", " ", '{"a":1},', '"text":', '"\\ud800"'),
    ".jsonl": ('{"a": 1}\n', '{"text": "x"}\n', "[", "{", "\n", '{"a":', "}", "null\n", '"', "\r\n", "1\n", '{"id": "', "\u2028"),
    ".eml": (
        *_PLAIN, "Subject: ", "Content-Type: ", "multipart/mixed; boundary=a\n\n", "--a\n", "--a--\n", "From: ", "To: a@b, ", "=?utf-8?q?",
        "=?utf-8?b?", "?=", "Content-Transfer-Encoding: base64\n", "quoted-printable\n", "message/rfc822\n\n", "text/html; charset=x\n\n", "(", ")",
        '"', "<", "@", ",", ";", "\n ", "; name*0*=", "Date: Mon, 1 Jun 2026 10:00:00 +0000\n", "=", "%", "''", "\\", "[", "group:",
    ),
    ".tex": (*_PLAIN, "\\", "{", "}", "%", "$", "$$", "\\begin{a}", "\\end{a}", "\\section{", "\\verb|", "\\item ", "&", "~", "\\[", "\\]", "\\newcommand{\\a}{\\a\\a}", "\\input{a}"),
    ".xml": (*_PLAIN, "<a>", "</a>", "<a b='c'>", "<a", ">", "<!--", "-->", "<![CDATA[", "]]>", "&a;", "&#0;", "<?x ", "?>", "<!DOCTYPE a [<!ENTITY a 'x'>]>", "<a/>", "xmlns:a='", "'", '"'),
    ".org": (*_PLAIN, "* ", "** ", "#+BEGIN_SRC\n", "#+END_SRC\n", "#+TITLE: ", "|", "[[", "]]", ":PROPERTIES:\n", ":END:\n", "*", "/", "=", "~", "<2026-01-01>", "- ", "[fn:1]"),
    ".adoc": (*_PLAIN, "= ", "== ", "----\n", "====\n", "|===\n", "|", "[", "]", "::", "[source]\n", "{a}", ":a: b\n", "//", "////\n", "* ", "+\n", "<<", ">>", "'''\n", "__", "**"),
    ".srt": (*_PLAIN, "1\n", "00:00:00,000 --> 00:00:01,000\n", "-->", "00:", "99999999999", "<i>", "</i>", "{\\an8}", "\n\n", "<"),
    ".vtt": (*_PLAIN, "WEBVTT\n\n", "00:00.000 --> 00:01.000\n", "-->", "NOTE ", "STYLE\n", "<v A>", "</v>", "<00:00.000>", "\n\n", "<c.", "&amp;", "<"),
    ".rtf": ("{\\rtf1 ", "{", "}", "\\", "\\par ", "\\'e9", "\\u8364?", "\\u-1 ", "\\bin9999999999 ", "\\uc99999 ", "{\\*", "{\\fonttbl", "\\b ", "text ", "\\trowd", "\\cell", "\\'", "\\pict ", "\n", "\\ansicpg0"),
    ".man": (*_PLAIN, ".TH A 1\n", ".SH NAME\n", ".B ", ".de a\n", "..\n", ".so a\n", "\\fB", "\\(em", "\\*(a", "\\", ".", "'", "\n.", '.\\" ', ".TP\n", ".nf\n", "\\n(", "\\w'", ".ie ", ".el "),
    ".mbox": ("From a@b Mon Jun  1 10:00:00 2026\n", "From ", "\n\n", "Subject: a\n", ">From ", "Content-Type: multipart/mixed; boundary=a\n\n", "--a\n", "text\n", "\n", ": ", "Content-Length: 99999999\n"),
    ".py": (*_PLAIN, "def f(x):\n", "class A:\n", "'''", '"""', "#", "(", ")", "{", "}", "x=1;", "/*", "*/", "data:image/png;base64,", "A" * 80, "\\x00"),
}  # fmt: skip
_ALIKE = {
    ".htm": ".html", ".xhtml": ".html", ".tsv": ".csv", ".ndjson": ".jsonl", ".markdown": ".md", ".log": ".txt", ".text": ".txt",
    ".js": ".py", ".c": ".py", ".yaml": ".py", ".toml": ".py", ".css": ".py", ".sql": ".py", ".asciidoc": ".adoc", ".rss": ".xml",
    ".atom": ".xml", ".dbk": ".xml", ".ltx": ".tex", ".conf": ".py", ".diff": ".py",
}  # fmt: skip
_HTML = (
    "<!DOCTYPE html><html><head><title>T</title><meta charset=utf-8></head><body><nav>no</nav><main><h1>One</h1><p>text <b>bold</b> "
    "<a href='#x'>#</a></p><h2>Two</h2><table><tr><th>a</th><td>1</td></tr><tr><td>b</td><td>2</td></tr></table><pre>x\n y</pre>"
    "<ul><li>one<li>two</ul></main></body></html>"
)
_RST = (
    "Title\n=====\n\nA paragraph with ``code`` and `a link <x>`_.\n\n.. _target:\n\nTwo\n---\n\n.. code-block:: python\n\n   x = 1\n\n"
    "=====  =====\na      b\n=====  =====\n1      2\n=====  =====\n\n:field: value\n\n.. note:: careful\n"
)
_NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "language": "python"}, "language_info": {"name": "python"}},
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text\n"]},
        {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": "print(1)", "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
            {"output_type": "execute_result", "metadata": {}, "execution_count": 1, "data": {"text/plain": ["1"], "image/png": "aGk="}},
            {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[0m"]}]},
        {"cell_type": "raw", "metadata": {}, "source": []},
    ],
}  # fmt: skip
_OFFICE = "urn:oasis:names:tc:opendocument:xmlns:"
_ODT = (
    f'<office:document-content xmlns:office="{_OFFICE}office:1.0" xmlns:text="{_OFFICE}text:1.0" xmlns:table="{_OFFICE}table:1.0">'
    '<office:body><office:text><text:h text:outline-level="1">One</text:h><text:p>text<text:s text:c="3"/><text:tab/>more</text:p>'
    "<text:list><text:list-item><text:p>item</text:p></text:list-item></text:list><table:table><table:table-row>"
    '<table:table-cell table:number-columns-repeated="2"><text:p>1</text:p></table:table-cell></table:table-row></table:table>'
    "</office:text></office:body></office:document-content>"
)
_ODS = (
    f'<office:document-content xmlns:office="{_OFFICE}office:1.0" xmlns:text="{_OFFICE}text:1.0" xmlns:table="{_OFFICE}table:1.0">'
    '<office:body><office:spreadsheet><table:table table:name="S"><table:table-row table:number-rows-repeated="2">'
    '<table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="3"><text:p>1</text:p>'
    "</table:table-cell></table:table-row></table:table></office:spreadsheet></office:body></office:document-content>"
)
_MANIFEST = (
    '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><manifest:file-entry '
    'manifest:full-path="/" manifest:media-type="application/vnd.oasis.opendocument.text"/></manifest:manifest>'
)


def _open_document(content: str, kind: str) -> bytes:
    return pack_zip(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}".encode(),
            "content.xml": content.encode(),
            "META-INF/manifest.xml": _MANIFEST.encode(),
            "meta.xml": b"<a/>",
        }
    )


def _pdf() -> bytes:
    """Return a PDF with uncompressed streams, so that their content can be changed."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file, pageCompression=0, invariant=1)
    for page in range(3):
        canvas.bookmarkPage(f"p{page}")
        canvas.addOutlineEntry(f"Part {page}", f"p{page}", 0)
        for line in range(5):
            canvas.drawString(72, 800 - 14 * line, f"a line of text {line}")
        canvas.showPage()
    canvas.save()
    return file.getvalue()


SAMPLES: dict[str, Callable[[], bytes]] = {
    ".txt": lambda: b"A text.\n\nAnother paragraph of it. And more.\n" * 5,
    ".md": lambda: b"---\ntitle: x\n---\n# One\n\ntext *a* [b](c)\n\n## Two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx\n```\n- a\n  - b\n",
    ".rst": _RST.encode,
    ".html": _HTML.encode,
    ".csv": lambda: b'name,born,"a note"\nAda,1815,"x, ""y"""\nBob,1900,\n' * 5,
    ".json": lambda: json.dumps([{"name": "Ada", "born": 1815, "tags": ["a"], "in": {"text": "x"}}] * 5).encode(),
    ".jsonl": lambda: b'{"name": "Ada", "text": "words", "n": [1, {"a": null}]}\n' * 5,
    ".eml": lambda: sample_documents.EMAIL,
    ".mbox": lambda: (b"From a@b Mon Jun  1 10:00:00 2026\n" + sample_documents.EMAIL + b"\n") * 2,
    ".ipynb": lambda: json.dumps(_NOTEBOOK).encode(),
    ".xml": lambda: b"<?xml version='1.0'?><book><title>T</title><chapter id='a'><title>One</title><para>text</para></chapter></book>",
    ".tex": lambda: b"\\documentclass{article}\n\\begin{document}\n\\section{One}\nText $x^2$ \\emph{a}. % no\n\\begin{itemize}\\item a\\end{itemize}\n\\end{document}\n",
    ".org": lambda: b"#+TITLE: T\n* One\ntext\n** Two\n#+BEGIN_SRC py\nx\n#+END_SRC\n| a | b |\n",
    ".adoc": lambda: b"= Title\nAuthor\n:a: b\n\n== One\n\ntext {a}\n\n----\ncode\n----\n\n|===\n|a |b\n|===\n",
    ".srt": lambda: b"1\n00:00:01,000 --> 00:00:02,000\nHello <i>you</i>\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n",
    ".vtt": lambda: b"WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.000 align:start\n<v Ada>Hello\n\n00:03.000 --> 00:04.000\nBye\n",
    ".rtf": lambda: b"{\\rtf1\\ansi\\ansicpg1252{\\fonttbl{\\f0 A;}}\\f0 Hello \\b world\\b0\\par caf\\'e9 \\u8364? x\\par}",
    ".man": lambda: b'.TH A 1 "x"\n.SH NAME\na \\- does\n.SH OPTIONS\n.TP\n.B \\-x\nText \\fIa\\fP.\n',
    ".py": lambda: b'"""Doc."""\n\nimport os\n\n\ndef f(x):\n    # note\n    return x + 1\n' * 5,
    ".pdf": _pdf,
    ".docx": sample_documents.write_docx,
    ".pptx": sample_documents.write_pptx,
    ".xlsx": lambda: sample_documents.write_xlsx({"S": [["name", "born"], ["Ada", 1815]] * 5}),
    ".epub": lambda: sample_documents.write_epub({"one": _HTML, "two": "<h1>Two</h1><p>more</p>"}),
    ".odt": lambda: _open_document(_ODT, "text"),
    ".odp": lambda: _open_document(_ODT, "presentation"),
    ".ods": lambda: _open_document(_ODS, "spreadsheet"),
}  # fmt: skip
_ZIPS = (".docx", ".pptx", ".xlsx", ".epub", ".odt", ".odp", ".ods")
_MARKUP = (".html", ".xml", ".pdf", ".eml", ".rtf", ".mbox", ".tex", ".srt", ".vtt", ".man")


@cache
def sample(kind: str) -> bytes:
    """Return a whole document of a kind."""
    return SAMPLES[kind]()


def drawn_document(draw: Random) -> tuple[str, bytes, str]:
    """Return an ending, a document, and what was done to it."""
    kinds = [kind for kind in SAMPLES if kind in SUPPORTED_ENDINGS]
    ending = kind = draw.choice(kinds)
    if draw.random() < 0.2:
        ending = draw.choice([other for other in _ALIKE if other in SUPPORTED_ENDINGS])
        kind = _ALIKE[ending]
    way = draw.randrange(10)
    if way < 4 and kind in FRAGMENTS:
        text, story = pumped(draw, FRAGMENTS[kind])
        content = text.encode("utf-8", "surrogatepass")
        if draw.random() < 0.3:
            # Inside something whole: before and behind it a parser is in another state.
            whole = sample(kind)
            at = draw.randrange(len(whole) + 1)
            content, story = (
                whole[:at] + content + whole[at:],
                f"a whole one with, at {at}, {story}",
            )
    elif way < 5 and kind in FRAGMENTS:
        text, story = scattered(draw, FRAGMENTS[kind])
        content = text.encode("utf-8", "surrogatepass")
    else:
        content, story = sample(kind), ""
        for _ in range(draw.choice((1, 1, 2, 5))):
            content, done = _mutation(draw, kind)(draw, content)
            story += f"{done}; "
    if draw.random() < 0.02:
        encoding = draw.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-16-be"))
        content, story = (
            content.decode("utf-8", "replace").encode(encoding, "replace"),
            f"{story} as {encoding}",
        )
    if ".gz" in SUPPORTED_ENDINGS and draw.random() < 0.05:
        content = gzip.compress(content, 1, mtime=0)
        ending = draw.choice((f"{ending}.gz", ".gz", f"{ending}.gz.gz"))
        if draw.random() < 0.5:
            content, done = mutate_bytes(draw, content)
            story += f"; packed: {done}"
    if draw.random() < 0.02:
        ending = draw.choice(SUPPORTED_ENDINGS)
    return ending, content, story


def _mutation(draw: Random, kind: str) -> Callable[[Random, bytes], tuple[bytes, str]]:
    if kind in _ZIPS:
        return mutate_zip
    if kind in (".json", ".ipynb") and draw.random() < 0.7:
        return mutate_json
    return mutate_markup if kind in _MARKUP and draw.random() < 0.6 else mutate_bytes


class Documents(Target):
    """A document, read as `quaver index` reads it, and split."""

    name = "documents"
    cpu_seconds = 20
    memory_bytes = 2 << 30
    quick = 400
    share = 4

    def __init__(self) -> None:
        """Start nothing yet."""
        self._converter = Converter(seconds=CONVERTER_SECONDS, memory_bytes=1 << 30)
        self._tokenizer = Tokenizer(tiny_tokenizer(), max_length=1 << 20)

    def draw(self, draw: Random) -> Case:
        ending, content, story = drawn_document(draw)
        budget = draw.choice((8, 16, 62, 200, 510))
        return Case(
            {f"a{ending}": content},
            {"budget": budget},
            [f"{ending}, {len(content)} bytes: {story}"],
        )

    def run(self, case: Case, folder: Path) -> str:
        case.write(folder)
        (name,) = case.files
        try:
            document = read_document(folder / name, converter=self._converter)
        except DocumentError as error:
            return _refusal(str(error), name)
        check_document(document)
        passages = check_split(document, self._tokenizer, case.settings.get("budget", 62))
        return "read" if passages else "read, empty"

    def close(self) -> None:
        self._converter.close()


def _refusal(said: str, name: str) -> str:
    """Return a refusal's kind; raise where our own reader did what only a library's may do."""
    limited = re.search(r"took longer than|needs more than|ended the converter", said)
    if limited and not name.removesuffix(".gz").endswith(LIBRARIES):
        raise BrokenPromiseError(
            f"{Path(name).suffix} must be read in bounded time and memory: {said}"
        )
    if limited:
        return f"given up ({Path(name).suffix}: {limited[0]})"
    kind = re.search(r"broken: (\w*(?:Error|Exception))\b", said)
    return f"refused: {kind[1]}" if kind else "refused"


def check_document(document: Document) -> None:
    """Check what every document promises."""
    text = document.text
    text.encode("utf-8")
    places = [(section.start, section.end) for section in document.sections]
    if any(not 0 <= start <= end <= len(text) for start, end in places):
        raise BrokenPromiseError(f"a section lies outside the text of {len(text)}: {places[:5]}")
    if any(a[1] > b[0] for a, b in pairwise(places)):
        raise BrokenPromiseError("sections overlap or are out of order")
    json.dumps(
        [dict(document.metadata), *(dict(section.metadata) for section in document.sections)]
    )


def check_split(document: Document, tokenizer: Tokenizer, budget: int) -> int:
    """Check what splitting promises, and return how many passages there are."""
    passages = split(document, tokenizer, budget)
    counts = tokenizer.counts(
        [embedded_text(passage.heading, passage.text) for passage in passages]
    )
    if max(counts, default=0) > budget:
        raise BrokenPromiseError(f"a passage has {max(counts)} tokens, the budget is {budget}")
    if any(
        document.text[p.start : p.end] != p.text or p.text not in (p.text.strip(), p.text.rstrip())
        for p in passages
    ):
        raise BrokenPromiseError("a passage differs from the text at its place")
    if len({passage.id for passage in passages}) != len(passages):
        raise BrokenPromiseError("two passages have one id")
    kept = "".join("".join(passage.text.split()) for passage in passages)
    there = "".join("".join(document.text[s.start : s.end].split()) for s in document.sections)
    if kept != there:
        raise BrokenPromiseError(f"splitting lost text: {len(there)} characters became {len(kept)}")
    return len(passages)


class Splitting(Target):
    """A large text under one heading or none, split."""

    name = "splitting"
    cpu_seconds = 40
    memory_bytes = 2 << 30
    quick = 10

    def __init__(self) -> None:
        """Make the tokenizer."""
        self._tokenizer = Tokenizer(tiny_tokenizer(), max_length=1 << 20)

    def draw(self, draw: Random) -> Case:
        fragments = FRAGMENTS[draw.choice([*FRAGMENTS])]
        if draw.random() < 0.7:
            text, story = pumped(
                draw, (*fragments, *_PLAIN), largest=draw.choice((100_000, 500_000, 1_000_000))
            )
        else:
            text, story = scattered(draw, fragments, count=50_000)
        headings = draw.choice(
            ((), ("One",), ("One", "Two " * 40, "Three"), ("a" * 1000,), ("\n \n",))
        )
        settings = {
            "budget": draw.choice((8, 9, 32, 254, 510)),
            "headings": headings,
            "markdown": draw.random() < 0.5,
        }
        return Case(
            {"text": text.encode("utf-8", "replace")},
            settings,
            [f"{len(text)} characters: {story}"],
        )

    def run(self, case: Case, folder: Path) -> str:
        content = case.files["text"]
        assert isinstance(content, bytes)
        text, said = content.decode(), case.settings
        section = Section(tuple(said["headings"]), 0, len(text))
        document = Document("a.txt", text, (section,), markdown=said["markdown"])
        return "split" if check_split(document, self._tokenizer, said["budget"]) else "split, empty"


class Patterns(Target):
    """A .gitignore and patterns of the command line, over a folder with awkward names."""

    name = "patterns"
    quick = 200

    def draw(self, draw: Random) -> Case:
        parts = ("*", "**", "?", "a", "b", "a*", "[a-z]", "[!a]", "[", "]", "\\", "/", "!", "#", " ", ".", "*.txt", "**/", "[z-a]", "[[:alpha:]]", "[]", "{a,b}", "\0", "\r", "(", "+", "^", "$", "é", "😀", "\ud800")  # fmt: skip

        def pattern() -> str:
            kind = draw.randrange(4)
            unit = "".join(draw.choice(parts) for _ in range(draw.choice((1, 1, 2, 3))))
            times = draw.choice((1, 2, 40, 3000)) if kind == 0 else 1
            return (
                draw.choice(("", "!", "/")) + unit * times + draw.choice(("", "b", "/", "**", " "))
            )

        lines = [pattern() for _ in range(draw.choice((1, 1, 5, 100)))]
        names = ["a" * 200 + ".txt", "a" * 60 + "/" + "a" * 60 + "/b.txt", "one/two.md", "[a].txt", "é😀.md", "a b.txt", "#.md", "!.txt"]  # fmt: skip
        files: dict[str, bytes | str] = dict.fromkeys(names, b"x")
        files[draw.choice((".gitignore", "one/.gitignore"))] = "\n".join(lines).encode(
            "utf-8", "surrogatepass"
        )
        settings = {
            key: [pattern() for _ in range(draw.choice((0, 0, 1, 3)))]
            for key in ("include", "exclude")
        }
        return Case(
            files,
            settings,
            [
                *(line[:100] for line in lines[:5]),
                *(f"{key}: {value}"[:300] for key, value in settings.items()),
            ],
        )

    def run(self, case: Case, folder: Path) -> str:
        case.write(folder)
        selection = Selection.of(**case.settings)
        try:
            return (
                "all"
                if len(scan_folder(folder, selection).files) == len(case.files) - 1
                else "some"
            )
        except DocumentError:
            return "none"


TARGETS: tuple[type[Target], ...] = (Documents, Splitting, Patterns)
