"""Tensors of a torch checkpoint (pytorch_model.bin), read without unpickling.

Such a file is a pickle that names tensors, and the bytes of their storages. A pickle is a program that
may call any function; this module reads it with `pickletools.genops`, which runs nothing, and follows
the few operations that a dictionary of tensors consists of. What the pickle calls is never imported:
of four names it is known what they make, every other one is refused.

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html (the zip layout);
torch/serialization.py of torch 2.13 (`_legacy_load`: the layout before torch 1.6).
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quaver.errors import WeightsError

_ADVICE = (
    "load the model with transformers where you trust it, and save it with save_pretrained(), which "
    "writes safetensors"
)
_MAX_PICKLE = 64 << 20
_MAX_OPERATIONS = 5_000_000
_MAX_TEXT = 1 << 20
_MAX_FILES = 1_000_000
# The numbers that the layout before torch 1.6 starts with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Storage classes, as safetensors names what is in them.
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_DICT = "collections.OrderedDict"
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = frozenset({_DICT, *_TENSORS, _PARAMETER, *(f"torch.{name}" for name in _STORAGES)})

# What zipfile raises for archives that it cannot read, and what a pickle that takes more than it put
# makes of this module's own lists.
_FAULTS = (
    ValueError,
    OSError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
)

Entry = tuple[str, str, tuple[int, ...], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The numbers of one or more tensors: a key in the file, and how many of which kind."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """A mark on the stack."""


def torch_entries(path: Path) -> Iterator[Entry]:
    """Yield name, dtype, shape and bytes of each tensor of a torch checkpoint.

    Args:
        path: a file of torch.save, in the zip layout or in the one before torch 1.6.

    Yields:
        name, dtype as safetensors names it, shape, and uint8 (bytes,) in little endian; a view of the
        mapped file where the tensor is contiguous.

    Raises:
        WeightsError: it is no such file, holds something other than a dictionary of tensors, or
            contradicts itself.
    """
    try:
        file = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        if file[:4].tobytes() == b"PK\x03\x04":
            tensors, storages = _read_zip(path, file)
        else:
            tensors, storages = _read_legacy(path, file)
    except _FAULTS as error:
        raise WeightsError(
            f"{path} is no checkpoint of tensors that can be read without unpickling it: {error}; "
            f"{_ADVICE}"
        ) from error
    for name, tensor in tensors.items():
        yield name, tensor.storage.dtype, tensor.shape, _bytes_of(tensor, storages(tensor.storage))


def _read_zip(
    path: Path, file: NDArray[np.uint8]
) -> tuple[dict[str, _Tensor], Callable[[_Storage], NDArray[np.uint8]]]:
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
        entries = {entry.filename: entry for entry in found}
        if len(entries) < len(found) or len(found) > _MAX_FILES:
            raise ValueError("two of its files have one name, or it has too many")
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("it has no data.pkl, or more than one")
        folder = pickles[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in found):
            raise ValueError("its files are compressed")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.open(order).read(16) != b"little":
            raise ValueError("its numbers are not in little endian")
        if entries[pickles[0]].file_size > _MAX_PICKLE:
            raise ValueError(f"its data.pkl has more than {_MAX_PICKLE >> 20} MiB")
        pickled = _Stream(np.frombuffer(archive.read(pickles[0]), np.uint8))

    def storage_bytes(storage: _Storage) -> NDArray[np.uint8]:
        entry = entries.get(f"{folder}data/{storage.key}")
        needed = storage.size * _SIZES[storage.dtype]
        if entry is None or entry.file_size < needed or entry.header_offset < 0:
            raise _broken(path, f"storage {storage.key!r} is missing or too short")
        # The lengths of name and extra field may differ from those in the directory at the end.
        header = file[entry.header_offset : entry.header_offset + 30].tobytes()
        if header[:4] != b"PK\x03\x04" or len(header) < 30:
            raise _broken(path, f"storage {storage.key!r} has no header")
        begin = entry.header_offset + 30
        begin += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = file[begin : begin + needed]
        if len(data) < needed:
            raise _broken(path, f"storage {storage.key!r} is cut short")
        return data

    return _state(_Machine(pickled).run()), storage_bytes


def _read_legacy(
    path: Path, file: NDArray[np.uint8]
) -> tuple[dict[str, _Tensor], Callable[[_Storage], NDArray[np.uint8]]]:
    stream = _Stream(file)
    if _Machine(stream).run() != _MAGIC or _Machine(stream).run() != _PROTOCOL:
        raise ValueError("it starts as no file of torch.save does")
    system = _Machine(stream).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not in little endian")
    machine = _Machine(stream)
    tensors = _state(machine.run())
    keys = _Machine(stream).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it does not list its storages")
    places: dict[str, NDArray[np.uint8]] = {}
    at = stream.tell()
    for key in keys:
        storage = machine.storages.get(key)
        if storage is None or key in places:
            raise ValueError(f"no tensor uses storage {key!r}, or it is there twice")
        if int.from_bytes(file[at : at + 8].tobytes(), "little") != storage.size:
            raise ValueError(f"storage {key!r} has another size than its tensors")
        begin, at = at + 8, at + 8 + storage.size * _SIZES[storage.dtype]
        if at > len(file):
            raise ValueError(f"storage {key!r} is cut short")
        places[key] = file[begin:at]

    def storage_bytes(storage: _Storage) -> NDArray[np.uint8]:
        if storage.key not in places:
            raise _broken(path, f"storage {storage.key!r} is missing")
        return places[storage.key]

    return tensors, storage_bytes


def _broken(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path} is truncated or corrupt: {reason}; download it again")


def _state(value: Any) -> dict[str, _Tensor]:
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} instead of tensors by name")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"{str(name)[:100]!r} in it is no tensor")
    return value


def _bytes_of(tensor: _Tensor, storage: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a tensor's bytes in the order of its rows; its bounds were checked."""
    size = _SIZES[tensor.storage.dtype]
    count, begin = math.prod(tensor.shape), tensor.offset * size
    plain, step = [], 1
    for length in reversed(tensor.shape):
        plain.append(step)
        step *= length
    steps = zip(tensor.shape, tensor.strides, reversed(plain), strict=True)
    if all(length == 1 or stride == step for length, stride, step in steps) or not count:
        return storage[begin : begin + count * size]
    values = storage[begin:]
    values = values[: len(values) // size * size].reshape(-1, size)
    view = np.lib.stride_tricks.as_strided(
        values, (*tensor.shape, size), (*(size * stride for stride in tensor.strides), 1)
    )
    return np.ascontiguousarray(view).reshape(-1)


class _Stream:
    """What `genops` reads from: bounded, and without a copy of the file."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data, self._at = data, 0

    def tell(self) -> int:
        return self._at

    def read(self, count: int) -> bytes:
        if count > _MAX_TEXT or self._at + count > _MAX_PICKLE:
            raise ValueError("its pickle is larger than that of any model")
        piece = self._data[self._at : self._at + count].tobytes()
        self._at += len(piece)
        return piece

    def readline(self) -> bytes:
        piece = self._data[self._at : self._at + 1024].tobytes()
        line, end, _ = piece.partition(b"\n")
        if b"\\" in line:  # pickletools would interpret it, with warnings
            raise ValueError("its pickle has a name with a backslash")
        self._at += len(line) + len(end)
        return line + end


class _Machine:
    """Follows a pickle of tensors, and makes nothing else of it.

    Attributes:
        storages: what the pickle names, by key.
    """

    def __init__(self, stream: _Stream) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stream = stream
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the next pickle of the stream makes.

        Raises:
            ValueError: it does something that a dictionary of tensors does not need.
        """
        for number, (operation, argument, _) in enumerate(pickletools.genops(self._stream)):  # type: ignore[arg-type]
            if number > _MAX_OPERATIONS:
                raise ValueError("its pickle is longer than that of any model")
            if operation.name == "STOP":
                (value,) = self._stack
                return value
            self._do(operation.name, argument)
        raise ValueError("its pickle has no end")

    def _do(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo[int(argument)])
        elif name == "GLOBAL":
            self._stack.append(_known(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            module, attribute = self._popped(2)
            self._stack.append(_known(f"{module}.{attribute}"))
        elif name == "TUPLE":
            self._stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._stack.append(tuple(self._popped(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self._popped(1) if name == "APPEND" else self._marked()
            _of(list, self._stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._popped(2) if name == "SETITEM" else self._marked()
            target = _of(dict, self._stack[-1])
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_of(str, key)] = value
        elif name == "BINPERSID":
            self._stack.append(self._storage(self._stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._popped(2)
            self._stack.append(_made(_of(_Name, function).name, _of(tuple, arguments)))
        elif name == "BUILD":  # attributes of the dictionary, such as its versions
            _, owner = self._stack.pop(), self._stack[-1]
            _of(dict, owner)
        else:
            raise ValueError(f"its pickle has the operation {name}, which no tensors need")

    def _popped(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("its pickle takes what is not there")
        items = self._stack[-count:]
        del self._stack[-count:]
        if any(isinstance(item, _Mark) for item in items):
            raise ValueError("its pickle takes a mark for a value")
        return items

    def _marked(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[at], _Mark):
                items = self._stack[at + 1 :]
                del self._stack[at:]
                return items
        raise ValueError("its pickle has no mark where it needs one")

    def _storage(self, identity: Any) -> _Storage:
        """Read ("storage", class, key, device, size), and in the older layout a view, which is None."""
        parts = _of(tuple, identity)
        if len(parts) not in (5, 6) or parts[0] != "storage" or any(parts[5:]):
            raise ValueError("it has a storage that is described in another way")
        kind = _of(_Name, parts[1]).name.removeprefix("torch.")
        if kind not in _STORAGES:
            raise ValueError(f"{kind} is no storage")
        key, size = _of(str, parts[2]), _count(parts[4])
        storage = _Storage(_STORAGES[kind], key, size)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key!r} is described in two ways")
        return storage


_LITERALS = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "INT",
        "LONG",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "UNICODE",
        "BINSTRING",
        "SHORT_BINSTRING",
    }
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _known(name: str) -> _Name:
    if name not in _NAMES:
        raise ValueError(f"its pickle calls {name[:200]}, and no code of a file is ever run")
    return _Name(name)


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a call makes, without calling anything."""
    if name == _DICT:
        pairs = _of(list, arguments[0]) if arguments else []
        return {_of(str, _of(list, pair)[0]): pair[1] for pair in pairs}
    if name in _TENSORS and len(arguments) >= 4:
        return _tensor(*arguments[:4])
    if name == _PARAMETER and arguments:
        return _of(_Tensor, arguments[0])
    raise ValueError(f"its pickle calls {name} in another way than torch does")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    place = _of(_Storage, storage)
    tensor = _Tensor(
        place,
        _count(offset),
        tuple(map(_count, _of(tuple, shape))),
        tuple(map(_count, _of(tuple, strides))),
    )
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > 8:
        _outside(tensor)
    if 0 in tensor.shape:
        return tensor
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    # A stride of zero could make a table of any size of one number.
    if tensor.offset + last >= place.size or math.prod(tensor.shape) > place.size:
        _outside(tensor)
    return tensor


def _outside(tensor: _Tensor) -> NoReturn:
    raise ValueError(
        f"it has a tensor of shape {tensor.shape[:8]} outside of its storage of {tensor.storage.size}"
    )


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**48:
        # Not the value: a pickle can make one whose text is longer than any memory.
        raise ValueError(f"its pickle has a {type(value).__name__} where a count belongs")
    return value
