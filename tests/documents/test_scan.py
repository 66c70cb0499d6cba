"""Which files of a folder are documents: hidden files, links, .gitignore, patterns."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from quaver.documents import Selection, read_document, scan_folder
from quaver.documents.formats import ENDINGS_SHOWN
from quaver.documents.patterns import Patterns
from quaver.errors import DocumentError, InputError


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
    assert len(ENDINGS_SHOWN) < 100


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
    with pytest.raises(
        DocumentError, match=r"found none .* that the patterns select \(\*\.pdf, not x\)"
    ):
        scan_folder(tree, Selection.of(["*.pdf"], ["x"]))


@pytest.mark.parametrize("pattern", ["", " ", "!", "a[", "#"])
def test_a_pattern_must_be_one(pattern: str) -> None:
    with pytest.raises(InputError, match=r"exclude needs patterns as in \.gitignore"):
        Selection.of(exclude=["*.txt", pattern])


def test_patterns_are_a_list() -> None:
    with pytest.raises(InputError, match="include must be a list of patterns: got the str"):
        Selection.of("*.pdf")
