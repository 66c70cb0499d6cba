"""The encoder in readable NumPy: the oracle of the tests. Production code never imports it."""

from __future__ import annotations

from quaver.reference.encoder import (
    ACTIVATIONS,
    attend,
    embed,
    encode,
    head,
    hidden_states,
    layer,
    linear,
    norm,
    normalized,
    pool,
    rotate,
)
from quaver.reference.quantized import quantized_linear

__all__ = [
    "ACTIVATIONS",
    "attend",
    "embed",
    "encode",
    "head",
    "hidden_states",
    "layer",
    "linear",
    "norm",
    "normalized",
    "pool",
    "quantized_linear",
    "rotate",
]
