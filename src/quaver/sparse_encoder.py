"""SparseEncoder: texts to weights of words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from quaver.engine import (
    CALL_KEYWORDS,
    LOADING_KEYWORDS,
    MAX_BATCH_TOKENS,
    LoadedSparse,
    Precision,
    check_loaded,
    check_reopened,
    explain_keywords,
    load_sparse,
    text_list,
    token_batches,
)
from quaver.errors import InputError, check_range
from quaver.models import (
    TokenBatch,
    Tokenizer,
    WordTable,
    choose_prompt,
    document_prompt,
    query_prompt,
    with_prompt,
)

# Numbers that one native call writes at most, a weight for each text and word: 64 MB.
_MOST_WEIGHTS = 1 << 24

_ENCODE = {
    **CALL_KEYWORDS,
    "convert_to_sparse_tensor": "results are SparseVectors; to_scipy() and to_dense() convert them",
    "save_to_cpu": "leave it out: the engine runs on the CPU",
}


@dataclass(frozen=True)
class SparseVector:
    """The weights of one text's words.

    Attributes:
        indices: int32 (n,), ids of the words in the vocabulary, rising.
        values: float32 (n,), their weights, none of them zero.
        size: V, the words of the vocabulary.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    size: int

    def __len__(self) -> int:
        """Return n, the number of words with a weight."""
        return len(self.indices)

    def to_dense(self) -> NDArray[np.float32]:
        """Return float32 (V,) with the zeros."""
        dense = np.zeros(self.size, np.float32)
        dense[self.indices] = self.values
        return dense


