"""Documents made to do harm: each ends in a reason, soon, and the next document is read."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quaver.documents import Converter, Document, read_document, scan_folder
from quaver.documents.limits import LIMITS
from quaver.documents.patterns import Patterns
from quaver.documents.read import Unread, read_bytes, read_documents
from quaver.errors import DocumentError
from quaver.system.switch import POSIX
from sample_documents import (
    EMAIL,
    epub_members,
    write_docx,
    write_epub,
    write_pdf,
    write_pptx,
    write_xlsx,
    write_zip,
)

WHOLE = {
    ".pdf": lambda: write_pdf([["# Tea", *["a line of text"] * 20]] * 4),
    ".docx": write_docx,
    ".pptx": write_pptx,
    ".xlsx": lambda: write_xlsx({"S": [["name", "born"], ["Ada", 1815]] * 20}),
    ".epub": lambda: write_epub({"one": "<h1>One</h1><p>text</p>"}),
    ".eml": lambda: EMAIL,
    ".csv": lambda: b"name,born\nAda,1815\n" * 20,
    ".json": lambda: json.dumps([{"name": "Ada", "born": 1815}] * 20).encode(),
    ".jsonl": lambda: b'{"name": "Ada", "text": "text"}\n' * 20,
    ".html": lambda: b"<h1>One</h1><p>text</p><table><tr><td>a</table>",
    ".md": lambda: b"# One\n\ntext\n",
    ".rst": lambda: b"One\n===\n\ntext\n",
}
ENTITIES = '<!DOCTYPE x [<!ENTITY a "boom"><!ENTITY b "&a;&a;">]>'


@pytest.fixture(scope="module")
def converter() -> Iterator[Converter]:
    with Converter(seconds=20) as worker:
        yield worker


def still_reads(converter: Converter) -> bool:
    return "boil" in converter.convert(".docx", write_docx()).text.lower()


def replaced(archive: bytes, name: str, old: str, new: str) -> bytes:
    """The archive with another text in one member; it must have been there."""
    with zipfile.ZipFile(io.BytesIO(archive)) as before:
        members = {member: before.read(member) for member in before.namelist()}
    assert old.encode() in members[name]
    return write_zip({**members, name: members[name].replace(old.encode(), new.encode())})


# --- Broken ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", WHOLE)
def test_a_damaged_file_is_read_or_refused_with_a_reason(
    ending: str, converter: Converter, tmp_path: Path
) -> None:
    whole = WHOLE[ending]()
    draw = random.Random(ending)
    path = tmp_path / f"a{ending}"
    reasons = []
    for number in range(40):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if number % 2 else whole)
        for _ in range(draw.choice((0, 1, 20)) if number % 2 else 20):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            document = read_document(path, converter=converter)
            assert all(0 <= s.start <= s.end <= len(document.text) for s in document.sections)
            document.text.encode("utf-8")
        except DocumentError as error:
            reasons.append(str(error))
    assert all(re.fullmatch(rf"a\{ending}: \S.*", reason) for reason in reasons), reasons
    assert reasons or ending in (".md", ".rst", ".csv", ".html", ".eml")
    assert still_reads(converter)


@pytest.mark.parametrize("ending", [".pdf", ".docx", ".pptx", ".xlsx", ".epub"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not what the ending says"])
def test_a_file_of_another_kind_is_broken(
    ending: str, content: bytes, converter: Converter
) -> None:
    with pytest.raises(DocumentError, match=r"^(broken: |.*unsupported)"):
        converter.convert(ending, content)


def test_a_document_inside_another_ending_is_broken(converter: Converter) -> None:
    for ending in (".docx", ".pptx", ".epub"):
        with pytest.raises(DocumentError, match=r"^broken: "):
            converter.convert(ending, WHOLE[".xlsx"]())


# --- Encrypted ------------------------------------------------------------------------------------
def test_encrypted_files_say_so(converter: Converter) -> None:
    with pytest.raises(DocumentError, match="encrypted: save a copy without a password"):
        converter.convert(".pdf", write_pdf([["x"]], password="secret"))
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    for ending in (".docx", ".pptx"):
        with pytest.raises(DocumentError, match="encrypted, or in the format before 2007"):
            converter.convert(ending, ole)
    members = epub_members({"one": "<p>x</p>"})
    with pytest.raises(DocumentError, match="protected"):
        converter.convert(".epub", write_zip({**members, "META-INF/rights.xml": "<r/>"}))


# --- Bombs ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bomb() -> bytes:
    """An archive a thousandth of the size of what it unpacks to."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        part = bytes(LIMITS.unpacked_bytes // 10)
        for number in range(11):
            archive.writestr(f"{number}.xml", part, compresslevel=1)
    return file.getvalue()


