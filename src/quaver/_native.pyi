"""Types of the native module (native/bindings.cpp)."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_Floats: TypeAlias = NDArray[np.float32]
# Weight and bias; weight, scale and bias; the same with the scale and zero of its input.
LinearParts: TypeAlias = (
    tuple[_Floats, _Floats]
    | tuple[NDArray[np.int8], _Floats, _Floats]
    | tuple[NDArray[np.int8], _Floats, _Floats, float, int]
)
_Norm: TypeAlias = tuple[_Floats, _Floats]

compiler: str
emulated: bool

def instruction_sets() -> list[tuple[str, bool]]: ...
def cpu_name() -> str: ...

class Activation:
    gelu: Activation
    gelu_tanh: Activation
    relu: Activation
    silu: Activation
    tanh: Activation
    none: Activation

class Gate:
    none: Gate
    first: Gate
    last: Gate

class Pooling:
    cls: Pooling
    mean: Pooling
    max: Pooling
    lasttoken: Pooling
    mean_sqrt_len_tokens: Pooling

class EncoderSpec:
    def __init__(
        self,
        *,
        hidden: int,
        heads: int,
        intermediate: int,
        vocabulary: int,
        positions: int,
        position_offset: int,
        token_types: int,
        norm_eps: float,
        activation: Activation,
        gate: Gate,
        norm_first: bool,
        pooling: list[Pooling],
        normalize: bool,
    ) -> None: ...

class Encoder:
    def __init__(
        self,
        spec: EncoderSpec,
        isa: str,
        word: _Floats,
        position: _Floats | None,
        token_type: _Floats | None,
        norm: _Norm,
    ) -> None: ...
    def add_layer(
        self,
        qkv: LinearParts,
        out: LinearParts,
        attention_norm: _Norm | None,
        up: LinearParts,
        down: LinearParts,
        output_norm: _Norm,
        window: int,
        rotary: int,
        position_queries: list[LinearParts],
        position_keys: list[LinearParts],
    ) -> None: ...
    def set_relative_rows(self, rows: NDArray[np.int32], span: int) -> None: ...
    def add_rotary(self, cosine: _Floats, sine: _Floats) -> None: ...
    def set_final_norm(self, norm: _Norm) -> None: ...
    def set_distance_bias(self, bias: _Floats, reach: int) -> None: ...
    def add_dense(self, weight: _Floats, bias: _Floats, activation: Activation) -> None: ...
    def add_norm(self, norm: _Norm, eps: float) -> None: ...
    def accepts(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int32],
        type_ids: NDArray[np.int32] | None,
    ) -> bool: ...
    def encode(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int32],
        type_ids: NDArray[np.int32] | None,
        threads: int,
        vectors: _Floats,
    ) -> int | None: ...
    @property
    def weight_bytes(self) -> int: ...
