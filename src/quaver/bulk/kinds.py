"""What is stored of a text: a vector, weights of words, a vector for each token, or the score of a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder, finish_vectors, pool_tokenized
from quaver.errors import (
    InputError,
    QuaverError,
    UnsupportedArchitectureError,
    check_choice,
    needs_extra,
)
from quaver.models import (
    KIND_NAMES,
    ModelFolder,
    ModelKind,
    TokenBatch,
    choose_prompt,
    document_prompt,
    with_prompt,
)
from quaver.multi_vector_encoder import (
    MultiVectorEncoder,
    TokenVectors,
    encode_passages,
    tokenize_passages,
)
from quaver.reranker import CrossEncoder, ScoreActivation, activated, pair_logits
from quaver.sparse_encoder import SparseEncoder, SparseVectors, weigh_tokenized

with needs_extra("bulk"):
    import pyarrow as pa

KindName = Literal["dense", "sparse", "multi-vector", "scores"]
"""What a model makes of a text or a pair."""

Model = Embedder | SparseEncoder | MultiVectorEncoder | CrossEncoder

DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8, "binary": np.uint8}
"""The type of a component; of "binary" eight components."""

_DENSE_ONLY = ("pooling", "truncate_dim")


class Kind(ABC):
    """A loaded model, and the columns that its results become.

    Attributes:
        columns: names that the results may have in a file.
        outputs: what a number may be stored as.
        formats: files that hold such results.
        rows: rows that are computed and held in memory together.
        model: the model.
    """

    columns: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    formats: ClassVar[tuple[str, ...]] = ("parquet",)
    rows: ClassVar[int] = 1024
    _opens: ClassVar[type[Any]]

    def __init__(self, model: Any, *, prompt: str, output: str, activation: str = "") -> None:
        """Prepare a loaded model.

        Args:
            model: from `load`.
            prompt: text before every text, from `prompt_of`.
            output: one of `outputs`.
            activation: of scores: "sigmoid" or "identity".
        """
        self.model: Any = model
        self._prompt, self._output, self._activation = prompt, output, activation

    @classmethod
    def load(cls, source: str, loading: Mapping[str, Any]) -> Any:
        """Load a model of this kind.

        Args:
            source: hub id or folder.
            loading: arguments of `Embedder.from_pretrained`.

        Returns:
            the model.

        Raises:
            InputError: an argument is for dense vectors alone.
            ModelError: the model cannot be loaded; one of another kind is told with what to give.
        """
        options = dict(loading)
        if cls is not Dense:
            for name in _DENSE_ONLY:
                if options.pop(name, None) is not None:
                    raise InputError(f"{name} is for dense vectors alone: leave it out")
        try:
            return cls._opens.from_pretrained(source, **options)
        except UnsupportedArchitectureError as error:
            where = {name: options.get(name) for name in ("revision", "local_files_only")}
            try:
                found = ModelFolder.open_any(source, **where).kind  # type: ignore[arg-type]
            except QuaverError:
                raise error from None
            if KINDS[_KIND_OF[found]] is cls:
                raise
            raise UnsupportedArchitectureError(
                f"{source} is {KIND_NAMES[found]}: {_GIVE[found]}"
            ) from error

    @classmethod
    def prompt_of(cls, model: Any, prompt: str | None, prompt_name: str | None) -> str:
        """Return what goes before every text; by default the prompt of documents.

        Args:
            model: the model.
            prompt: a text, or None.
            prompt_name: the name of one of the model's prompts, or None.

        Raises:
            InputError: both are given, or the model has no such prompt.
        """
        if prompt is None and prompt_name is None:
            return document_prompt(model.prompts)
        return choose_prompt(
            model.prompts, prompt_name=prompt_name, prompt=prompt, default=None, model=model.name
        )

    @classmethod
    def dimension(cls, model: Any) -> int:
        """Return the components of a result."""
        return int(model.dimension)

    @property
    def width(self) -> int:
        """The components of a stored vector; eight of "binary" are one."""
        dimension = self.dimension(self.model)
        return -(-dimension // 8) if self._output == "binary" else dimension

    @abstractmethod
    def fields(self) -> list[Any]:
        """Return the fields of the columns."""

    def tokenize(self, texts: Sequence[Any]) -> TokenBatch:
        """Tokenize N texts, or pairs of them.

        Raises:
            InputError: one is invalid.
        """
        batch: TokenBatch = self.model.tokenizer.encode(
            [with_prompt(self._prompt, text) for text in texts], prompt=self._prompt
        )
        return batch

    @abstractmethod
    def compute(self, tokens: TokenBatch) -> Any:
        """Run the model.

        Raises:
            EngineError: a number came out with NaN or infinity.
        """

    @abstractmethod
    def store(self, result: Any, present: NDArray[np.bool_]) -> list[Any]:
        """Return the columns of N rows.

        Args:
            result: of the rows that are present; None if there are none.
            present: bool (N,); the other rows become null.
        """

    def array(self, result: Any, present: NDArray[np.bool_]) -> NDArray[Any]:
        """Return N rows as an array, NaN or 0 where there is none; for formats with "npy"."""
        raise NotImplementedError

    @property
    def _type(self) -> Any:
        return pa.from_numpy_dtype(DTYPES[self._output])


class Dense(Kind):
    """A vector for a text."""

    columns = ("vector",)
    formats = ("parquet", "npy")
    _opens = Embedder

    def fields(self) -> list[Any]:
        """Return the fields of the columns."""
        return [pa.field("vector", pa.list_(self._type, self.width))]

    def compute(self, tokens: TokenBatch) -> NDArray[Any]:
        """Run the model."""
        pooled = pool_tokenized(self.model, tokens)
        if self._output == "float16":
            return finish_vectors(self.model, pooled).astype(np.float16)
        return finish_vectors(self.model, pooled, output=self._output)  # type: ignore[arg-type]

    def store(self, result: Any, present: NDArray[np.bool_]) -> list[Any]:
        """Return the columns of N rows."""
        rows = _spread(result, present, (self.width,), DTYPES[self._output])
        return [
            pa.FixedSizeListArray.from_arrays(
                pa.array(rows.reshape(-1)), self.width, mask=_mask(present)
            )
        ]

    def array(self, result: Any, present: NDArray[np.bool_]) -> NDArray[Any]:
        """Return N rows as an array."""
        return _spread(result, present, (self.width,), DTYPES[self._output])


class Sparse(Kind):
    """The weights of a text's words, as lists of their ids and weights."""

    columns = ("indices", "values")
    outputs = ("float32", "float16")
    _opens = SparseEncoder

    def fields(self) -> list[Any]:
        """Return the fields of the columns."""
        return [
            pa.field("indices", pa.list_(pa.int32())),
            pa.field("values", pa.list_(self._type)),
        ]

    def compute(self, tokens: TokenBatch) -> SparseVectors:
        """Run the model."""
        return weigh_tokenized(self.model, tokens)

    def store(self, result: Any, present: NDArray[np.bool_]) -> list[Any]:
        """Return the columns of N rows."""
        counts = np.zeros(0, np.int64) if result is None else np.diff(result.indptr)
        offsets = _offsets(counts, present)
        words = np.zeros(0, np.int32) if result is None else result.indices
        weights = np.zeros(0, np.float32) if result is None else result.values
        weights = weights.astype(DTYPES[self._output])
        return [
            pa.ListArray.from_arrays(offsets, pa.array(numbers), mask=_mask(present))
            for numbers in (words, weights)
        ]


