"""The files of a model arrive on another machine as they are, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from golden_folders import GOLDEN, unpacked
from quaver import ModelFolder, ModelFolderError
from quaver.bulk import shipping
from quaver.bulk.shipping import Shipment, pack, unpack
from quaver.models import needed_files
from tiny_model import write_tiny_model

NAMES = sorted(path.stem for path in GOLDEN.glob("*.zip") if path.stem != "checkpoints")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/quaver/models"


def packed(folder: Path) -> tuple[Shipment, dict[int, bytes]]:
    pieces: dict[int, bytes] = {}

    def put(piece: bytes) -> int:
        pieces[len(pieces)] = piece
        return len(pieces) - 1

    return pack(folder, put), pieces


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_any_kind_arrives(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "PIECE", 5_000)
    folder = unpacked(name, tmp_path)
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(b"x" * 100_000)
    shipment, pieces = packed(folder)
    arrived = unpack(shipment, pieces.__getitem__)
    assert arrived.name == folder.name  # prompts may depend on it
    there = ModelFolder.open_any(arrived)
    assert there.kind == ModelFolder.open_any(folder).kind
    assert there.fingerprint == ModelFolder.open_any(folder).fingerprint
    assert not (arrived / "onnx").exists()
    for path in needed_files(folder):
        assert (arrived / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_folder_arrives_once_for_all_processes(tmp_path: Path, cache: Path) -> None:
    shipment, pieces = packed(write_tiny_model(tmp_path / "model"))
    fetched: list[int] = []

    def get(piece: int) -> bytes:
        fetched.append(piece)
        return pieces[piece]

    threads = [threading.Thread(target=unpack, args=[shipment, get]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(fetched) == sorted(pieces)
    (place,) = cache.iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["lock", "model"]


def test_what_arrives_broken_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipment, pieces = packed(write_tiny_model(tmp_path / "model"))
    with pytest.raises(ModelFolderError, match="are not those that were sent"):
        unpack(shipment, lambda piece: pieces[piece][:-1])
    assert not list(cache.glob("*/model"))
    with pytest.raises(ModelFolderError, match="MB are needed; make room"):
        unpack(replace(shipment, size=1 << 60), pieces.__getitem__)
    unpack(shipment, pieces.__getitem__)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelFolderError, match="XDG_CACHE_HOME names another cache"):
        unpack(shipment, pieces.__getitem__)
