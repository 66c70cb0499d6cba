"""Write a safetensors file tensor by tensor, so that a model is never in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# The largest alignment of a dtype. What comes before a tensor must be a multiple of it.
_STEP = 8
# Smaller tensors, and those that are no multiple of a step, are kept until the end and written by their alignment.
_STREAMED = 1 << 16


def write_weights(
    path: Path, tensors: Iterable[tuple[str, NDArray[Any]]], names: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Write tensors as they come.

    Why not the library's writer: it takes all tensors at once, and hides the error of a full disk.

    Args:
        path: the new file.
        tensors: names and arrays.
        names: at least how many bytes the header needs. The rest of that room is filled with spaces.

    Returns:
        dtype and shape of every tensor by its name.

    Raises:
        OSError: the file cannot be written.

    Source:
        The format: https://huggingface.co/docs/safetensors
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    written: dict[str, tuple[str, tuple[int, ...]]] = {}
    small: list[tuple[str, NDArray[Any]]] = []
    room = -(-names // _STEP) * _STEP
    end = 0

    with path.open("wb") as file:
        file.seek(8 + room)

        def write(name: str, tensor: NDArray[Any]) -> None:
            nonlocal end
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            header[name] = {
                "dtype": _DTYPES[tensor.dtype.name],
                "shape": list(tensor.shape),
                "data_offsets": [end, end + tensor.nbytes],
            }
            end += tensor.nbytes

        for name, tensor in tensors:
            written[name] = (tensor.dtype.name, tensor.shape)
            if tensor.nbytes < _STREAMED or tensor.nbytes % _STEP:
                small.append((name, tensor.copy()))
            else:
                write(name, tensor)
        for name, tensor in sorted(small, key=lambda item: (-item[1].itemsize, item[0])):
            write(name, tensor)
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        assert len(text) <= room, "the header has room for all names"
        file.seek(0)
        file.write(room.to_bytes(8, "little") + text.ljust(room))
    return written
