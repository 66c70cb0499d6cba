"""Map the tensors of safetensors files, and of torch's checkpoints, into memory."""

from __future__ import annotations

import json
import mmap
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import ModelFolderError, WeightsError
from quaver.models.files import WeightsIndex, read_checked, refuse_pointer
from quaver.models.torch_file import torch_entries

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
# One of several files, as transformers names them.
_PART = re.compile(r".+-\d+-of-\d+\.(safetensors|bin)")
_NAMED = 3  # files that a message names
_TORCH_SINGLE = "pytorch_model.bin"
_TORCH_INDEX = "pytorch_model.bin.index.json"
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder's weights: one, or the shards of an index.

    Args:
        folder: the folder that holds config.json.

    Returns:
        safetensors files if there are any, else checkpoints of torch; sorted by name.

    Raises:
        ModelFolderError: there are none, the index is broken, or a shard is missing.
    """
    for single, index in ((WEIGHTS_FILE, WEIGHTS_INDEX), (_TORCH_SINGLE, _TORCH_INDEX)):
        if _is_file(folder / single):
            return [folder / single]
        if _is_file(folder / index):
            return _shards(folder, index)
    names = [p.name for ending in ("*.safetensors", "*.bin") for p in sorted(folder.glob(ending))]
    parts = [name for name in names if _PART.fullmatch(name)]
    if parts:
        index = WEIGHTS_INDEX if parts[0].endswith(".safetensors") else _TORCH_INDEX
        raise ModelFolderError(
            f"weights in several files need {index}, which says what is in which: {folder} has {parts[:_NAMED]} "
            "without it; download the index and all files that it names"
        )
    found = names[:_NAMED] or "no weights at all"
    raise ModelFolderError(
        f"a model folder needs {WEIGHTS_FILE}, or {_TORCH_SINGLE}: {folder} has {found}; download the model "
        "again, or load it with transformers and save it with save_pretrained()"
    )


def _shards(folder: Path, name: str) -> list[Path]:
    index = read_checked(WeightsIndex, folder / name)
    names = sorted(set(index.weight_map.values())) if index is not None else []
    for shard in names:
        fitting = shard.endswith(Path(name.removesuffix(".index.json")).suffix)
        if Path(shard).name != shard or not fitting or not _is_file(folder / shard):
            raise ModelFolderError(
                f"{name} names {shard!r}, which is not a file of weights of {folder}; download the "
                "model again"
            )
    return [folder / shard for shard in names]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or has a zero byte
        return False


class StoredTensors(Mapping[str, NDArray[Any]]):
    """The tensors of mapped files, each widened whenever it is taken: never all at once."""

    def __init__(self, widen: bool) -> None:
        """Make a mapping without tensors.

        Args:
            widen: see `read_tensors`.
        """
        self._widen = widen
        self._entries: dict[str, tuple[NDArray[np.uint8], str, tuple[int, ...]]] = {}

    def add(self, name: str, raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> None:
        """Add a tensor by its bytes."""
        self._entries[name] = (raw, dtype, shape)

    def halves(self, name: str) -> tuple[NDArray[Any], Literal["float16", "bfloat16"]] | None:
        """Return a tensor in half precision as it is stored, bfloat16 as uint16; None for another one."""
        raw, dtype, shape = self._entries[name]
        if dtype not in ("F16", "BF16") or raw.ctypes.data % 2:
            return None
        values: NDArray[Any] = raw.view(_DTYPES[dtype]).reshape(shape)
        return values, "float16" if dtype == "F16" else "bfloat16"

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a tensor."""
        return _array(*self._entries[name], self._widen)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a tensor of this name, without reading it."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._entries)


def read_tensors(folder: Path, *, widen: bool = True, single: str | None = None) -> StoredTensors:
    """Map every tensor of a model folder.

    Half precision (F16, BF16) and F64 become float32 when a tensor is taken; float32 and integers
    stay views of the mapped file, read-only.

    Args:
        folder: the folder that holds model.safetensors.
        widen: False leaves F16 and F64 as they are.
        single: the file to read; None for the model's.

    Returns:
        tensors by name.

    Raises:
        ModelFolderError: there is no safetensors file, or a shard is missing.
        WeightsError: a file is truncated or corrupt, or has an unsupported dtype.
    """
    tensors = StoredTensors(widen)
    if single is not None and not _is_file(folder / single):
        raise ModelFolderError(f"{folder} needs {single}; download the model again")
    for path in weight_files(folder) if single is None else [folder / single]:
        _add(tensors, path)
    return tensors


