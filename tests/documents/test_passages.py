"""Reading: formats, headings, offsets, encodings, folders."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from quaver.documents import Document, Section, Selection, read_document, scan_folder
from quaver.documents.formats import ENDINGS_SHOWN
from quaver.documents.patterns import Patterns
from quaver.documents.rst import _without_targets
from quaver.errors import DocumentError, InputError


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


def test_html_that_is_never_closed_keeps_its_text(tmp_path: Path) -> None:
    page = "<p>one <!-- two <b>three</b> <a href='four"
    assert outline(read(tmp_path, "a.html", page)) == [("", "one <!-- two three <a href='four")]
    page = "<p>one <![if !IE]>two<![endif]> <!-- no --> three<!---->"
    assert outline(read(tmp_path, "b.html", page)) == [("", "one two three")]


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


def test_scan_skips_what_is_hidden_and_ends_in_link_loops(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in ("b.MD", "sub/a.txt", "sub/deeper/c.html", ".hidden.txt", ".git/d.txt", "e.exe"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    outside.mkdir()
    (outside / "f.rst").write_text("x")
    (root / "sub" / "loop").symlink_to(root)
    (root / "sub" / "again").symlink_to(root / "sub" / "deeper")
    (root / "linked").symlink_to(outside)
    (root / "linked_too").symlink_to(outside)
    (outside / "back").symlink_to(outside)
    (root / "self").symlink_to("self")
    (root / "self.txt").symlink_to("self.txt")
    scan = scan_folder(root, Selection(follow_links=True))
    found = [path.relative_to(root).as_posix() for path in scan.files]
    assert found == ["b.MD", "linked/f.rst", "self.txt", "sub/a.txt", "sub/deeper/c.html"]
    assert scan.failures == scan.outside == ()
    with pytest.raises(DocumentError, match=r"self\.txt: cannot be read: Too many levels"):
        read_document(root / "self.txt")


def test_links_that_lead_outside_are_not_followed_unless_asked(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-2"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("x")
    (root / "file.txt").symlink_to(outside / "a.txt")
    (root / "folder").symlink_to("../root-2")
    (root / "inner.txt").symlink_to("sub/a.txt")
    (root / "by_way.txt").symlink_to("also.txt")  # a link inside that leads to one outside
    (root / "also.txt").symlink_to(outside / "a.txt")
    (root / "up").symlink_to("..")
    (root / "left_out.txt").symlink_to(outside / "a.txt")
    scan = scan_folder(root, Selection.of(exclude=["left_out.txt"]))
    assert [path.relative_to(root).as_posix() for path in scan.files] == ["inner.txt", "sub/a.txt"]
    assert scan.outside == ("also.txt", "by_way.txt", "file.txt", "folder", "up")
    scan = scan_folder(root, Selection.of(follow_links=True))
    found = [path.relative_to(root).as_posix() for path in scan.files]
    assert found == sorted(
        [
            "also.txt",
            "by_way.txt",
            "file.txt",
            "folder/a.txt",
            "inner.txt",
            "left_out.txt",
            "sub/a.txt",
        ]
    )
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.txt").symlink_to(outside / "a.txt")
    with pytest.raises(DocumentError, match=r"1 link.* were not followed \(--follow-links does\)"):
        scan_folder(only)


def test_an_indexed_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_text("x")
    (tmp_path / "root" / "b.txt").symlink_to("a.txt")
    (tmp_path / "link").symlink_to("root")
    assert names(tmp_path / "link") == ["a.txt", "b.txt"]


def test_scan_reports_names_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with open(os.fsencode(tmp_path) + b"/b\xff.txt", "w"):  # noqa: PTH123
        pass
    scan = scan_folder(tmp_path)
    assert [path.name for path in scan.files] == ["a.txt"]
    assert [failure.source for failure in scan.failures] == [r"b\udcff.txt"]


def test_a_folder_without_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is nothing at"):
        scan_folder(tmp_path / "no")
    (tmp_path / "a.exe").write_text("x")
    with pytest.raises(DocumentError, match="there is a file at"):
        scan_folder(tmp_path / "a.exe")
    with pytest.raises(DocumentError) as caught:
        scan_folder(tmp_path)
    assert ENDINGS_SHOWN in str(caught.value)


def names(folder: Path, selection: Selection | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in scan_folder(folder, selection).files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in ("a.txt", "b.md", "out/c.txt", "sub/d.txt", "sub/e.log", "sub/deep/f.log"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    return tmp_path


def test_gitignore_is_honoured_in_every_folder_the_deepest_last(tree: Path) -> None:
    (tree / ".gitignore").write_bytes(b"# comment\n/out/\n*.log\n\xff\nb[.md\n")
    (tree / "sub" / ".gitignore").write_text("!e.log\n/d.txt\n")
    assert names(tree) == ["a.txt", "b.md", "sub/e.log"]
    everything = ["a.txt", "b.md", "out/c.txt", "sub/d.txt", "sub/deep/f.log", "sub/e.log"]
    assert names(tree, Selection(gitignore=False)) == everything


# --- Patterns -------------------------------------------------------------------------------------
NAMES = ["a", "b", "ab", "a.b", "aab", "a-b", "abba", "ba"]
PATTERNS = st.builds(
    lambda start, names, end: start + "/".join("".join(name) for name in names) + end,
    st.sampled_from(["", "", "/", "!"]),
    st.lists(
        st.one_of(
            st.lists(st.sampled_from([*"ab*?.-", "[ab]", "[a-b]", "\\a"]), min_size=1, max_size=5),
            st.sampled_from([["**"], ["*"], *map(list, NAMES)]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["", "", "/", " "]),
).filter(
    lambda line: "/**" not in line.rstrip(" /")[-3:]
)  # git and pathspec differ on "a/**" for a/


@given(
    PATTERNS,
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_pattern_means_what_pathspec_says(line: str, path: list[str], folder: bool) -> None:
    # One pattern: of several, pathspec does not always take the last as git does.
    ours, theirs = Patterns.of([line]), GitIgnoreSpec.from_lines([line])
    # As in a walk: what is inside an ignored folder is never asked for.
    for depth in range(1, len(path) + 1):
        below = "/".join(path[:depth]) + ("/" if folder or depth < len(path) else "")
        assert bool(ours.verdict(below)) == bool(theirs.check_file(below).include), below
        if ours.verdict(below):
            break


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge")
def test_patterns_mean_what_git_says(tmp_path: Path) -> None:
    draw = random.Random(0)
    signs = ["a", "b", "*", "?", "**", ".", "-", "[ab]", "[!a]", "[a-b]", "[]a]", "[b-a]", "\\a"]
    signs += ["[[:alpha:]]", "[^b]", "[\\]a]", "[a-]", "]", "\\*", "[[:foo:]]", "[a"]
    odd = [*NAMES, "a]", "!a", "#a", "a b", "A"]
    paths = {"/".join(draw.choices(odd, k=draw.randint(1, 4))) for _ in range(150)}
    folders = {parent for path in paths for parent in map(str, Path(path).parents)}
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if path not in folders:
            (tmp_path / path).write_text("")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    ask = ["git", "check-ignore", "--no-index", "-v", "-n", "-z", "--stdin"]
    for _ in range(60):
        lines = []
        for _ in range(draw.randint(1, 3)):
            parts = [
                "".join(draw.choices(signs, k=draw.randint(1, 4)))
                for _ in range(draw.randint(1, 3))
            ]
            # A bracket that is open at a slash ends behind it for git; here the pattern is none.
            if len(parts) == 1 or not any(
                "[a" in part.replace("[a-", "").replace("[ab", "") for part in parts
            ):
                lines.append(
                    draw.choice(["", "/", "!"]) + "/".join(parts) + draw.choice(["", "/", " "])
                )
        (tmp_path / ".gitignore").write_text("\n".join(lines))
        asked = "\0".join(sorted(paths))
        said = subprocess.run(ask, cwd=tmp_path, input=asked, capture_output=True, text=True).stdout
        fields = said.split("\0")[:-1]
        rows = zip(fields[0::4], fields[2::4], fields[3::4], strict=True)
        git = {path: bool(file) and not pattern.startswith("!") for file, pattern, path in rows}
        ours = Patterns.of(lines)
        for path in paths:
            above = [f"{parent}/" for parent in map(str, Path(path).parents) if parent != "."]
            whole = path + "/" * (path in folders)
            verdict = any(ours.verdict(below) for below in [*above, whole])
            assert verdict == git[path], (lines, path)


def test_patterns_include_and_exclude(tree: Path) -> None:
    assert names(tree, Selection.of(include=["*.log", "/b.md"])) == [
        "b.md",
        "sub/deep/f.log",
        "sub/e.log",
    ]
    assert names(tree, Selection.of(include=["sub/"], exclude=["deep/"])) == [
        "sub/d.txt",
        "sub/e.log",
    ]
    with pytest.raises(DocumentError, match=r"found none .* that patterns want \(\*\.pdf, not x\)"):
        scan_folder(tree, Selection.of(["*.pdf"], ["x"]))


@pytest.mark.parametrize("pattern", ["", " ", "!", "a[", "#"])
def test_a_pattern_must_be_one(pattern: str) -> None:
    with pytest.raises(InputError, match=r"exclude needs patterns as in \.gitignore"):
        Selection.of(exclude=["*.txt", pattern])


def test_patterns_are_a_list() -> None:
    with pytest.raises(InputError, match="include must be a list of patterns: got the str"):
        Selection.of("*.pdf")
