"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quaver.system import LINUX, written_whole

GONE = 2**30
"""A number that no process has."""


def test_a_file_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with written_whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with written_whole(path) as partial:
        partial.mkdir()
        (partial / "config.json").touch()
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["config.json"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(
    tmp_path: Path, folder: bool, error: type[BaseException]
) -> None:
    def fail() -> None:
        with written_whole(tmp_path / "model") as partial:
            partial.mkdir() if folder else partial.touch()
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not LINUX, reason="elsewhere every process may still run")
def test_only_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a[b]"  # no pattern
    (tmp_path / f".{path.name}.partial-{GONE}").mkdir()
    (tmp_path / f".{path.name}.partial-{os.getpid()}").mkdir()
    others = {f".{path.name}.partial-{os.getppid()}", f".ab.partial-{GONE}", ".a[b].partial-x"}
    for name in others:
        (tmp_path / name).touch()
    with written_whole(path) as partial:
        partial.touch()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, *others}
