"""
The native engine. Private: use quaver.Embedder, or quaver.engine.Engine for token batches.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

class Prefix:
    @property
    def length(self) -> int: ...

class Encoder:
    def __init__(self, isa: str, model: object) -> None: ...
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
        keys: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
        span_offsets: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
        spans: Annotated[
            NDArray[numpy.int32], dict(shape=(None, None), order="C", device="cpu", writable=False)
        ]
        | None = None,
        splits: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
        prefix: Prefix | None = None,
    ) -> int | None: ...
    def prefix(
        self,
        ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        threads: int,
    ) -> Prefix: ...
    @property
    def outputs(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...

class WordPieces:
    def __init__(self, lowercase: bool, added: Sequence[str]) -> None: ...
    def add(
        self,
        words: Sequence[str],
        ids: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        offsets: Annotated[
            NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
    ) -> None: ...
    def read(
        self, texts: list[str], most: int, more: WordPieces | None = None
    ) -> tuple[
        Annotated[NDArray[numpy.int32], dict(shape=(None,))],
        Annotated[NDArray[numpy.int32], dict(shape=(None,))],
        list[str],
    ]: ...
    def __len__(self) -> int: ...

def instruction_sets() -> list[tuple[str, bool]]: ...
def bfloat16_sets() -> list[str]: ...
def refusals() -> list[tuple[str, str]]: ...
def request_permission(isa: str) -> str: ...
def cpu_name() -> str: ...

compiler: str

emulated: bool
