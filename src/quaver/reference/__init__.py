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
    layer_norm,
    linear,
    normalized,
    pool,
    rotate,
)

__all__ = [
    "ACTIVATIONS",
    "attend",
    "embed",
    "encode",
    "head",
    "hidden_states",
    "layer",
    "layer_norm",
    "linear",
    "normalized",
    "pool",
    "rotate",
]
