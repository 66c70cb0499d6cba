"""safetensors files: one, several, half precision, damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quaver.errors import ModelFolderError, WeightsError
from quaver.models.weights_file import read_tensors, release_pages, sample_tensors
from tiny_model import write_json

VALUES = np.array([[1.5, -2.25, 0.0], [3e-3, 1e4, -0.5]], np.float32)


def write_raw(path: Path, entries: dict[str, tuple[str, list[int], bytes]], pad: int = 0) -> None:
    """Write a safetensors file by hand, for dtypes and alignments the library does not write."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in entries.items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + pad)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": VALUES, "b": np.arange(4, dtype=np.int64)}, tmp_path / "model.safetensors")
    return tmp_path


def test_float32_and_integers_are_views(folder: Path) -> None:
    tensors = read_tensors(folder)
    assert np.array_equal(tensors["a"], VALUES)
    assert tensors["b"].tolist() == [0, 1, 2, 3]
    assert not tensors["a"].flags.owndata
    assert not tensors["a"].flags.writeable


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    brain = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    entries = {
        "half": ("F16", [2, 3], VALUES.astype(np.float16).tobytes()),
        "brain": ("BF16", [2, 3], brain.tobytes()),
        "double": ("F64", [2, 3], VALUES.astype(np.float64).tobytes()),
    }
    write_raw(tmp_path / "model.safetensors", entries)
    tensors = read_tensors(tmp_path)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert np.array_equal(tensors["half"], VALUES.astype(np.float16).astype(np.float32))
    # bfloat16 keeps 8 bits of precision; cutting loses less than one part in 128.
    assert np.allclose(tensors["brain"], VALUES, rtol=2**-7, atol=0)
    assert np.array_equal(tensors["double"], VALUES)


def test_unaligned_tensors_are_read(tmp_path: Path) -> None:
    entries = {"byte": ("U8", [1], b"x"), "a": ("F32", [2, 3], VALUES.tobytes())}
    write_raw(tmp_path / "model.safetensors", entries, pad=3)
    assert np.array_equal(read_tensors(tmp_path)["a"], VALUES)


def test_shards(tmp_path: Path) -> None:
    save_file({"a": VALUES}, tmp_path / "model-1.safetensors")
    save_file({"b": -VALUES}, tmp_path / "model-2.safetensors")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": shards})
    assert {name: t[0, 0] for name, t in read_tensors(tmp_path).items()} == {"a": 1.5, "b": -1.5}
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(
        ModelFolderError, match=r"names 'model-2\.safetensors', which is not a file"
    ):
        read_tensors(tmp_path)


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors\.index\.json"):
        read_tensors(tmp_path)


def test_a_shard_outside_the_folder_is_refused(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    index = {"weight_map": {"a": "../model.safetensors"}}
    write_json(inner / "model.safetensors.index.json", index)
    with pytest.raises(ModelFolderError, match=r"names '\.\./model\.safetensors'"):
        read_tensors(inner)


def test_weights_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"pickle")
    with pytest.raises(ModelFolderError, match=r"has \['training_args\.bin'\]; download"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("part", "index"),
    [
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_a_part_of_the_weights_without_an_index(part: str, index: str, tmp_path: Path) -> None:
    (tmp_path / part).write_bytes(b"")
    (tmp_path / "training_args.bin").write_bytes(b"pickle")
    with pytest.raises(ModelFolderError, match=rf"need {index}, .* has \['{part}'\] without it"):
        read_tensors(tmp_path)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFolderError, match=r"has \['adapter_model\.safetensors'\]; download"):
        read_tensors(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="has no weights at all"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 20, -1])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        WeightsError, match=r"model\.safetensors is not a complete safetensors file"
    ):
        read_tensors(folder)


@pytest.mark.parametrize(
    "garbage", [b"garbage" * 10, b"\xff" * 64, b"\x08" + b"\0" * 7 + b"[1, 2]  "]
)
def test_a_corrupt_file_is_named(folder: Path, garbage: bytes) -> None:
    (folder / "model.safetensors").write_bytes(garbage)
    with pytest.raises(WeightsError, match="truncated or corrupt"):
        read_tensors(folder)


def test_a_header_that_contradicts_itself(tmp_path: Path) -> None:
    write_raw(tmp_path / "model.safetensors", {"a": ("F32", [2, 4], VALUES.tobytes())})
    with pytest.raises(WeightsError, match="truncated or corrupt"):
        read_tensors(tmp_path)


def test_a_dtype_no_encoder_uses(tmp_path: Path) -> None:
    write_raw(tmp_path / "model.safetensors", {"a": ("F8_E4M3", [4], b"1234")})
    with pytest.raises(WeightsError, match="'a' has dtype F8_E4M3; supported are F64"):
        read_tensors(tmp_path)


def test_samples_name_every_tensor(folder: Path) -> None:
    samples = dict(sample_tensors(folder, size=8))
    assert samples == {
        "a F32 (2, 3)": VALUES.tobytes()[:8],
        "b I64 (4,)": (0).to_bytes(8, "little"),
    }


# --- Pages ----------------------------------------------------------------------------------------
PAGE = 4096
SIZE = 64 * PAGE


def _resident_kb(path: Path) -> int:
    """Kilobytes of a mapped file that are in this process's memory."""
    inside = total = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def test_pages_leave_memory_and_come_back(file: Path) -> None:
    mapped = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
    part = mapped[100:].view(np.uint8)
    before = int(part.sum())
    assert _resident_kb(file) == SIZE // 1024
    release_pages(part)
    assert _resident_kb(file) == 0
    assert int(part.sum()) == before


def test_other_arrays_are_left_alone(file: Path) -> None:
    own = np.arange(SIZE)
    release_pages(own)
    assert int(own[-1]) == SIZE - 1
    copy_on_write = np.memmap(file, dtype=np.uint8, mode="c")
    copy_on_write[:] = 7
    release_pages(copy_on_write)
    assert (copy_on_write == 7).all()
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    release_pages(mapped[::2])
    release_pages(mapped[:0])