@pytest.mark.parametrize("ending", [".docx", ".pptx", ".xlsx", ".epub"])
def test_a_zip_bomb_is_not_unpacked(ending: str, bomb: bytes, converter: Converter) -> None:
    assert len(bomb) < LIMITS.unpacked_bytes / 100
    with pytest.raises(DocumentError, match=r"unpacks to 550 MB in 11 parts: the limit is 500 MB"):
        converter.convert(ending, bomb)
    assert still_reads(converter)


def test_an_archive_that_lies_about_its_size_is_broken(converter: Converter) -> None:
    archive = write_zip(epub_members({"one": "<p>" + "x" * 1_000_000 + "</p>"}))
    real, lie = (1_000_007).to_bytes(4, "little"), (100).to_bytes(4, "little")
    assert real in archive
    with pytest.raises(DocumentError, match=r"broken: .* cannot be unpacked"):
        converter.convert(".epub", archive.replace(real, lie))


def test_many_parts_are_refused(converter: Converter) -> None:
    parts = {f"{number}": b"" for number in range(LIMITS.members + 1)}
    with pytest.raises(DocumentError, match="in 20001 parts"):
        converter.convert(".docx", write_zip(parts))


@pytest.mark.slow
def test_a_far_cell_costs_no_more_memory_than_allowed() -> None:
    with Converter(memory_bytes=1 << 30) as worker:
        with pytest.raises(DocumentError, match="needs more than 1024 MiB"):
            worker.convert(".xlsx", write_xlsx({"S": [["x"]]}, far_cell=True))
        assert still_reads(worker)


@pytest.mark.skipif(not POSIX, reason="the portable form has no limits")
def test_memory_is_limited() -> None:
    with Converter(memory_bytes=256 << 20) as worker:
        with pytest.raises(DocumentError, match="needs more than 256 MiB"):
            worker.convert(".json", b"[" + b"{}," * 10_000_000 + b"{}]")
        assert worker.convert(".json", b'{"a": 1}').text.startswith("a: 1")


