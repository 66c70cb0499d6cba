"""pytorch_model.bin without unpickling: what torch wrote is read, what could run code is refused.

tests/golden/checkpoints.zip has files of torch.save in both layouts: `tools/module_folders.py --golden`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_folders import unpacked, unpacked_with_outputs
from quaver import Embedder, ModelError, ModelFolderError, WeightsError
from quaver.models import torch_file
from quaver.models.weights_file import read_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = ["zip", "legacy", "protocol4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with zipfile.ZipFile(GOLDEN / "checkpoints.zip") as packed:
        packed.extractall(folder)
    return folder


def put(folder: Path, content: bytes) -> Path:
    (folder / "pytorch_model.bin").write_bytes(content)
    return folder


def archive(pickled: bytes, files: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """Make a checkpoint in the zip layout around a pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", options.get("compression", zipfile.ZIP_STORED)) as packed:
        for name, data in {"m/data.pkl": pickled, "m/data/0": b"\0" * 64, **(files or {})}.items():
            packed.writestr(name, data)
    return content.getvalue()


def tensor(
    key: bytes = b"0",
    size: int = 16,
    shape: tuple[int, ...] = (4, 4),
    strides: tuple[int, ...] = (4, 1),
) -> bytes:
    """Return the operations that put a tensor on the stack."""
    identity = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + len(key).to_bytes(4, "little") + key
    identity += b"X\x03\0\0\0cpu" + integer(size) + b"tQ"
    view = integer(0) + b"(" + b"".join(map(integer, shape)) + b"t("
    view += b"".join(map(integer, strides)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + view + b"\x89}tR"


def integer(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def state(*operations: bytes) -> bytes:
    return b"\x80\x02}X\x01\0\0\0w" + b"".join(operations) + b"s."


# --- What torch writes ----------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_of_both_layouts(layout: str, files: Path, tmp_path: Path) -> None:
    got = read_tensors(put(tmp_path, (files / f"{layout}.bin").read_bytes()))
    expected = files / "expected"
    expected.mkdir(exist_ok=True)
    (expected / "model.safetensors").write_bytes((files / "expected.safetensors").read_bytes())
    truth = read_tensors(expected)
    assert got.keys() == truth.keys()
    for name, values in truth.items():
        assert got[name].dtype == values.dtype
        assert np.array_equal(got[name], values), name


def test_tensors_are_views_of_the_file(files: Path, tmp_path: Path) -> None:
    got = read_tensors(put(tmp_path, (files / "zip.bin").read_bytes()))
    assert not got["plain"].flags.owndata
    assert not got["plain"].flags.writeable
    assert got["transposed"].flags.c_contiguous


def test_a_whole_folder_of_checkpoints(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("checkpoints", tmp_path)
    assert not list(folder.rglob("*.safetensors"))
    model = Embedder.from_pretrained(folder, precision="float32")
    np.testing.assert_allclose(
        model.encode_query(["the python module has a class", "text and data"]),
        expected["queries"][:2],
        atol=1e-5,
    )
    assert len(model.fingerprint) == 64


def test_an_exported_folder_keeps_its_checkpoints(tmp_path: Path) -> None:
    from quaver.integrations.sentence_transformers_export import copy_model

    source = unpacked("checkpoints", tmp_path)
    copy_model(source, tmp_path / "copy")
    whole, copy = (Embedder.from_pretrained(folder) for folder in (source, tmp_path / "copy"))
    assert copy.fingerprint == whole.fingerprint
    (source / "model.safetensors").write_bytes(b"")
    copy_model(source, tmp_path / "other")
    assert not (tmp_path / "other/pytorch_model.bin").exists()


def test_shards_of_torch(files: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model-1.bin", "pytorch_model-2.bin"):
        (tmp_path / name).write_bytes((files / "zip.bin").read_bytes())
    index = {"weight_map": {"plain": "pytorch_model-1.bin", "tied": "pytorch_model-2.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "plain" in read_tensors(tmp_path)
    index["weight_map"]["tied"] = "expected.safetensors"
    (tmp_path / "expected.safetensors").write_bytes((files / "expected.safetensors").read_bytes())
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ModelFolderError, match=r"names 'expected\.safetensors', which is not a file"
    ):
        read_tensors(tmp_path)


def test_safetensors_win(files: Path, tmp_path: Path) -> None:
    put(tmp_path, b"nonsense")
    (tmp_path / "model.safetensors").write_bytes((files / "expected.safetensors").read_bytes())
    assert "plain" in read_tensors(tmp_path)


def test_the_smallest_checkpoint(tmp_path: Path) -> None:
    got = read_tensors(put(tmp_path, archive(state(tensor()))))
    assert got["w"].shape == (4, 4)


def test_an_ordered_dictionary_of_python_2(tmp_path: Path) -> None:
    pairs = b"ccollections\nOrderedDict\n(]](X\x01\0\0\0w" + tensor() + b"eatR."
    assert read_tensors(put(tmp_path, archive(b"\x80\x02" + pairs))).keys() == {"w"}


# --- What is refused ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "message"),
    [("object", "calls sentence_transformers"), ("training", "'state_dict' in it is no tensor")],
)
def test_other_things_that_torch_saves(
    name: str, message: str, files: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_tensors(put(tmp_path, (files / f"{name}.bin").read_bytes()))
    assert "save_pretrained()" in str(caught.value)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:  # noqa: D107
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:  # noqa: D105
        return self._call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.mkdir, eval, exec, pickle.loads, __import__, getattr])
@pytest.mark.parametrize("layout", ["zip", "bare", "inside"])
def test_nothing_is_ever_called(
    protocol: int, function: Callable[..., Any], layout: str, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    text: Any = {eval: f"__import__('os').mkdir({str(made)!r})"}.get(function, str(made))
    call = Calls(function, text)
    value = {"w": call, "d": OrderedDict(x=call)} if layout == "inside" else call
    pickled = pickle.dumps(value, protocol=protocol)
    put(tmp_path, pickled if layout == "bare" else archive(pickled))
    with pytest.raises(WeightsError, match=r"no checkpoint of tensors"):
        read_tensors(tmp_path)
    assert not made.exists()


@pytest.mark.parametrize(
    "operations",
    [
        b"cbuiltins\neval\n",
        b"X\x08\0\0\0builtinsX\x04\0\0\0eval\x93",
        b"ctorch\nload\n",
        b"ctorch.FloatStorage\n__init__\n",
        b"ccollections\nOrderedDict\n\x81",  # NEWOBJ without arguments
        b"ccollections\nOrderedDict\n)\x81",
        b"(ios\nsystem\n",
        b"(cbuiltins\neval\no",
        b"\x82\x01",
        b"X\x01\0\0\0a)R",
        b"ccollections\nOrderedDict\n]R",
        b"ccollections\nOrderedDict\n(X\x01\0\0\0atR",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch._utils\n_rebuild_parameter\n(K\x01tR",
        b"K\x01}b",
        b"]}b",
        b"(tQ",
        b"(X\x07\0\0\0storageK\x01X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\xff\xff\xff\xfftQ",
        b"h\x07",
        b"RRRR",
        b"0000",
        b"t",
        b"(s",
        b"(0",
        b"e",
        b"\x93",
        b"\x87",
        b"q",
        b"X\xff\xff\xff\x7fabc",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc",
        b"\x8a\xff",
        b"I" + b"9" * 5000 + b"\n",
        b"c" + b"a" * 5000,
        b"(" * 10_000,
        b"\x8f",
    ],
)
def test_operations_that_no_tensors_need(operations: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint of tensors") as caught:
        read_tensors(put(tmp_path, archive(state(operations))))
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (5, 4)}, "outside of its storage"),
        ({"strides": (4, 2)}, "outside of its storage"),
        ({"shape": (2**20, 2**20), "strides": (0, 0)}, "outside of its storage"),
        ({"shape": (4,)}, "outside of its storage"),
        ({"shape": (2**47,), "strides": (1,)}, "outside of its storage"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "outside of its storage"),
        ({"shape": (-4, 4)}, "where a count belongs"),
        ({"strides": (-4, 1)}, "where a count belongs"),
        ({"shape": (2**60,), "strides": (1,)}, "where a count belongs"),
        ({"size": 17, "shape": (17,), "strides": (1,)}, "missing or too short"),
        ({"key": b"1"}, "missing or too short"),
        ({"key": b"../0"}, "missing or too short"),
    ],
)
def test_tensors_outside_of_their_storage(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        read_tensors(put(tmp_path, archive(state(tensor(**changes)))))


def test_a_text_that_would_fill_any_memory(tmp_path: Path) -> None:
    # Each tuple holds the one before twice: 2^60 of them in the text of the last.
    bomb = b")q\x01" + b"".join(b"h\x01h\x01\x86q\x01" for _ in range(60))
    for operations in (
        bomb,
        bomb + b"h\x01",
        b"ctorch._utils\n_rebuild_parameter\n(" + bomb + b"tR",
    ):
        path = put(tmp_path, archive(state(operations)))
        tracemalloc.start()
        try:
            with pytest.raises(WeightsError) as caught:
                read_tensors(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(str(caught.value)) < 700
        assert peak < 2**22  # bytes; only a part of the text is ever made


def test_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "_MAX_OPERATIONS", 50)
    with pytest.raises(WeightsError, match="longer than that of any model"):
        read_tensors(put(tmp_path, archive(state(b"N" * 60))))
    monkeypatch.setattr(torch_file, "_MAX_PICKLE", 100)
    with pytest.raises(WeightsError, match=r"data\.pkl has more than"):
        read_tensors(put(tmp_path, archive(state(tensor()))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint"),
        (b"pickle", "no checkpoint"),
        (b"PK\x03\x04", "no checkpoint"),
        (b"PK\x03\x04" + b"\0" * 1000, "no checkpoint"),
        (archive(state(tensor()), compression=zipfile.ZIP_DEFLATED), "compressed"),
        (archive(state(tensor()), {"n/data.pkl": b"."}), "more than one"),
        (archive(state(tensor()), {"m/byteorder": b"big"}), "not in little endian"),
        (archive(b"\x80\x02]."), "holds a list instead of tensors"),
        (archive(b"\x80\x02}"), "exhausted|no end"),
        (archive(b"."), "no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
def test_files_that_are_none(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_tensors(put(tmp_path, content))


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    content = io.BytesIO(archive(state(tensor())))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(content, "a") as packed,
    ):
        packed.writestr("m/data/0", b"\1" * 64)
    with pytest.raises(WeightsError, match="one name"):
        read_tensors(put(tmp_path, content.getvalue()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_ends_in_an_error_of_our_own(layout: str, files: Path, tmp_path: Path) -> None:
    whole = (files / f"{layout}.bin").read_bytes()
    draw = random.Random(layout)
    for number in range(300):
        broken = bytearray(whole)
        if number % 3 == 0:
            broken = broken[: draw.randrange(len(broken))]
        else:
            for _ in range(draw.choice((1, 3, 30))):
                broken[draw.randrange(len(broken))] = draw.randrange(256)
        with contextlib.suppress(ModelError):
            read_tensors(put(tmp_path, bytes(broken)))
