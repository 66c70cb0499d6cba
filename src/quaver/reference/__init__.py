"""The encoder in plain NumPy, float32: the specification that every kernel is measured against."""

from __future__ import annotations

from quaver.reference.attention import Positions, attention, rotate
from quaver.reference.encoder import (
    activate,
    embed,
    encode,
    hidden_states,
    layer_norm,
    linear,
    normalized,
    pool,
    position_projections,
    run_head,
    run_layer,
)

__all__ = [
    "Positions",
    "activate",
    "attention",
    "embed",
    "encode",
    "hidden_states",
    "layer_norm",
    "linear",
    "normalized",
    "pool",
    "position_projections",
    "rotate",
    "run_head",
    "run_layer",
]
