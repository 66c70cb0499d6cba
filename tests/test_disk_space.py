"""Disk space: what does not fit is refused before any work, and nothing is left of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quaver import Embedder, Index, Passage
from quaver.disk_space import require_disk_space
from quaver.errors import InputError, StoreWriteError
from quaver.integrations.sentence_transformers_export import copy_model
from quaver.store import FolderStore, Manifest
from quaver.store import folder as folder_module

MANIFEST = Manifest("model", "f" * 64, 64, 100, "2030-01-01T00:00:00+00:00")
FreeBytes = Callable[[int], None]


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> FreeBytes:
    """Make every disk have this many free bytes, of a terabyte."""

    def set_free(free: int) -> None:
        usage = shutil._ntuple_diskusage(1 << 40, (1 << 40) - free, free)  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return set_free


def passages(count: int) -> list[Passage]:
    return [Passage(str(i), f"text {i}", "a.md", "", 0, 6) for i in range(count)]


def rows(count: int) -> np.ndarray:
    return np.eye(64, dtype=np.float32)[np.arange(count) % 64]


def test_the_last_byte_counts(free_bytes: FreeBytes, tmp_path: Path) -> None:
    free_bytes(1_000_000)
    require_disk_space(tmp_path / "not" / "there", 1_000_000, StoreWriteError)
    with pytest.raises(StoreWriteError, match=r"full: 1\.0 MB are free, 2\.5 MB are needed"):
        require_disk_space(tmp_path, 2_500_000, StoreWriteError)


def test_a_disk_that_does_not_know_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil._ntuple_diskusage(0, 0, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_disk_space(tmp_path, 1, StoreWriteError)


def test_a_store_refuses_a_write_and_commits_what_it_accepted(
    free_bytes: FreeBytes, tmp_path: Path
) -> None:
    with FolderStore.create(tmp_path / "kb", MANIFEST) as store:
        store.upsert(passages(5), rows(5))
        free_bytes(100_000)
        store.upsert(passages(10), rows(10))
        with pytest.raises(StoreWriteError, match="MB are needed; make room"):
            store.upsert(passages(200), rows(200))
    with FolderStore.open(tmp_path / "kb") as store:
        assert store.count() == 10


def test_words_that_are_not_committed_keep_their_room(
    free_bytes: FreeBytes, tmp_path: Path
) -> None:
    text = " ".join(f"word{i}" for i in range(2000))
    wordy = [Passage(str(i), text, "a.md", "", 0, 6) for i in range(4)]
    with FolderStore.create(tmp_path / "kb", MANIFEST) as store:
        store.upsert(wordy[:3], rows(3))
        free_bytes(150_000)  # one more fits, but not with the words of the others
        with pytest.raises(StoreWriteError, match="MB are needed"):
            store.upsert(wordy[3:], rows(1))
        store.flush()
        store.upsert(wordy[3:], rows(1))


def test_a_store_that_cannot_be_rewritten_stays(
    free_bytes: FreeBytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MIN_DROPPED", 1)
    with FolderStore.create(tmp_path / "kb", MANIFEST) as store:
        store.upsert(passages(500), rows(500))
        store.delete([str(i) for i in range(200)])
        store.flush()
        before = sorted(path.name for path in store.path.iterdir())
        free_bytes(100_000)
        with pytest.raises(StoreWriteError, match="MB are needed"):
            store.optimize()
        assert sorted(path.name for path in store.path.iterdir()) == before
        assert store.search(text="text 300", k=1)[0].id == "300"
        free_bytes(1 << 40)
        store.optimize()
        assert store.count() == 300


def test_texts_that_do_not_fit_are_not_embedded(
    free_bytes: FreeBytes, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "kb", Embedder.from_pretrained(tiny_folder)) as index:
        monkeypatch.setattr("quaver.index.index.embed", lambda *_: pytest.fail("embedded"))
        free_bytes(100_000)
        with pytest.raises(StoreWriteError, match="MB are needed"):
            index.add_texts([f"text {i}" for i in range(1000)])
        assert index.store.count() == 0


def test_a_copied_model_folder(free_bytes: FreeBytes, tmp_path: Path, tiny_folder: Path) -> None:
    free_bytes(1000)
    with pytest.raises(InputError, match="MB are needed"):
        copy_model(tiny_folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
