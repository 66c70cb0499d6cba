"""Index a realistic folder: failures are reported and stop nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from quaver import Embedder, Index, InputError, cli
from sample_documents import EMAIL, write_docx, write_pdf, write_xlsx


@pytest.fixture(scope="module")
def embedder(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    (folder / "drafts").mkdir(parents=True)
    (folder / "list.txt").write_text("The list of files.")
    (folder / "drafts" / "dict.md").write_text("The dict of strings.")
    (folder / "tea.docx").write_bytes(write_docx())
    (folder / "table.xlsx").write_bytes(write_xlsx({"S": [["name", "born"], ["Ada", 1815]]}))
    (folder / "mail.eml").write_bytes(EMAIL)
    (folder / "two.pdf").write_bytes(write_pdf([["The list."], ["The function returns."]]))
    (folder / "empty.pdf").write_bytes(write_pdf([[]]))
    (folder / "locked.pdf").write_bytes(write_pdf([["secret"]], password="x"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    (folder / "broken.docx").write_bytes(write_docx()[:-400])
    (folder / "latin.csv").write_bytes(b"gr\xf6\xdfe,1\n")
    return folder


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_what_fails_is_reason_and_the_rest_is_stored(embedder: Embedder, folder: Path) -> None:
    with Index.create(":memory:", embedder) as index:
        report = index.update(folder)
        reasons = {failure.source: failure.reason for failure in report.failed}
        assert set(reasons) == {"locked.pdf", "broken.pdf", "broken.docx", "latin.csv"}
        assert reasons["locked.pdf"] == "encrypted: save a copy without a password"
        assert reasons["broken.pdf"].startswith("broken: ")
        assert reasons["latin.csv"].startswith("not valid utf-8")
        assert (report.files, report.empty) == (7, ("empty.pdf",))
        pages = {
            hit.metadata["page"]: hit.text
            for hit in index.search("list function", k=50)
            if hit.source == "two.pdf"
        }
        assert pages == {1: "The list.\n\nThe function returns."}
        again = index.update(folder)
        assert (again.added, again.unchanged, again.removed) == (0, report.added, 0)
        assert again.failed == report.failed


def test_files_of_unknown_kinds_are_passed_over_or_taken_as_text(
    embedder: Embedder, folder: Path
) -> None:
    (folder / "README").write_text("The list of strings.")
    (folder / "notes.xyz").write_text("The function of strings.")
    (folder / "data.xyz").write_bytes(b"\0\1")
    (folder / "latin.xyz").write_bytes(b"gr\xf6\xdfe")
    with Index.create(":memory:", embedder) as index:
        report = index.update(folder)
        assert report.others == {".xyz": 3}
        assert "README" in {hit.source for hit in index.search("list strings", k=50)}
        report = index.update(folder, include=["*.xyz"])
        assert (report.files, report.others) == (1, {".xyz": 1})
        assert [failure.source for failure in report.failed] == ["latin.xyz"]
        assert {hit.source for hit in index.search("strings", k=50)} == {"notes.xyz"}


def test_what_is_no_longer_wanted_is_dropped(embedder: Embedder, folder: Path) -> None:
    with Index.create(":memory:", embedder) as index:
        first = index.update(folder, include=["*.txt", "*.md"])
        assert first.files == 2
        second = index.update(folder, include=["*.txt", "*.md"], exclude=["drafts/"])
        assert (second.files, second.removed) == (1, 1)
        with pytest.raises(InputError, match="include must be a list"):
            index.update(folder, include="*.txt")
        (folder / ".gitignore").write_text("*.txt\n")
        assert index.update(folder, include=["*.txt", "*.md"]).files == 1
        assert index.update(folder, include=["*.txt", "*.md"], gitignore=False).files == 2


def test_the_command_lists_failures_by_their_reason(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    for number in range(12):
        (folder / f"l{number:02}.pdf").write_bytes((folder / "locked.pdf").read_bytes())
    store = tmp_path / "kb"
    code, out, err = call(
        *("index", folder, "--model", tiny_folder, "--store", store),
        *("--include", "*.pdf", "--exclude", "broken*"),
    )
    assert code == 0
    assert out.startswith("2 files from ")
    assert "quaver: 1 file without text: empty.pdf\n" in err
    assert "quaver: 13 files could not be read:\n  l00.pdf, l01.pdf, " in err
    assert " l09.pdf and 3 more: encrypted: save a copy without a password\n" in err
    code, out, _ = call("search", store, "function", "-k", 1)
    assert "two.pdf, p. 1" in out
    code, _, err = call("index", folder, "--store", store, "--include", "!")
    assert (code, "include needs patterns as in .gitignore" in err) == (2, True)


def test_a_missing_extra_is_reason_once(
    tiny_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What lies in the way of the worker's imports is found first, as if nothing were installed.
    (tmp_path / "pypdfium2.py").write_text("raise ModuleNotFoundError('no', name='pypdfium2')")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, err = call("index", folder, "-m", tiny_folder, "-s", tmp_path / "kb")
    assert code == 0
    assert out.startswith("5 files from ")
    reason = "pypdfium2 is not installed: pip install 'quaver[files]'"
    assert err.count(reason) == 1
    assert f"broken.pdf, empty.pdf, locked.pdf, two.pdf: {reason}" in err
