"""Watching: a change in the folder is in the index a moment later, and others can search meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from quaver import DocumentError, Embedder, Index
from quaver.errors import StoreLockedError
from quaver.index.report import UpdateReport
from quaver.index.watching import watch

PATIENCE = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("The list of files.")
    return folder


@pytest.fixture
def reports(
    folder: Path, tmp_path: Path, embedder: Embedder
) -> Iterator[Queue[UpdateReport | DocumentError]]:
    """What a watching thread yields; it is stopped at the end."""
    Index.create(tmp_path / "kb", embedder).close()
    seen: Queue[UpdateReport | DocumentError] = Queue()
    stop = threading.Event()

    def run() -> None:
        for report in watch(tmp_path / "kb", embedder, folder, stop=stop):
            seen.put(report)

    thread = threading.Thread(target=run)
    thread.start()
    yield seen
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def settled(seen: Queue[UpdateReport | DocumentError], **counts: int) -> None:
    """Waits until the reports add up: a change may be seen in two halves."""
    sums = dict.fromkeys(counts, 0)
    while sums != counts:
        report = seen.get(timeout=PATIENCE)
        assert isinstance(report, UpdateReport)
        sums = {name: value + getattr(report, name) for name, value in sums.items()}


def test_changes_are_followed_and_searched_meanwhile(
    reports: Queue[UpdateReport | DocumentError], folder: Path, tmp_path: Path, embedder: Embedder
) -> None:
    def texts() -> set[str]:
        # The watcher may hold the store for the moment of an update.
        for _ in range(600):
            try:
                with Index.open(tmp_path / "kb", embedder) as index:
                    return {row.passage.text for row in index.store.scan()}
            except StoreLockedError:
                threading.Event().wait(0.1)
        raise AssertionError("the store stays locked")

    settled(reports, added=1)
    assert texts() == {"The list of files."}
    (folder / "b.md").write_text("The dict of strings.")
    settled(reports, added=1)
    assert texts() == {"The list of files.", "The dict of strings."}
    (folder / "a.md").rename(folder / "c.md")
    settled(reports, added=0, reused=1, removed=1)
    (folder / "b.md").unlink()
    settled(reports, removed=1)
    assert texts() == {"The list of files."}


def test_the_store_is_closed_when_a_report_is_given(
    folder: Path, tmp_path: Path, embedder: Embedder
) -> None:
    Index.create(tmp_path / "kb", embedder).close()
    turns = watch(tmp_path / "kb", embedder, folder)
    assert isinstance(next(turns), UpdateReport)
    Index.open(tmp_path / "kb", embedder).close()
    (folder / "a.md").rename(folder / "a.unknown")
    assert isinstance(next(turns), DocumentError)
    Index.open(tmp_path / "kb", embedder).close()


def test_an_empty_folder_is_told_and_watched_on(
    reports: Queue[UpdateReport | DocumentError], folder: Path
) -> None:
    settled(reports, added=1)
    (folder / "a.md").rename(folder / "a.unknown")
    error = reports.get(timeout=PATIENCE)
    assert isinstance(error, DocumentError)
    assert "needs at least one document" in str(error)
    (folder / "a.unknown").rename(folder / "a.txt")
    settled(reports, added=0, reused=1, removed=1)
