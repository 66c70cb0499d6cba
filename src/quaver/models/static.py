"""Static models: a table with a vector for each token, whose mean is a text's vector.

Two libraries write such folders. sentence-transformers' StaticEmbedding has one row for each token.
model2vec may share rows between tokens (`mapping`), give each token a weight (`weights`), and store
the rows in float16 or int8; it leaves unknown words out of the mean and cuts long texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.errors import PoolingError, WeightsError
from quaver.models.files import TokenizerConfigFile, read_checked
from quaver.models.folder import ModelFolder
from quaver.models.geometry import MAX_WIDTH
from quaver.models.tokenizer import MAX_TOKENS, MakeWords, Tokenizer
from quaver.models.weights_file import read_tensors

_MODEL2VEC_LENGTH = 512  # what model2vec cuts at where config.json does not say


@dataclass(frozen=True)
class StaticSpec:
    """A static model as data.

    Attributes:
        vocab_size: V, the tokens that have a vector.
        outputs: D, the features of a vector.
        normalize: whether the vector is divided by its length.
        drops_unknown: whether unknown words are left out of the mean.
        longest: the maximum number of tokens in a text; longer ones are cut. None leaves that to tokenizer.json.
        pooling: always "mean".
        family: always "static".
    """

    vocab_size: int
    outputs: int
    normalize: bool
    drops_unknown: bool
    longest: int | None
    pooling: Literal["mean"] = "mean"
    family: Literal["static"] = "static"

    @property
    def max_length(self) -> int:
        """The maximum number of tokens in a text that a caller may ask for."""
        return MAX_TOKENS


@dataclass(frozen=True)
class StaticWeights:
    """The table of a static model.

    Attributes:
        rows: float32, float16 or int8 (R, D), finite.
        mapping: int64 (V,), the row of each token in [0, R); None if token t has row t.
        weights: float32 (V,), what the row of each token is multiplied with; None for 1.
    """

    rows: NDArray[Any]
    mapping: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None


def static_model(
    folder: ModelFolder, *, pooling: str | None, normalize: bool | None
) -> tuple[StaticSpec, StaticWeights]:
    """Read the table of a static model.

    Args:
        folder: the model's folder.
        pooling: the caller's pooling, or None.
        normalize: the caller's choice, or None for the folder's.

    Returns:
        spec and weights.

    Raises:
        PoolingError: the caller asks for another pooling than the mean.
        WeightsError: a tensor is missing, has another shape or dtype, or is not finite.
        ModelFolderError: the folder has no weights.
    """
    if pooling not in (None, "mean"):
        raise PoolingError(
            f"{folder.name} is a static model, whose vector is the mean over tokens: got "
            f"pooling={pooling!r}; leave it out"
        )
    # Half precision stays as it is: a table of many languages has gigabytes.
    tensors = folder.tensors(widen=False)
    own = "embedding.weight" not in tensors
    name = "embeddings" if own else "embedding.weight"
    rows = _rows(folder, tensors, name)
    mapping, weights = (_mapping(tensors, len(rows)), _weights(tensors)) if own else (None, None)
    tokens = len(rows) if mapping is None else len(mapping)
    if weights is not None and len(weights) != tokens:
        raise WeightsError(
            f"tensor 'weights' must have one value for each of {tokens} tokens: got {len(weights)}"
        )
    longest: int | None = None
    if own and "max_length" not in folder.config:
        longest = _MODEL2VEC_LENGTH
    elif own:
        longest = min(int(folder.file.max_length or MAX_TOKENS), MAX_TOKENS)
    spec = StaticSpec(
        vocab_size=tokens,
        outputs=rows.shape[1],
        normalize=folder.normalize if normalize is None else normalize,
        drops_unknown=own,
        longest=longest,
    )
    return spec, StaticWeights(rows, mapping, weights)


def static_tokenizer(
    folder: ModelFolder, spec: StaticSpec, max_length: int | None, words: MakeWords
) -> Tokenizer:
    """Read the tokenizer of a static model, which adds no special tokens.

    Args:
        folder: the model's folder.
        spec: the model.
        max_length: maximum number of tokens in a text; None takes the model's.
        words: a faster way to the same ids, see `Tokenizer`.

    Returns:
        the tokenizer, checked against the table.

    Raises:
        TokenizerError: tokenizer.json is missing or broken, or does not fit the table.
    """
    tokenizer = Tokenizer.from_folder(
        folder.transformer,
        max_length=max_length or spec.longest,
        lowercase=folder.lowercase,
        plain=True,
        words=words,
        drop_unknown=spec.drops_unknown,
    )
    tokenizer.require_vocabulary(spec.vocab_size)
    return tokenizer


@dataclass(frozen=True)
class WordTable:
    """The table that weighs the words of queries of a sparse encoder, instead of a model.

    Attributes:
        weights: float32 (V,), finite.
        tokenizer: adds no special tokens.
    """

    weights: NDArray[np.float32]
    tokenizer: Tokenizer


def word_table(folder: ModelFolder, path: Path, words: MakeWords) -> WordTable:
    """Read the SparseStaticEmbedding of a sparse encoder.

    Args:
        folder: the model's folder.
        path: the module's folder.
        words: a faster way to the same ids, see `Tokenizer`.

    Returns:
        the table.

    Raises:
        ModelFolderError: there are no weights, or a file is broken.
        WeightsError: the tensor `weight` is missing, has another shape or dtype, or is not finite.
        TokenizerError: tokenizer.json is missing or broken, or does not fit the table.
    """
    weights = _weights(read_tensors(path), "weight")
    if weights is None:
        raise WeightsError(f"a SparseStaticEmbedding has a tensor 'weight': {path} has none")
    settings = read_checked(TokenizerConfigFile, path / "tokenizer_config.json")
    stated = None if settings is None else settings.model_max_length
    tokenizer = Tokenizer.from_folder(
        path,
        max_length=None if stated is None else min(int(stated), MAX_TOKENS),
        settings=settings,
        model=folder.file,
        plain=True,
        words=words,
    )
    tokenizer.require_vocabulary(len(weights))
    return WordTable(weights, tokenizer)


def _rows(folder: ModelFolder, tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    rows = tensors.get(name)
    if rows is None:
        raise WeightsError(
            f"a static model has a tensor 'embeddings' (model2vec) or 'embedding.weight' "
            f"(sentence-transformers): {folder.name} has {', '.join(sorted(tensors)[:5]) or 'none'}"
        )
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MAX_WIDTH or not len(rows):
        raise WeightsError(
            f"tensor {name!r} must have a row for each token and at most {MAX_WIDTH} columns: got "
            f"shape {rows.shape}"
        )
    if rows.dtype == np.float64:
        rows = rows.astype(np.float32)
    if rows.dtype not in (np.float32, np.float16, np.int8):
        raise WeightsError(f"tensor {name!r} must hold floats or int8: got {rows.dtype}")
    _require_finite(name, rows)
    return np.ascontiguousarray(rows)


def _mapping(tensors: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.int64] | None:
    mapping = tensors.get("mapping")
    if mapping is None:
        return None
    if mapping.ndim != 1 or mapping.dtype.kind not in "iu" or not len(mapping):
        raise WeightsError(
            f"tensor 'mapping' must hold the row of each token: got {mapping.dtype} {mapping.shape}"
        )
    if mapping.min() < 0 or mapping.max() >= rows:
        raise WeightsError(
            f"tensor 'mapping' must be in 0..{rows - 1}, the rows of the table: got "
            f"{int(mapping.min())} to {int(mapping.max())}"
        )
    return mapping.astype(np.int64)


def _weights(
    tensors: Mapping[str, NDArray[Any]], name: str = "weights"
) -> NDArray[np.float32] | None:
    weights = tensors.get(name)
    if weights is None:
        return None
    if weights.ndim != 1 or weights.dtype.kind != "f":
        raise WeightsError(
            f"tensor {name!r} must hold a float for each token: got {weights.dtype} {weights.shape}"
        )
    weights = weights.astype(np.float32)
    _require_finite(name, weights)
    return weights


def _require_finite(name: str, values: NDArray[Any]) -> None:
    if values.dtype.kind == "f" and not all(np.isfinite(part).all() for part in _parts(values)):
        raise WeightsError(
            f"tensor {name!r} must be finite: it holds NaN or infinity; the file is damaged or "
            "training diverged"
        )


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut a table into parts, so that no second table is made to look at the first."""
    return np.array_split(values, 1 + values.size // (1 << 20))