class MultiVector(Kind):
    """A list of vectors, one for each token of a text."""

    columns = ("vectors",)
    rows = 128  # a text of 512 tokens has 256 KB of vectors
    _opens = MultiVectorEncoder

    @classmethod
    def prompt_of(cls, model: Any, prompt: str | None, prompt_name: str | None) -> str:
        """Return the prompt of documents; no other fits their prefix."""
        if prompt is not None or prompt_name is not None:
            raise InputError(
                "a multi-vector model puts its own prefix before documents: leave the prompt out"
            )
        return document_prompt(model.prompts)

    def fields(self) -> list[Any]:
        """Return the fields of the columns."""
        return [pa.field("vectors", pa.list_(pa.list_(self._type, self.width)))]

    def tokenize(self, texts: Sequence[Any]) -> TokenBatch:
        """Tokenize N texts or pairs."""
        return tokenize_passages(self.model, texts)

    def compute(self, tokens: TokenBatch) -> TokenVectors:
        """Run the model."""
        if self._output == "float16":
            found = encode_passages(self.model, tokens)
            return TokenVectors(found.vectors.astype(np.float16), found.offsets)
        return encode_passages(self.model, tokens, output=self._output)  # type: ignore[arg-type]

    def store(self, result: Any, present: NDArray[np.bool_]) -> list[Any]:
        """Return the columns of N rows."""
        counts = np.zeros(0, np.int64) if result is None else np.diff(result.offsets)
        empty = np.zeros((0, self.width), DTYPES[self._output])
        numbers = pa.array((empty if result is None else result.vectors).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(numbers, self.width)
        return [pa.ListArray.from_arrays(_offsets(counts, present), vectors, mask=_mask(present))]


class Scores(Kind):
    """The score of a pair of texts, or its scores from a model with several labels."""

    columns = ("score", "scores")
    outputs = ("float32",)
    formats = ("parquet", "npy")
    _opens = CrossEncoder

    @classmethod
    def prompt_of(cls, model: Any, prompt: str | None, prompt_name: str | None) -> str:
        """Return what goes before the first text of a pair; by default the model's default prompt."""
        chosen = choose_prompt(
            model.prompts,
            prompt_name=prompt_name,
            prompt=prompt,
            default=model.default_prompt_name,
            model=model.name,
        )
        # A reranker may need an instruction: found before a row is read, not with each row.
        model.tokenizer.encode_pairs([("", "")], prompt=chosen)
        return chosen

    @classmethod
    def dimension(cls, model: Any) -> int:
        """Return the number of labels."""
        return int(model.labels)

    def fields(self) -> list[Any]:
        """Return the fields of the columns."""
        if self.width == 1:
            return [pa.field("score", pa.float32())]
        return [pa.field("scores", pa.list_(pa.float32(), self.width))]

    def tokenize(self, texts: Sequence[Any]) -> TokenBatch:
        """Tokenize N texts or pairs."""
        batch: TokenBatch = self.model.tokenizer.encode_pairs(texts, prompt=self._prompt)
        return batch

    def compute(self, tokens: TokenBatch) -> NDArray[np.float32]:
        """Run the model."""
        return activated(self.model, pair_logits(self.model, tokens), self._activation)  # type: ignore[arg-type]

    def store(self, result: Any, present: NDArray[np.bool_]) -> list[Any]:
        """Return the columns of N rows."""
        rows = _spread(result, present, (self.width,), np.float32)
        if self.width == 1:
            return [pa.array(rows[:, 0], mask=~present)]
        return [
            pa.FixedSizeListArray.from_arrays(
                pa.array(rows.reshape(-1)), self.width, mask=_mask(present)
            )
        ]

    def array(self, result: Any, present: NDArray[np.bool_]) -> NDArray[Any]:
        """Return N rows as an array."""
        rows = _spread(result, present, (self.width,), np.float32)
        return rows[:, 0] if self.width == 1 else rows


_KIND_OF: dict[ModelKind, KindName] = {
    "embedder": "dense",
    "sparse": "sparse",
    "multi-vector": "multi-vector",
    "cross-encoder": "scores",
}

_GIVE: dict[ModelKind, str] = {
    "embedder": "leave out kind (--kind) and pair_columns (--pair-columns)",
    "sparse": "give kind='sparse' (--kind sparse)",
    "multi-vector": "give kind='multi-vector' (--kind multi-vector)",
    "cross-encoder": "name the columns of the pairs with pair_columns (--pair-columns QUERY,TEXT)",
}
"""What to give for a folder of this kind."""

KINDS: dict[str, type[Kind]] = {
    "dense": Dense,
    "sparse": Sparse,
    "multi-vector": MultiVector,
    "scores": Scores,
}
"""The kinds by name."""


RESULTS: dict[str, str] = {
    "dense": "vectors",
    "sparse": "weights of words",
    "multi-vector": "vectors of tokens",
    "scores": "scores",
}
"""What the results of a kind are called."""


def kind_and_columns(
    kind: KindName | None,
    column: str | None,
    pair_columns: Sequence[str] | None,
    activation: ScoreActivation | None = None,
) -> tuple[KindName, tuple[str, ...]]:
    """Return the kind of the results and the columns of the texts, after checking that they agree.

    Args:
        kind: what the caller asks for, or None.
        column: of the texts, or None for "text".
        pair_columns: of the two texts of pairs, or None.
        activation: of scores, or None.

    Raises:
        InputError: they do not go together.
    """
    if kind is not None:
        check_choice("kind", kind, KINDS)
    if (kind == "scores" or activation is not None) and pair_columns is None:
        raise InputError(
            "scores are of pairs: pair_columns must name the columns of their two texts"
        )
    if pair_columns is None:
        return kind or "dense", ("text" if column is None else column,)
    if kind not in (None, "scores") or column is not None:
        raise InputError("pair_columns makes scores: it does not go with column or another kind")
    pair = tuple(pair_columns)
    if isinstance(pair_columns, str) or len(pair) != 2 or pair[0] == pair[1] or not all(pair):
        raise InputError(f"pair_columns must be two different columns: got {pair_columns!r}")
    if activation is not None:
        check_choice("activation", activation, ("sigmoid", "identity"))
    return "scores", pair


def _mask(present: NDArray[np.bool_]) -> Any:
    return None if present.all() else pa.array(~present)


def _spread(
    result: NDArray[Any] | None,
    present: NDArray[np.bool_],
    shape: tuple[int, ...],
    dtype: Any,
) -> NDArray[Any]:
    """Give the rows that are present their places; the others are NaN, or 0 of integers."""
    if result is not None and present.all():
        return result
    rows = np.full((len(present), *shape), np.nan if np.dtype(dtype).kind == "f" else 0, dtype)
    if result is not None:
        rows[present] = result
    return rows


def _offsets(counts: NDArray[np.int64], present: NDArray[np.bool_]) -> Any:
    """Return where each row's list begins and ends; a row that is not present has none."""
    offsets = np.zeros(len(present) + 1, np.int32)
    offsets[1:][present] = counts
    return pa.array(np.cumsum(offsets, dtype=np.int32))
