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


@dataclass(frozen=True)
class WordHead:
    """A weight for each word of the vocabulary, from the logits of a masked language model.

    Formula:
        w_v = max_t f(x_tv), or the sum; f(x) = log(1 + max(0, x)), the logarithm once or twice

    Attributes:
        name: of the layer that computes the logits, without ".weight": absent from the file where
            the model's word embeddings are its weight.
        biases: names that its bias may have.
        sum: whether the tokens' values are added; otherwise the largest counts.
        logarithms: 1 or 2.
        tied: whether the layer may be absent; otherwise its weight must be in the file.

    Source:
        Formal et al., SPLADE v2 (arXiv 2109.10086); twice: Shen et al. (arXiv 2504.14839).
    """

    name: str
    biases: tuple[str, ...]
    sum: bool = False
    logarithms: int = 1
    tied: bool = True
