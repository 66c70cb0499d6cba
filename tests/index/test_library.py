"""Library: it follows what other processes write, and finds out again only what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from quaver.embedder import Embedder
from quaver.index import Index, Library


def test_the_status_is_made_again_only_after_a_change(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quaver.index.library._STATUS_SHARE", 1e6
    )  # a second change follows at once
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("The list of files.")
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(folder)
    library = Library(tmp_path / "kb", name="kb")
    first = library.status()
    assert [each.files for each in first.folders] == [1]
    assert library.status() is first

    (folder / "b.txt").write_text("The dict of strings.")
    with Index.open(tmp_path / "kb", embedder) as index:
        index.update(folder)
    second = library.status()
    assert [each.files for each in second.folders] == [2]

    (folder / "b.txt").write_bytes(b"\x00\x01 not text \xff")
    with Index.open(tmp_path / "kb", embedder) as index:
        index.update(folder)
    assert [each.failures for each in library.status().folders] == [1]
    library.close()


def test_a_change_shows_in_the_catalog(embedder: Embedder, tmp_path: Path) -> None:
    with Index.create(tmp_path / "kb", embedder) as index:
        index.add_texts(["A list of files."])
    library = Library(tmp_path / "kb", name="kb")
    first = library.catalog()
    assert library.catalog() is first
    assert sum(each.passages for each in first.documents) == 1
    library.close()