@dataclass(frozen=True)
class SparseVectors:
    """The weights of the words of N texts, in compressed rows (CSR).

    Attributes:
        indptr: int64 (N + 1,); row i is `indices[indptr[i]:indptr[i + 1]]`, and so are its values.
        indices: int32 (n,), ids of words in the vocabulary, rising in each row.
        values: float32 (n,), their weights, none of them zero.
        size: V, the words of the vocabulary.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    size: int

    def __len__(self) -> int:
        """Return N, the number of rows."""
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> SparseVector:
        """Return one row; a negative number counts from the end."""
        at = range(len(self))[row]
        begin, end = self.indptr[at], self.indptr[at + 1]
        return SparseVector(self.indices[begin:end], self.values[begin:end], self.size)

    @property
    def shape(self) -> tuple[int, int]:
        """N and V."""
        return len(self), self.size

    def to_dense(self) -> NDArray[np.float32]:
        """Return float32 (N, V) with the zeros."""
        dense = np.zeros(self.shape, np.float32)
        dense[self._rows(), self.indices] = self.values
        return dense

    def to_scipy(self) -> Any:
        """Return a `scipy.sparse.csr_array` of the same memory.

        Raises:
            ImportError: scipy is not installed.
        """
        try:
            from scipy.sparse import csr_array
        except ImportError as error:
            raise ImportError("to_scipy needs scipy: pip install 'quaver[scipy]'") from error
        return csr_array((self.values, self.indices, self.indptr), shape=self.shape)

    def _rows(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))


class SparseEncoder:
    """A model that turns texts into weights of the words of its vocabulary, most of them zero.

        model = SparseEncoder.from_pretrained("naver/splade-v3")
        documents = model.encode_document(["Paris is the capital of France.", "Rome is in Italy."])
        query = model.encode_query("What is the capital of France?")
        model.similarity(query, documents)
        model.decode(query, top_k=5)

    The words that a text is about get weights, those that it does not contain too, so such vectors
    find what BM25 finds and more, in the same kind of index. The model is a masked language model
    with SpladePooling (modules.json), or such a model alone (...ForMaskedLM), whose words get the
    largest value of any token, as in sentence-transformers. Queries of a Router with a
    SparseStaticEmbedding are a look-up in a table, without a model.

    Calls do not change an encoder, so threads can share it. It pickles like an `Embedder`.

    Attributes:
        name: hub id or folder name.
        source: the name that loads this model again in any process.
        precision: "int8", "bfloat16", "bfloat16-weights" or "float32".
        prompts: texts that go before a text, by name; most models have none.
        default_prompt_name: the prompt that `encode` uses by default, or None.
        max_seq_length: maximum number of tokens in a text, special tokens included; longer texts are truncated.
        max_active_dims: the most words that a vector keeps, those of the largest weights; None for
            all.
        tokenizer: the model's tokenizer.
        fingerprint: 64 hex digits that say which vectors can be compared.
    """

    @explain_keywords(LOADING_KEYWORDS)
    def __init__(self, model: LoadedSparse, *, max_active_dims: int | None = None) -> None:
        """Wrap a loaded model; `from_pretrained` is the usual way.

        Args:
            model: the model.
            max_active_dims: the most words that a vector keeps; None uses the folder's, else all.

        Raises:
            InputError: an argument is invalid.
        """
        check_loaded("SparseEncoder", model, LoadedSparse)
        folder = model.folder
        if max_active_dims is not None:
            check_range("max_active_dims", max_active_dims, sys.maxsize)
        self.name = folder.name
        self.source = folder.source
        self.precision = model.engine.precision
        self.prompts = dict(folder.prompts)
        default = folder.default_prompt_name
        self.default_prompt_name = default if default in self.prompts else None
        self.max_seq_length = model.tokenizer.max_length
        self.max_active_dims = max_active_dims or folder.max_active_dims
        self.tokenizer = model.tokenizer
        self.fingerprint = folder.fingerprint
        self._options = {**model.options, "max_active_dims": max_active_dims}
        self._engine, self._queries, self._metric = model.engine, model.queries, folder.similarity

    @classmethod
    @explain_keywords(LOADING_KEYWORDS)
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        precision: Precision = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        max_active_dims: int | None = None,
        threads: int | None = None,
        isa: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> SparseEncoder:
        """Load a model.

        Args:
            name_or_path: local folder, or hub id.
            precision: "int8" quantizes the weights while loading, those of the vocabulary too;
                "bfloat16", "bfloat16-weights" and "float32" as for `Embedder.from_pretrained`.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; None allows the model's maximum.
            max_active_dims: the most words that a vector keeps; None follows the folder.
            threads: threads of the engine; None uses the CPUs this process may use.
            isa: force an instruction set; None uses the best.
            local_files_only: never use the network.
            token: access token of the hub.

        Returns:
            the sparse encoder.

        Raises:
            ModelNotFoundError: no such folder or hub model.
            UnsupportedArchitectureError: the folder is of another kind; the class that opens it is
                named.
            ModelError: the folder is broken or not supported; see the subclasses.
            InputError: an argument is invalid.
            InstructionSetError: isa is unknown or not available here, or this CPU lacks what precision needs.
        """
        model = load_sparse(
            name_or_path,
            precision=precision,
            revision=revision,
            max_seq_length=max_seq_length,
            threads=threads,
            isa=isa,
            local_files_only=local_files_only,
            token=token,
        )
        return cls(model, max_active_dims=max_active_dims)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name and options that load the model again; see the class."""
        return _reopened, (self.source, self._options, self.fingerprint)

    def __repr__(self) -> str:
        """Return the model and what decides its weights and its speed."""
        return (
            f"SparseEncoder({self.name!r}, dimension={self.dimension}, precision={self.precision!r}, "
            f"isa={self.isa!r}, threads={self.threads})"
        )

    @property
    def dimension(self) -> int:
        """V, the words of the vocabulary."""
        return self._engine.spec.vocab_size

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes: "dot" or "cosine"."""
        return self._metric

    @property
    def isa(self) -> str:
        """The instruction set that the engine uses."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """The number of threads that the engine uses."""
        return self._engine.threads

    @property
    def nbytes(self) -> int:
        """The bytes that the model holds: packed weights, tables (mapped from a file or not), and its tokenizer."""
        table = self._queries
        queries = 0 if table is None else table.weights.nbytes + table.tokenizer.nbytes
        return self._engine.nbytes + self.tokenizer.nbytes + queries

    @property
    def queries_without_model(self) -> bool:
        """Whether the words of queries are weighed by a table."""
        return self._queries is not None

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVector: ...

    @overload
    def encode(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVectors: ...

    @explain_keywords(_ENCODE)
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVector | SparseVectors:
        """Turn texts into weights of words, in the order of the texts; as documents, where a Router tells them apart.

        Formula:
            w_v = max_t log(1 + max(0, x_tv)), x the logit of token t for word v; or the sum over
            tokens, or the logarithm twice, as the folder says; then the largest max_active_dims

        Args:
            texts: one text, or any sequence of texts; empty texts and lists are valid.
            prompt_name: a name in `prompts`; None uses the model's default prompt, if it has one.
            prompt: a text to put before every text, instead of a named one; "" for no prompt.
            max_active_dims: overrides the encoder's own; of equal weights the earlier word stays.
            max_batch_tokens: maximum number of tokens in one native call; bounds memory and does not change weights.
            show_progress_bar: show a bar on stderr.

        Returns:
            a `SparseVector` for a str, `SparseVectors` of N rows for N texts.

        Raises:
            InputError: an argument or a text is invalid; the message has a text's position.
            EngineError: a weight came out as NaN or infinity.
        """
        return self._encode(
            texts,
            None,
            prompt_name=prompt_name,
            prompt=prompt,
            max_active_dims=max_active_dims,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVector: ...

    @overload
    def encode_query(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVectors: ...

    @explain_keywords(_ENCODE)
    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVector | SparseVectors:
        """Turn queries into weights: by the table if the model has one, else `encode` with the prompt "query".

        `prompt` replaces that prompt; other arguments are those of `encode`.
        """
        return self._encode(
            texts,
            self._queries,
            prompt_name=None,
            prompt=query_prompt(self.prompts) if prompt is None else prompt,
            max_active_dims=max_active_dims,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVector: ...

    @overload
    def encode_document(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVectors: ...

    @explain_keywords(_ENCODE)
    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> SparseVector | SparseVectors:
        """Turn documents into weights: `encode` with the prompt "document", else "passage", if there is one.

        `prompt` replaces that prompt; other arguments are those of `encode`.
        """
        return self._encode(
            texts,
            None,
            prompt_name=None,
            prompt=document_prompt(self.prompts) if prompt is None else prompt,
            max_active_dims=max_active_dims,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    def _encode(
        self,
        texts: str | Iterable[str],
        table: WordTable | None,
        *,
        prompt_name: str | None,
        prompt: str | None,
        max_active_dims: int | None,
        max_batch_tokens: int,
        show_progress_bar: bool | None,
    ) -> SparseVector | SparseVectors:
        items = [texts] if isinstance(texts, str) else text_list(texts)
        if max_active_dims is not None:
            check_range("max_active_dims", max_active_dims, sys.maxsize)
        before = choose_prompt(
            self.prompts,
            prompt_name=prompt_name,
            prompt=prompt,
            default=self.default_prompt_name,
            model=self.name,
        )
        prompted = [with_prompt(before, text) for text in items]
        most = max_active_dims or self.max_active_dims or sys.maxsize
        if table is not None:
            tokens = table.tokenizer.encode(prompted)
            rows = [_looked_up(table, tokens, most)]
        else:
            rows = self._through_model(prompted, most, max_batch_tokens, bool(show_progress_bar))
        vectors = _joined(rows, self.dimension)
        return vectors[0] if isinstance(texts, str) else vectors

    def _through_model(
        self, texts: Sequence[str], most: int, max_batch_tokens: int, show_progress_bar: bool
    ) -> list[_Rows]:
        rows = []
        for batch, position in token_batches(
            self.tokenizer.encode,
            texts,
            max_batch_tokens=max_batch_tokens,
            most_texts=max(1, _MOST_WEIGHTS // self.dimension),
            show_progress_bar=show_progress_bar,
        ):
            rows.append(_compressed(self._engine.encode(batch, position=position), most))
        return rows

    def similarity(
        self, a: SparseVector | SparseVectors, b: SparseVector | SparseVectors
    ) -> NDArray[np.float32]:
        """Compare every vector of a with every vector of b, by `similarity_fn_name`.

        Args:
            a: one vector, or N.
            b: one vector, or M.

        Returns:
            float32 (N, M); a single vector drops its axis.

        Raises:
            InputError: they are no sparse vectors, or of different vocabularies.
        """
        return sparse_similarity(a, b, metric=self._metric)

    @overload
    def decode(
        self, vectors: SparseVector, *, top_k: int | None = None
    ) -> list[tuple[str, float]]: ...

    @overload
    def decode(
        self, vectors: SparseVectors, *, top_k: int | None = None
    ) -> list[list[tuple[str, float]]]: ...

    def decode(
        self, vectors: SparseVector | SparseVectors, *, top_k: int | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Show the words of vectors, heaviest first.

        Args:
            vectors: one vector, or N.
            top_k: how many words to show; None shows all.

        Returns:
            (word, weight) pairs, the words as the vocabulary has them; a list of them for each of N.

        Raises:
            InputError: vectors are no sparse vectors, or top_k is no positive whole number.
        """
        if top_k is not None:
            check_range("top_k", top_k, sys.maxsize)
        decoded = []
        several = _several("vectors", vectors)
        for row in range(len(several)):
            vector = several[row]
            order = np.argsort(-vector.values, kind="stable")[:top_k]
            words = [self.tokenizer.token(int(i)) or "" for i in vector.indices[order]]
            decoded.append(list(zip(words, vector.values[order].tolist(), strict=True)))
        return decoded[0] if isinstance(vectors, SparseVector) else decoded


