"""
The native engine. Private: use quaver.Embedder, or quaver.engine.Engine for token batches.
"""

from collections.abc import Sequence
import enum
from typing import Annotated

import numpy
from numpy.typing import NDArray

class Activation(enum.Enum):
    gelu = 1

    gelu_tanh = 2

    relu = 3

    silu = 4

    tanh = 5

    none = 0

class Gate(enum.Enum):
    none = 0

    first = 1

    last = 2

class Pooling(enum.Enum):
    cls = 0

    mean = 1

    max = 2

    lasttoken = 3

    mean_sqrt_len_tokens = 4

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
        pooling: Sequence[Pooling],
        normalize: bool,
    ) -> None: ...

class Encoder:
    def __init__(
        self,
        spec: EncoderSpec,
        isa: str,
        word: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
        position: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ]
        | None,
        token_type: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ]
        | None,
        norm: tuple[
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ],
    ) -> None: ...
    def add_layer(
        self,
        qkv: tuple[
            Annotated[
                NDArray[numpy.float32],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            float,
            int,
        ],
        out: tuple[
            Annotated[
                NDArray[numpy.float32],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            float,
            int,
        ],
        attention_norm: tuple[
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | None,
        up: tuple[
            Annotated[
                NDArray[numpy.float32],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            float,
            int,
        ],
        down: tuple[
            Annotated[
                NDArray[numpy.float32],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ]
        | tuple[
            Annotated[
                NDArray[numpy.int8],
                dict(shape=(None, None), order="C", device="cpu", writable=False),
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            float,
            int,
        ],
        output_norm: tuple[
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ],
        window: int,
        rotary: int,
        position_queries: Sequence[
            tuple[
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None, None), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
            ]
            | tuple[
                Annotated[
                    NDArray[numpy.int8],
                    dict(shape=(None, None), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
            ]
            | tuple[
                Annotated[
                    NDArray[numpy.int8],
                    dict(shape=(None, None), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
                float,
                int,
            ]
        ],
        position_keys: Sequence[
            tuple[
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None, None), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
            ]
            | tuple[
                Annotated[
                    NDArray[numpy.int8],
                    dict(shape=(None, None), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
            ]
            | tuple[
                Annotated[
                    NDArray[numpy.int8],
                    dict(shape=(None, None), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
                Annotated[
                    NDArray[numpy.float32],
                    dict(shape=(None,), order="C", device="cpu", writable=False),
                ],
                float,
                int,
            ]
        ],
    ) -> None: ...
    def set_relative_rows(
        self,
        rows: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        span: int,
    ) -> None: ...
    def add_rotary(
        self,
        cosine: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
        sine: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
    ) -> None: ...
    def set_final_norm(
        self,
        norm: tuple[
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ],
    ) -> None: ...
    def set_distance_bias(
        self,
        bias: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
        reach: int,
    ) -> None: ...
    def add_dense(
        self,
        weight: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
        bias: Annotated[
            NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        activation: Activation,
    ) -> None: ...
    def add_norm(
        self,
        norm: tuple[
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
            Annotated[
                NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
            ],
        ],
        eps: float,
    ) -> None: ...
    def accepts(
        self,
        ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        offsets: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        type_ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None,
    ) -> bool: ...
    def encode(
        self,
        ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        offsets: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        type_ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None,
        threads: int,
        vectors: Annotated[
            NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu")
        ],
    ) -> int | None: ...
    @property
    def weight_bytes(self) -> int: ...

def instruction_sets() -> list[tuple[str, bool]]: ...
def cpu_name() -> str: ...

compiler: str

emulated: bool
