"""Steps that run on pooled vectors: the head of a cross-encoder, or modules after pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HeadActivation = Literal["none", "gelu", "gelu_tanh", "relu", "silu", "tanh"]


@dataclass(frozen=True)
class DenseStep:
    """y = activation(x @ weight.T + bias), on float32 (N, K).

    Attributes:
        name: of its tensors, without ".weight" and ".bias".
        outputs: O, its output features.
        activation: applied to its output.
        has_bias: whether there is a bias.
    """

    name: str
    outputs: int
    activation: HeadActivation
    has_bias: bool = True


@dataclass(frozen=True)
class NormStep:
    """LayerNorm of every vector.

    Attributes:
        name: of its tensors, without ".weight" and ".bias".
        eps: added to the variance.
        has_bias: whether there is a bias.
    """

    name: str
    eps: float
    has_bias: bool = True


HeadStep = DenseStep | NormStep
