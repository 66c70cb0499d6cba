"""Heads that read each token of an embedding model: BGE-M3's weights of words and vectors of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quaver.errors import ModelFolderError, UnsupportedArchitectureError, WeightsError
from quaver.models.chat_template import special_tokens
from quaver.models.folder import ModelFolder
from quaver.models.geometry import MAX_WIDTH, EncoderSpec
from quaver.models.linear import LinearWeights
from quaver.models.weights_file import read_tensor_file

_WORDS, _TOKENS = "sparse_linear.pt", "colbert_linear.pt"
# Words that mean nothing get no weight, and the first token no vector.
_UNUSED = ("cls_token", "eos_token", "pad_token", "unk_token")
_DEFAULTS = {"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class TokenHeads:
    """Two layers that read the last state h of each token.

    Formula:
        weight of word v: max of max(0, w . h_t + b) over the tokens t that are v
        vector of token t: (W h_t + c) / |W h_t + c|, for all tokens but the first

    Attributes:
        linear: both in one layer: the first output is the weight, the others the vector.
        unused: special tokens, which get no weight.

    Source:
        Chen et al., M3-Embedding (arXiv 2402.03216).
    """

    linear: LinearWeights
    unused: tuple[str, ...]

    @property
    def dimension(self) -> int:
        """D, the features of a token's vector."""
        return len(self.linear.weight) - 1


def token_heads(folder: ModelFolder, spec: EncoderSpec) -> TokenHeads | None:
    """Read the heads of a model folder.

    Args:
        folder: the model's folder.
        spec: its encoder, with the steps behind the pooling.

    Returns:
        the heads; None if the folder has neither file.

    Raises:
        ModelFolderError: one of the two files is missing.
        UnsupportedArchitectureError: there are modules between pooling and normalization, or the
            pooled vector is not that of one pooling.
        WeightsError: a file is no checkpoint of tensors, or has others.
    """
    found = [name for name in (_WORDS, _TOKENS) if (folder.path / name).is_file()]
    if not found:
        return None
    if len(found) < 2:
        raise ModelFolderError(
            f"{folder.name} must have {_WORDS} and {_TOKENS}, or neither: it has {found[0]}; download the "
            "model again"
        )
    if spec.head or len(spec.poolings) > 1:
        raise UnsupportedArchitectureError(
            f"{folder.name} has {_WORDS} and {_TOKENS}, which are supported behind Transformer, Pooling of "
            "one kind and Normalize alone; remove the two files to use its vectors"
        )
    words = _linear(folder.path / _WORDS, spec.hidden_size, 1)
    tokens = _linear(folder.path / _TOKENS, spec.hidden_size, None)
    named = {**_DEFAULTS, **dict(special_tokens(folder.tokens))}
    return TokenHeads(
        LinearWeights(
            np.concatenate([words.weight, tokens.weight]), np.concatenate([words.bias, tokens.bias])
        ),
        tuple(named[name] for name in _UNUSED),
    )


def _linear(path: Path, inputs: int, outputs: int | None) -> LinearWeights:
    tensors = read_tensor_file(path)
    if set(tensors) != {"weight", "bias"}:
        raise WeightsError(
            f"{path} must have the tensors weight and bias: got {', '.join(sorted(tensors)[:9]) or 'none'}"
        )
    weight, bias = tensors["weight"], tensors["bias"]
    rows = len(weight) if outputs is None and weight.ndim else outputs
    right = weight.dtype == bias.dtype == np.float32 and rows and rows <= MAX_WIDTH
    if not right or weight.shape != (rows, inputs) or bias.shape != (rows,):
        raise WeightsError(
            f"{path} must have a weight ({'D' if outputs is None else outputs}, {inputs}) and a bias in "
            f"floats: got {weight.dtype} {weight.shape} and {bias.dtype} {bias.shape}"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise WeightsError(f"{path} must hold finite numbers: it has NaN or infinity")
    return LinearWeights(np.ascontiguousarray(weight), np.ascontiguousarray(bias))
