"""What engines make from a model is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from quaver_bench.whole_files import written_whole


def test_a_file_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with written_whole(path) as part:
        assert part.suffix == path.suffix
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_begins_without_what_a_killed_run_left(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (tmp_path / "part-model").mkdir()
    (tmp_path / "part-model" / "half").touch()
    with written_whole(path) as part:
        part.mkdir()
        (part / "whole").touch()
    assert [file.name for file in path.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(
    tmp_path: Path, folder: bool, error: type[BaseException]
) -> None:
    def fail() -> None:
        with written_whole(tmp_path / "model") as part:
            part.mkdir() if folder else part.touch()
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_one_model_get_their_names_in_order(tmp_path: Path) -> None:
    """OpenVINO writes weights beside the graph; the graph, which is looked for, comes last."""
    graph, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    with written_whole(graph) as part:
        with written_whole(weights):
            part.touch()
            part.with_suffix(".bin").touch()
        assert weights.is_file()
        assert not graph.exists()
    assert sorted(tmp_path.iterdir()) == [weights, graph]