def read_tensor_file(path: Path) -> StoredTensors:
    """Map the tensors of one file, as `read_tensors` does.

    Args:
        path: a safetensors file (.safetensors), or a checkpoint of torch (.bin, .pt), which is never
            unpickled.

    Returns:
        tensors by name.

    Raises:
        WeightsError: it is no such file, is truncated or corrupt, or has an unsupported dtype.
    """
    tensors = StoredTensors(widen=True)
    _add(tensors, path)
    return tensors


def _add(tensors: StoredTensors, path: Path) -> None:
    for name, dtype, shape, raw in _entries(path):
        if dtype not in _DTYPES:
            raise WeightsError(
                f"{path}: tensor {name!r} has dtype {dtype}; supported are {', '.join(_DTYPES)}"
            )
        tensors.add(name, raw, dtype, shape)


def stored_halves(
    tensors: Mapping[str, NDArray[Any]], name: str
) -> tuple[NDArray[Any], Literal["float16", "bfloat16"]] | None:
    """Return a tensor in half precision as it is stored, see `StoredTensors.halves`; None for another one."""
    sources = tensors.maps if isinstance(tensors, ChainMap) else [tensors]
    owner = next((source for source in sources if name in source), None)
    return owner.halves(name) if isinstance(owner, StoredTensors) else None


def sample_tensors(
    folder: Path, size: int = 4096, single: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield samples that distinguish sets of weights without reading them completely.

    Args:
        folder: the folder that holds model.safetensors.
        size: bytes taken from the start of every tensor.
        single: the file to read; None for the model's.

    Yields:
        a description (name, dtype, shape) and the first bytes of each tensor, sorted by name.

    Raises:
        ModelFolderError: there is no safetensors file, or a shard is missing.
        WeightsError: a file is truncated or corrupt.
    """
    samples = [
        (f"{name} {dtype} {shape}", raw[:size].tobytes())
        for path in (weight_files(folder) if single is None else [folder / single])
        for name, dtype, shape, raw in _entries(path)
    ]
    yield from sorted(samples)


def _entries(
    path: Path,
) -> Iterator[tuple[str, str, tuple[int, ...], NDArray[np.uint8]]]:
    """Yield name, dtype, shape and bytes of each tensor.

    The safetensors library checks the whole header (sizes, overlaps, file length). The bytes come
    from a separate memory map, because the library's NumPy reader copies every tensor and does not
    support bfloat16.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix in (".bin", ".pt"):
        with path.open("rb") as file:
            refuse_pointer(path, file.read(64))
        yield from torch_entries(path)
        return
    try:
        with path.open("rb") as file:
            refuse_pointer(path, file.read(64))
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=0)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a complete safetensors file: {error}; it is truncated or corrupt, "
            "download it again"
        ) from error
    data = np.asarray(mapped)[8 + length :]
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], tuple(entry["shape"]), data[begin:end]


def _array(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...], widen: bool) -> NDArray[Any]:
    kind = np.dtype(_DTYPES[dtype])
    if raw.ctypes.data % kind.itemsize:
        raw = raw.copy()
    values = raw.view(kind).reshape(shape)
    if dtype == "BF16":
        wide = np.empty(shape, np.uint32)
        np.left_shift(values, np.uint32(16), out=wide, dtype=np.uint32)
        release_pages(raw)
        return wide.view(np.float32)
    if not widen or dtype not in ("F16", "F64"):
        return values
    # What is too large becomes infinity, which whoever takes the tensor refuses by its name.
    with np.errstate(over="ignore", invalid="ignore"):
        widened = values.astype(np.float32)
    release_pages(raw)
    return widened


def release_pages(array: NDArray[Any]) -> None:
    """Release the memory of an array that is a view of a mapped file.

    Its pages stay in the system's cache, and reading them again costs a page fault. Without this, a
    model would be in memory twice while it loads: as on disk, and packed.

    Args:
        array: any array; no effect if it owns its memory or shares a writable map.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or array.flags.writeable or not array.flags.c_contiguous:
        return
    if not hasattr(mmap, "MADV_DONTNEED"):  # not on every system
        return
    begin = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, first, begin + array.nbytes - first)