def weigh_tokenized(encoder: SparseEncoder, tokens: TokenBatch) -> SparseVectors:
    """Turn tokenized documents into weights, for callers that tokenize themselves.

    Args:
        encoder: the model.
        tokens: N texts, from `encoder.tokenizer.encode`.

    Returns:
        N rows, the same as those of `SparseEncoder.encode_document`.

    Raises:
        EngineError: a weight came out as NaN or infinity.
    """
    most = encoder.max_active_dims or sys.maxsize
    room = max(1, _MOST_WEIGHTS // encoder.dimension)
    rows = []
    for _, batch in tokens.split(MAX_BATCH_TOKENS):
        for start in range(0, len(batch), room):
            part = batch.select(start, min(start + room, len(batch)))
            rows.append(_compressed(encoder._engine.encode(part), most))
    return _joined(rows, encoder.dimension)


def query_tokenizer(encoder: SparseEncoder) -> Tokenizer:
    """Return the tokenizer of queries: that of the table if the model has one."""
    table = encoder._queries
    return encoder.tokenizer if table is None else table.tokenizer


def weigh_query_tokens(encoder: SparseEncoder, tokens: TokenBatch) -> SparseVectors:
    """Turn tokenized queries into weights, as `SparseEncoder.encode_query` does.

    Arguments, result and errors are those of `weigh_tokenized`; the tokens are those of `query_tokenizer`.
    """
    table = encoder._queries
    if table is None:
        return weigh_tokenized(encoder, tokens)
    rows = _looked_up(table, tokens, encoder.max_active_dims or sys.maxsize)
    return _joined([rows], encoder.dimension)


def sparse_similarity(
    a: SparseVector | SparseVectors, b: SparseVector | SparseVectors, *, metric: str
) -> NDArray[np.float32]:
    """Compare every vector of a with every vector of b.

    Args:
        a: one vector, or N.
        b: one vector, or M.
        metric: "dot" or "cosine".

    Returns:
        float32 (N, M); a single vector drops its axis.

    Raises:
        InputError: they are no sparse vectors, or of different vocabularies.
    """
    left, right = _several("a", a), _several("b", b)
    if left.size != right.size:
        raise InputError(
            f"vectors must have the same vocabulary: got {left.size} and {right.size} words"
        )
    scores = np.zeros((len(left), len(right)), np.float32)
    rows = right._rows()
    for score, i in zip(scores, range(len(left)), strict=True):
        products = left[i].to_dense()[right.indices] * right.values
        score[:] = np.bincount(rows, products, len(right))
    if metric == "cosine":
        scores /= np.outer(_lengths(left), _lengths(right))
    axes = [len(one) for given, one in ((a, left), (b, right)) if given is one]
    return scores.reshape(axes)


def weights_of_words(
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    size: int,
    unused: NDArray[np.int32],
) -> SparseVectors:
    """Give each word of a text the largest weight of its tokens.

    Args:
        ids: int32 (T,), the words of all tokens.
        offsets: int64 (N + 1,), the first token of each text, and T.
        weights: float32 (T,), a weight for each token; those of 0 and less do not count.
        size: V, the words of the vocabulary.
        unused: ids of words that get no weight.

    Returns:
        N rows.
    """
    counted = (weights > 0) & ~np.isin(ids, unused)
    texts = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[counted]
    places = texts * size + ids[counted]
    order = np.argsort(places, kind="stable")
    found, first = np.unique(places[order], return_index=True)
    values = weights[counted][order]
    if len(found):
        values = np.maximum.reduceat(values, first)
    rows, words = np.divmod(found, size)
    counts = np.bincount(rows, minlength=len(offsets) - 1).astype(np.int64)
    return _joined([(counts, words.astype(np.int32), values)], size)


_Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""How many words each row has, the words, their weights."""


def _compressed(weights: NDArray[np.float32], most: int) -> _Rows:
    """Leave out the zeros of float32 (N, V), and all but the `most` largest of each row."""
    rows, words = np.nonzero(weights)
    values = weights[rows, words]
    return _pruned(rows, words.astype(np.int32), values, len(weights), most)


def _looked_up(table: WordTable, tokens: TokenBatch, most: int) -> _Rows:
    """Give each word of a text its weight in the table, once."""
    texts = np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets))
    size = len(table.weights)
    places = np.unique(texts * size + tokens.ids)
    rows, words = np.divmod(places, size)
    values = table.weights[words]
    kept = values != 0
    return _pruned(rows[kept], words[kept].astype(np.int32), values[kept], len(tokens), most)


def _pruned(
    rows: NDArray[np.int64],
    words: NDArray[np.int32],
    values: NDArray[np.float32],
    count: int,
    most: int,
) -> _Rows:
    counts = np.bincount(rows, minlength=count).astype(np.int64)
    if counts.max(initial=0) <= most:
        return counts, words, values
    order = np.lexsort((words, -np.abs(values), rows))
    first = np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[np.arange(len(order)) - first < most])
    return np.minimum(counts, most), words[kept], values[kept]


def _joined(parts: Sequence[_Rows], size: int) -> SparseVectors:
    counts = [part[0] for part in parts] or [np.zeros(0, np.int64)]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    words = [part[1] for part in parts] or [np.zeros(0, np.int32)]
    values = [part[2] for part in parts] or [np.zeros(0, np.float32)]
    return SparseVectors(indptr, np.concatenate(words), np.concatenate(values), size)


def _several(name: str, vectors: SparseVector | SparseVectors) -> SparseVectors:
    if isinstance(vectors, SparseVectors):
        return vectors
    if not isinstance(vectors, SparseVector):
        raise InputError(
            f"{name} must be a SparseVector or SparseVectors, as encode returns: got "
            f"{type(vectors).__name__}"
        )
    indptr = np.array([0, len(vectors)], np.int64)
    return SparseVectors(indptr, vectors.indices, vectors.values, vectors.size)


def _lengths(vectors: SparseVectors) -> NDArray[np.float32]:
    squares = np.bincount(vectors._rows(), np.square(vectors.values), len(vectors))
    lengths = np.sqrt(squares).astype(np.float32)
    lengths[lengths == 0] = 1
    return lengths


def sparse_settings(encoder: SparseEncoder) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`, besides the name, that decide a model's weights."""
    names = ("max_seq_length", "max_active_dims")
    return {name: encoder._options[name] for name in names if encoder._options[name] is not None}


def _reopened(source: str, options: Mapping[str, Any], fingerprint: str) -> SparseEncoder:
    """Load the model of a pickled sparse encoder."""
    encoder = SparseEncoder.from_pretrained(source, **options)
    check_reopened("sparse encoder", "SparseEncoder", source, encoder.fingerprint, fingerprint)
    return encoder