# --- Hangs and crashes ----------------------------------------------------------------------------
@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a library in the place of mammoth in every worker started later, that does a deed."""

    def put(deed: str) -> None:
        body = f"class images: img_element = str\ndef convert_to_html(*_, **__):\n    {deed}\n"
        (tmp_path / "mammoth.py").write_text(body)
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("while True: pass", "took longer than 1 s: given up"),
        ("import time; time.sleep(1000)", "took longer than 1 s: given up"),
        ("import os; os.abort()", r"ended the converter \(SIGABRT\)"),
        ("import os; os._exit(3)", r"ended the converter \(code 3\)"),
    ],
)
def test_a_converter_that_hangs_or_crashes_costs_one_file(
    deed: str, reason: str, misbehaving: Callable[[str], None]
) -> None:
    misbehaving(deed)
    with Converter(seconds=1) as worker:
        with pytest.raises(DocumentError, match=reason):
            worker.convert(".docx", write_docx())
        assert worker.convert(".json", b'{"a": 1}').text.startswith("a: 1")


def test_every_format_is_read_in_the_worker(
    tmp_path: Path, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(ending: str, content: bytes) -> None:
        raise AssertionError("read in the main process")

    monkeypatch.setattr("quaver.documents.formats.convert", here)
    monkeypatch.setattr("quaver.documents.worker.convert", here)
    for ending in (".txt", ".md", ".rst", ".html", ".csv", ".json", ".py"):
        path = tmp_path / f"a{ending}"
        path.write_text("[]")
        assert read_document(path, converter=converter).source == path.name


@pytest.mark.slow
def test_a_crash_costs_one_file_of_those_sent_together(
    misbehaving: Callable[[str], None], tmp_path: Path
) -> None:
    misbehaving("import os; os.abort()")
    names = ["a.txt", "b.docx", "c.exe", "d.txt", "e.docx", "f.docx", "g.rst", "h.json"]
    contents = {".docx": write_docx(), ".exe": b"\0"}
    files = [
        Unread(path, path.name, "root", contents.get(path.suffix, path.name.encode()))
        for path in (tmp_path / name for name in names)
    ]
    with Converter(seconds=20) as worker:
        found = list(read_documents(files, worker))
    said = [o.text if isinstance(o, Document) else str(o).partition(":")[0] for o in found]
    assert said == ["a.txt", "b.docx", "c.exe", "d.txt", "e.docx", "f.docx", "g.rst", "h.json"]
    assert [isinstance(outcome, Document) for outcome in found] == [
        name in ("a.txt", "d.txt", "g.rst") for name in names
    ]
    assert "SIGABRT" in str(found[1])


def test_answers_that_nobody_took_are_not_those_of_the_next_files() -> None:
    with Converter(seconds=20) as worker:
        outcomes = worker.convert_all([(".txt", b"one"), (".txt", b"two"), (".txt", b"three")])
        first = next(outcomes)
        assert isinstance(first, Document)
        assert first.text == "one"
        outcomes.close()  # type: ignore[attr-defined]
        assert worker.convert(".txt", b"four").text == "four"


def test_a_message_larger_than_the_pipes_goes_through(converter: Converter) -> None:
    texts = ["x" * 300_000, "", "größe" * 100_000, "\N{GRINNING FACE}" * 100_000]
    found = list(converter.convert_all([(".txt", text.encode()) for text in texts]))
    assert [outcome.text for outcome in found if isinstance(outcome, Document)] == texts


@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
    ],
)
def test_the_worker_opens_no_connection_and_starts_no_program(
    deed: str, misbehaving: Callable[[str], None]
) -> None:
    misbehaving(deed)
    with (
        Converter(seconds=20) as worker,
        pytest.raises(DocumentError, match="broken: converting a document does not need"),
    ):
        worker.convert(".docx", write_docx())


@pytest.mark.skipif(not POSIX, reason="the portable form has no limits")
def test_the_worker_writes_no_file(misbehaving: Callable[[str], None], tmp_path: Path) -> None:
    written = tmp_path / "written"
    misbehaving(f"import pathlib; pathlib.Path({str(written)!r}).write_text('x')")
    with (
        Converter(seconds=20) as worker,
        pytest.raises(DocumentError, match=r"broken: .*File too large"),
    ):
        worker.convert(".docx", write_docx())
    assert written.read_text() == ""


def test_closing_ends_the_process() -> None:
    worker = Converter()
    worker.convert(".json", b"{}")
    assert worker._process is not None
    pid = worker._process.pid
    worker.close()
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- XML ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ending", "part", "start"),
    [
        (".docx", "word/document.xml", "<w:document"),
        (".pptx", "ppt/slides/slide1.xml", "<p:sld"),
        (".xlsx", "xl/workbook.xml", "<workbook"),
    ],
)
def test_office_documents_with_entities_are_refused(
    ending: str, part: str, start: str, converter: Converter
) -> None:
    hostile = replaced(WHOLE[ending](), part, start, ENTITIES + start)
    with pytest.raises(DocumentError, match=rf"declares XML entities, in '{part}': refused"):
        converter.convert(ending, hostile)


def test_an_e_book_expands_no_entities_and_opens_no_files(
    converter: Converter, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    external = f'<!DOCTYPE x [<!ENTITY s SYSTEM "file://{tmp_path}/secret"><!ENTITY b "boom">]>'
    members = epub_members({"one": f"{external}<p>&s;&b;text</p>"}, title="T&s;&b;")
    members["OPS/book.opf"] = f"{external}{members['OPS/book.opf']}"
    document = converter.convert(".epub", write_zip(members))
    assert "secret" not in document.text + str(document.sections)
    assert "boom" not in document.text + str(document.sections)
    assert "text" in document.text


def test_an_e_book_stays_inside_its_archive(converter: Converter) -> None:
    members = epub_members({"one": "<p>x</p>"})
    package = str(members["OPS/book.opf"]).replace("text/one.xhtml", "../../../etc/passwd")
    with pytest.raises(DocumentError, match="passwd' is missing"):
        converter.convert(".epub", write_zip({**members, "OPS/book.opf": package}))


# --- Deep and long --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".json", b"[" * 100_000),
        (".jsonl", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        (".csv", b'"' + b"x" * 500_000),
        (".eml", b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 300),
    ],
)
def test_deep_and_long_content_ends(
    ending: str, content: bytes, tmp_path: Path, converter: Converter
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    try:
        read_document(path, converter=converter)
    except DocumentError as error:
        assert "broken: " in str(error)  # noqa: PT017 - reading it is as good as a reason
    assert still_reads(converter)


@pytest.mark.parametrize(
    ("ending", "part", "end"),
    [
        (".rst", "\n", ""),
        (".rst", " \r\n", "x"),
        (".rst", ".. _a:\n\n", "x"),
        (".rst", ":a", f"\n{'=' * 100_000}\n\nx"),
        (".rst", "`a*", f"\n{'=' * 100_000}\n\nx"),
        (".md", "\n", ""),
        (".md", "[", ""),
        (".md", "*a_ ", ""),
        (".md", "a``b`", ""),
        (".md", "> - ", ""),
        (".md", "# [a\n", ""),
        (".csv", '\n"x', ""),
        (".csv", ',"', ""),
        (".html", "<!--", ""),
        (".html", "<!-->", ""),
        (".html", "<a b='", ""),
        (".html", '<a b="', "'>"),
        (".html", "<![CDATA[", ""),
        (".html", "<![x", ">"),
        (".html", "</a", ""),
        (".html", "<table>", ""),
        (".html", "<table><tr><td>x", ""),
        (".html", "<h1><a href='#'>#", ""),
    ],
)
def test_a_hundred_kilobytes_of_anything_are_read_in_seconds(
    ending: str, part: str, end: str, converter: Converter
) -> None:
    # Each of these once took the square of its length, or more: far over the limit of 20 seconds.
    text = (part * 100_000)[:100_000] + end
    assert isinstance(converter.convert(ending, text.encode()), Document)


def test_a_line_of_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # takes no room on the disk
    with pytest.raises(DocumentError, match=r"a\.txt: larger than 100 MB: split it, or exclude"):
        read_document(path)


def test_a_text_that_is_too_long_is_refused(converter: Converter) -> None:
    with pytest.raises(DocumentError, match="has 20000001 characters, the limit is 20000000"):
        converter.convert(".txt", b"x" * (LIMITS.characters + 1))


# --- Files that are no documents ------------------------------------------------------------------
def test_a_file_that_waits_for_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")

    def wait(file: int, size: int) -> bytes:  # as /proc/kmsg does, which is a regular file
        raise BlockingIOError(errno.EAGAIN, "would wait")

    monkeypatch.setattr(os, "read", wait)
    with pytest.raises(
        DocumentError, match=r"a\.txt: not a document: reading it would wait for more data"
    ):
        read_bytes(path)


@pytest.mark.skipif(not POSIX, reason="the portable form may wait for a pipe")
def test_files_are_opened_so_that_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flag: flags.append(flag) or real(path, flag))
    (tmp_path / "a.txt").write_text("x")
    assert read_bytes(tmp_path / "a.txt") == b"x"
    assert flags[0] & os.O_NONBLOCK


def test_a_file_without_size_is_read_to_its_end_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "status.txt"
    link.symlink_to("/proc/self/status")  # no size, and an end
    assert read_bytes(link).startswith(b"Name:")
    monkeypatch.setattr(os, "read", lambda file, size: bytes(size))
    path = tmp_path / "empty.txt"
    path.touch()
    with pytest.raises(DocumentError, match="not a document: it has no size and does not end"):
        read_bytes(path)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/"])
def test_devices_and_folders_are_not_opened(target: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(target)
    with pytest.raises(DocumentError, match="not a regular file"):
        read_document(tmp_path / "a.txt")


# --- Patterns -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a*" * 40 + "b", "a" * 250),
        ("*a" * 40 + "?b", "c/" + "a" * 250),
        ("?*" * 100 + "b", "a" * 250),
        ("[!b]*" * 100 + "b", "a" * 250),
        ("**/a/" * 30 + "b", "a/" * 500 + "c"),
        ("**/a*a*a*/" * 30 + "b", "aaaaaaaa/" * 400 + "c"),
        ("/" + "*/**/" * 50 + "b", "a/" * 500 + "c"),
        ("**" * 1000 + "b", "a" * 250),
    ],
)
def test_a_pattern_with_many_stars_ends(pattern: str, path: str) -> None:
    patterns = Patterns.of([pattern])
    assert patterns.last_first
    assert patterns.verdict(path) is None
    assert patterns.verdict(path[:-1] + "b") is True


def test_a_gitignore_is_no_trap(tmp_path: Path) -> None:
    (tmp_path / ("a" * 200 + ".txt")).write_text("x")
    (tmp_path / ".gitignore").write_text("a*" * 40 + "b\n[z-a]\n[[a]\na[\n")
    assert len(scan_folder(tmp_path).files) == 1
    (tmp_path / ".gitignore").write_text("*a*b\n" * 50_000)
    scan = scan_folder(tmp_path)
    assert len(scan.files) == 1
    assert [(failure.source, failure.reason) for failure in scan.failures] == [
        (".gitignore", "larger than 0.1 MB: split it, or exclude it; it is ignored")
    ]
    (tmp_path / ".gitignore").unlink()
    os.mkfifo(tmp_path / ".gitignore")
    assert scan_folder(tmp_path).failures[0].reason == "not a regular file; it is ignored"


# --- Folders --------------------------------------------------------------------------------------
def test_hostile_names_and_loops_are_reported_or_passed_over(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("x")
    with open(os.fsencode(tmp_path) + b"/bad\xff.pdf", "w"):  # noqa: PTH123
        pass
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "trip").symlink_to("../round")
    (tmp_path / "line\nend.txt").write_text("x")
    scan = scan_folder(tmp_path)
    assert [path.name for path in scan.files] == ["good.txt", "line\nend.txt"]
    assert [failure.source for failure in scan.failures] == [r"bad\udcff.pdf"]
