"""Take a checkpoint's tensors by name, and check each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quaver.errors import WeightsError
from quaver.models.encoder_weights import StoredTable
from quaver.models.linear import (
    InputRange,
    Linear,
    LinearPart,
    LinearWeights,
    QuantizedLinear,
    equal_groups,
    unpacked_int4,
)
from quaver.models.weights_file import release_pages, stored_halves

_CHECKED_AT_ONCE = 1 << 20
# What the kernels multiply in one step.
_GROUP_STEP = 64
_INT4_GROUPS = (32, 64, 128)
# Old checkpoints of decoders have a buffer that follows from config.json.
_COMPUTED = ".rotary_emb.inv_freq"


class NamedTensors:
    """Takes tensors by name, checks them, and remembers which were taken.

    Names are those of the bare encoder; a prefix in the checkpoint, such as "bert.", is
    found and added. Tensors outside the encoder, such as "classifier.weight", are found without it.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]], *, anchor: str) -> None:
        """Find the prefix.

        Args:
            tensors: tensors by name.
            anchor: a name that occurs exactly once; the part before it is the prefix.

        Raises:
            WeightsError: no tensor, or more than one, ends with the anchor.
        """
        found = [name for name in tensors if name == anchor or name.endswith(f".{anchor}")]
        if len(found) != 1:
            raise WeightsError(
                f"the weights must have exactly one tensor {anchor!r}: found {found or 'none'} "
                f"among {len(tensors)}; is this the model that config.json describes?"
            )
        self._prefix = found[0].removesuffix(anchor)
        self._tensors = tensors
        self._taken: set[str] = set()

    def __contains__(self, name: object) -> bool:
        """Return whether there is a tensor of this name."""
        return f"{self._prefix}{name}" in self._tensors

    def has(self, name: str) -> bool:
        """Return whether there is a tensor of this name, with the prefix or, outside the encoder, without."""
        return self._full(name) in self._tensors

    def stored(self, name: str) -> str:
        """Return the name in the file."""
        return self._full(name)

    def rows(self, name: str) -> int:
        """Return the rows of a table whose size config.json leaves open; 0 if it is missing."""
        tensor = self._tensors.get(self._full(name))
        return len(tensor) if tensor is not None and tensor.ndim else 0

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Take one tensor; dequantize an int8 table with a scale for each row (`X_scale`).

        Args:
            name: its name without the prefix.
            shape: the shape it must have.

        Returns:
            float32, C-contiguous, a view where possible.

        Raises:
            WeightsError: it is missing, has the wrong shape or dtype, or has NaN or infinity.
        """
        tensor = self._take(name, shape)
        full = self._full(name)
        if tensor.dtype == np.int8 and len(shape) == 2 and f"{name}_scale" in self:
            scale = self._positive(f"{name}_scale", shape[0], 1)
            table = tensor.astype(np.float32)
            table *= scale
            return table
        if tensor.dtype != np.float32:
            raise WeightsError(f"tensor {full!r} must hold floats: got {tensor.dtype}")
        if not _all_finite(tensor):
            self._refuse_not_finite(full)
        return np.ascontiguousarray(tensor)

    def table(self, name: str, rows: int, columns: int) -> NDArray[np.float32] | StoredTable:
        """Take word embeddings: in half precision or int8 as they are stored, otherwise as `take` does.

        Args:
            name: their name without the prefix.
            rows: V.
            columns: H.

        Returns:
            (V, H).

        Raises:
            WeightsError: see `take`.
        """
        tensor: NDArray[Any]
        stored = stored_halves(self._tensors, self._full(name)) if self.has(name) else None
        if stored is not None:
            tensor, kind = stored
            self._check_shape(self._full(name), tensor, (rows, columns))
            if not _all_finite(tensor, kind):
                self._refuse_not_finite(self._full(name))
            self._taken.add(self._full(name))
            return StoredTable(np.ascontiguousarray(tensor), kind)
        if f"{name}_scale" in self and self._tensors[self._full(name)].dtype == np.int8:
            tensor = self._int8(name, rows, columns)
            scale = self._positive(f"{name}_scale", rows, 1)[:, 0]
            return StoredTable(np.ascontiguousarray(tensor), "int8", np.ascontiguousarray(scale))
        return self.take(name, rows, columns)

    def zeros(self, size: int) -> NDArray[np.float32]:
        """Return zeros for a bias that the model lacks, float32 (size,)."""
        return np.zeros(size, np.float32)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = True) -> Linear:
        """Take a linear layer, in float32 or int8 as in the file.

        In int8 the names follow the compressed-tensors layout: `weight` int8 (O, K), `weight_scale`
        (O, G) for G groups of inputs of the same size, `weight_zero_point` int8 (O, G) for asymmetric
        weights, and for a fixed input range `input_scale` and `input_zero_point`, one value each. In four
        bits `weight_packed` int32 (O, K / 8) takes the place of `weight`, see `packed_int4`.

        Args:
            name: its name without the prefix and without ".weight".
            rows: O.
            columns: K.
            bias: whether the file has a bias; otherwise it is zeros.

        Returns:
            the layer.

        Raises:
            WeightsError: a tensor is missing, has the wrong shape or dtype, is not finite, or a scale
                is not positive.
        """
        if f"{name}.weight_packed" in self:
            return self._packed(name, rows, columns, bias)
        prefix = self._full(f"{name}.weight").removesuffix(f"{name}.weight")
        parts = (LinearPart(name, rows, prefix),)
        if f"{name}.weight_scale" not in self:
            exact = self.take(f"{name}.weight", rows, columns)
            return LinearWeights(exact, self._bias(name, rows, bias), parts)
        weight = self._take(f"{name}.weight", (rows, columns))
        if weight.dtype != np.int8:
            raise WeightsError(
                f"tensor {parts[0].stored}.weight has a weight_scale and must hold int8: got "
                f"{weight.dtype}"
            )
        groups = self._groups(name, columns)
        count = max(1, len(groups))
        scale = self._positive(f"{name}.weight_scale", rows, count)
        zero = None
        if f"{name}.weight_zero_point" in self:
            zero = self._int8(f"{name}.weight_zero_point", rows, count)
        if not groups:
            scale, zero = scale[:, 0], None if zero is None else zero[:, 0]
        return QuantizedLinear(
            np.ascontiguousarray(weight),
            scale,
            self._bias(name, rows, bias),
            self._input_range(name) if f"{name}.input_scale" in self else None,
            parts,
            zero,
            groups,
        )

    def _packed(self, name: str, rows: int, columns: int, bias: bool) -> QuantizedLinear:
        """Take a linear layer in four bits."""
        packed = self._take(f"{name}.weight_packed", (rows, -(-columns // 8)))
        if packed.dtype != np.int32 or columns % 8:
            raise WeightsError(
                f"tensor {self._full(f'{name}.weight_packed')!r} must hold int32, eight inputs in each: got "
                f"{packed.dtype} for {columns} inputs"
            )
        for other in ("weight_zero_point", "weight_g_idx"):
            if f"{name}.{other}" in self:
                raise WeightsError(
                    f"weights in four bits must be symmetric, with groups of inputs side by side: the file has "
                    f"{self._full(f'{name}.{other}')}; take the original model and quantize it with `quaver "
                    "quantize --scheme int4`"
                )
        if f"{name}.weight_shape" in self:
            stated = self._take(f"{name}.weight_shape", (2,)).tolist()
            if stated != [rows, columns]:
                raise WeightsError(
                    f"tensor {self._full(f'{name}.weight_shape')!r} must be {[rows, columns]} by config.json: "
                    f"got {stated}"
                )
        scale = f"{name}.weight_scale"
        shape = self._tensors[self._full(scale)].shape if scale in self else ()
        sizes = [s for s in _INT4_GROUPS if shape == (rows, columns // s) and columns % s == 0]
        if not sizes:
            raise WeightsError(
                f"tensor {self._full(scale)!r} must have a scale for each of {rows} outputs and 32, 64 or 128 of "
                f"{columns} inputs: got {tuple(shape)}; quantize the model again"
            )
        return QuantizedLinear(
            unpacked_int4(packed),
            self._positive(scale, rows, columns // sizes[0]),
            self._bias(name, rows, bias),
            self._input_range(name) if f"{name}.input_scale" in self else None,
            (LinearPart(name, rows, self._prefix),),
            groups=equal_groups(columns, sizes[0]),
            bits=4,
        )

    def _groups(self, name: str, columns: int) -> tuple[int, ...]:
        """Return where the groups of a layer's inputs end; nothing for a single one."""
        full = self._full(f"{name}.weight_scale")
        shape = self._tensors[full].shape
        if len(shape) < 2 or shape[1] == 1:
            return ()
        count = shape[1]
        if columns % (count * _GROUP_STEP):
            raise WeightsError(
                f"tensor {full!r} must have scales for groups of a multiple of {_GROUP_STEP} of "
                f"{columns} inputs: got {shape}; quantize the model again"
            )
        if f"{name}.weight_g_idx" in self:
            raise WeightsError(
                f"tensor {full!r} must have scales for groups of inputs side by side: the file has a "
                "weight_g_idx; take the original model and quantize it with `quaver quantize`"
            )
        size = columns // count
        return tuple(range(size, columns + 1, size))

    def _int8(self, name: str, *shape: int) -> NDArray[np.int8]:
        values = self._take(name, shape)
        if values.dtype != np.int8:
            raise WeightsError(f"tensor {name} must hold int8: got {values.dtype}")
        return values

    def _bias(self, name: str, rows: int, bias: bool) -> NDArray[np.float32]:
        return self.take(f"{name}.bias", rows) if bias else self.zeros(rows)

    def _input_range(self, name: str) -> InputRange:
        zero = 0
        if f"{name}.input_zero_point" in self:
            zero = int(self._int8(f"{name}.input_zero_point", 1)[0])
        # The file counts from -128, the kernels from 0.
        return InputRange(float(self._positive(f"{name}.input_scale", 1)[0]), zero + 128)

    def _positive(self, name: str, *shape: int) -> NDArray[np.float32]:
        values = self.take(name, *shape)
        if not (values > 0).all():
            raise WeightsError(f"tensor {self._full(name)!r} must hold positive scales")
        return values

    @staticmethod
    def _refuse_not_finite(full: str) -> NoReturn:
        raise WeightsError(
            f"tensor {full!r} must be finite: it has NaN or infinity; the file is damaged "
            "or training diverged"
        )

    @staticmethod
    def _check_shape(full: str, tensor: NDArray[Any], shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise WeightsError(
                f"tensor {full!r} must have shape {shape} by config.json: got {tensor.shape}"
            )

    def _full(self, name: str) -> str:
        full = self._prefix + name
        return name if full not in self._tensors and name in self._tensors else full

    def _take(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        full = self._full(name)
        tensor = self._tensors.get(full)
        if tensor is None:
            raise WeightsError(
                f"tensor {full!r} is missing from the weights; is this the model that "
                "config.json describes?"
            )
        self._check_shape(full, tensor, shape)
        self._taken.add(full)
        return tensor

    def require_all_taken(self, part: str, owner: str) -> None:
        """Check that every tensor of a part of the model was taken.

        Args:
            part: the start of the names, without the prefix.
            owner: name of what was read, for the message.

        Raises:
            WeightsError: a tensor of the part was not taken, so config.json describes another
                model.
        """
        start = self._prefix + part
        self._refuse(
            [name for name in self._tensors.keys() - self._taken if name.startswith(start)], owner
        )

    def require_layers(self, part: str, count: int, owner: str) -> None:
        """Check that numbered layers are those from 0 to `count`, by the names alone.

        Args:
            part: the start of the names before the number, without the prefix.
            count: how many layers there may be.
            owner: name of what was read, for the message.

        Raises:
            WeightsError: there is another layer, so config.json describes another model.
        """
        start, known = self._prefix + part, {str(i) for i in range(count)}
        named = (name for name in self._tensors if name.startswith(start))
        self._refuse([n for n in named if n[len(start) :].partition(".")[0] not in known], owner)

    def _refuse(self, names: list[str], owner: str) -> None:
        left = sorted(name for name in names if not name.endswith(_COMPUTED))
        if left:
            raise WeightsError(
                f"the weights have {len(left)} tensors that {owner} does not have, first "
                f"{left[0]!r}; config.json and weights "
                "contradict each other"
            )


def _all_finite(tensor: NDArray[Any], kind: str = "float32") -> bool:
    # A sum is as fast as memory and propagates NaN and infinity; single values are checked only if
    # it is not finite. In parts, so that a large table is never in memory as a whole.
    values = tensor.reshape(-1)
    for first in range(0, values.size, _CHECKED_AT_ONCE):
        part = values[first : first + _CHECKED_AT_ONCE]
        if kind != "float32":
            exponent = np.uint16(0x7C00 if kind == "float16" else 0x7F80)
            if (part.view(np.uint16) & exponent == exponent).any():
                return False
            release_pages(part)
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            total = part.sum(dtype=np.float32)
        if not np.isfinite(total) and not np.isfinite(part).all():
            return False
        release_pages(part)
    return True
