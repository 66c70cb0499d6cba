"""MultiVectorEncoder: texts to a vector for each token, compared by MaxSim (ColBERT)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from quaver.engine import (
    CALL_KEYWORDS,
    LOADING_KEYWORDS,
    MAX_BATCH_TOKENS,
    LoadedMultiVector,
    Output,
    Precision,
    Vectors,
    check_loaded,
    check_reopened,
    convert,
    explain_keywords,
    load_multi_vector,
    text_list,
    token_batches,
    token_spans,
)
from quaver.errors import InputError, ModelFolderError
from quaver.models import (
    MultiVectorModules,
    QueryExpansion,
    TokenBatch,
    choose_prompt,
    document_prompt,
    query_prompt,
    with_prompt,
)

Side = Literal["query", "document"]

# Numbers of a block of products of query and document tokens: 64 MB.
_MOST_PRODUCTS = 1 << 24

_ENCODE = {
    **CALL_KEYWORDS,
    "output_value": "leave it out: the result is a vector for each token",
    "token_pooling": "use pool_factor",
}


@dataclass(frozen=True)
class TokenVectors:
    """The vectors of the tokens of N texts, one text after the other.

    Attributes:
        vectors: float32 or int8 (T, D), or uint8 (T, ceil(D / 8)) of output "binary".
        offsets: int64 (N + 1,); text i has the rows `vectors[offsets[i]:offsets[i + 1]]`.
    """

    vectors: Vectors
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Return N, the number of texts."""
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> Vectors:
        """Return the vectors of one text, a view; a negative number counts from the end."""
        at = range(len(self))[text]
        return self.vectors[self.offsets[at] : self.offsets[at + 1]]


class MultiVectorEncoder:
    """A model that turns texts into a vector for each token.

        model = MultiVectorEncoder.from_pretrained("answerdotai/answerai-colbert-small-v1")
        documents = model.encode_document(["Paris is the capital of France.", "Rome is in Italy."])
        model.similarity(model.encode_query("What is the capital of France?"), documents)

    A score is the sum over the query's tokens of the most similar token of a document (MaxSim). So a
    document keeps its details where one vector would average them, and takes as many vectors as it
    has tokens; `pool_factor` merges similar ones. Folders of sentence-transformers 6, PyLate and
    Stanford's ColBERT open, with their prefix tokens, mask tokens that make queries longer, and
    tokens that get no vector, mostly punctuation.

    Calls do not change an encoder, so threads can share it. It pickles like an `Embedder`.

    Attributes:
        name: hub id or folder name.
        source: the name that loads this model again in any process.
        precision: "int8", "bfloat16", "bfloat16-weights" or "float32".
        prompts: texts that go before a text, by name.
        max_seq_length: maximum number of tokens in a document, special tokens included; longer ones are truncated.
        query_length: the same of a query.
        tokenizer: the model's tokenizer.
        fingerprint: 64 hex digits that say which vectors can be compared.
    """

    @explain_keywords(LOADING_KEYWORDS)
    def __init__(self, model: LoadedMultiVector) -> None:
        """Wrap a loaded model; `from_pretrained` is the usual way.

        Args:
            model: the model.

        Raises:
            InputError: it is something else.
            ModelFolderError: the folder's tokens or lengths do not fit its tokenizer.
        """
        check_loaded("MultiVectorEncoder", model, LoadedMultiVector)
        folder, modules = model.folder, model.folder.multi_vector
        assert modules is not None
        self.name = folder.name
        self.source = folder.source
        self.precision = model.engine.precision
        self.prompts = dict(folder.prompts)
        self.tokenizer = model.tokenizer
        self.fingerprint = folder.fingerprint
        self._modules = modules
        self._options, self._engine, self._metric = model.options, model.engine, folder.similarity
        self._prefixes = {side: self._prefix(side) for side in ("query", "document")}
        self._expansion = modules.expansion
        self._mask = None if modules.expansion is None else self._mask_token(modules.expansion)
        self._skipped = self._skipped_ids(modules)
        longest = self.tokenizer.max_length
        stated = model.options["max_seq_length"]
        self.max_seq_length = stated or min(modules.document_length or longest, longest)
        self.query_length = min(modules.query_length or longest, longest)
        if modules.expansion is not None and modules.expansion.cuts:
            self.query_length = min(modules.expansion.length, longest)
        least = self.tokenizer.special_tokens + 2
        if min(self.max_seq_length, self.query_length) < least:
            raise ModelFolderError(
                f"queries and documents of {self.name} must have room for a prefix, special tokens and a "
                f"word, {least} tokens: got {self.query_length} and {self.max_seq_length}"
            )

    @classmethod
    @explain_keywords(LOADING_KEYWORDS)
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        precision: Precision = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        threads: int | None = None,
        isa: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> MultiVectorEncoder:
        """Load a model.

        Args:
            name_or_path: local folder, or hub id.
            precision: "int8" quantizes the weights while loading; "bfloat16", "bfloat16-weights" and
                "float32" as for `Embedder.from_pretrained`. The projection of the tokens is float32 in all.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a document; None follows the folder.
            threads: threads of the engine; None uses the CPUs this process may use.
            isa: force an instruction set; None uses the best.
            local_files_only: never use the network.
            token: access token of the hub.

        Returns:
            the encoder.

        Raises:
            ModelNotFoundError: no such folder or hub model.
            UnsupportedArchitectureError: the folder is of another kind; the class that opens it is
                named.
            ModelError: the folder is broken or not supported; see the subclasses.
            InputError: an argument is invalid.
            InstructionSetError: isa is unknown or not available here, or this CPU lacks what precision needs.
        """
        model = load_multi_vector(
            name_or_path,
            precision=precision,
            revision=revision,
            max_seq_length=max_seq_length,
            threads=threads,
            isa=isa,
            local_files_only=local_files_only,
            token=token,
        )
        return cls(model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name and options that load the model again; see the class."""
        return _reopened, (self.source, self._options, self.fingerprint)

    def __repr__(self) -> str:
        """Return the model and what decides its vectors and its speed."""
        return (
            f"MultiVectorEncoder({self.name!r}, dimension={self.dimension}, "
            f"precision={self.precision!r}, isa={self.isa!r}, threads={self.threads})"
        )

    @property
    def dimension(self) -> int:
        """The dimension D of the vectors."""
        return self._engine.spec.outputs

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes: "maxsim", or "meanmaxsim", divided by the query's vectors."""
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
        return self._engine.nbytes + self.tokenizer.nbytes

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt: str | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors: ...

    @overload
    def encode_query(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> TokenVectors: ...

    @explain_keywords(_ENCODE)
    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors | TokenVectors:
        """Turn queries into vectors of their tokens, in the order of the texts.

        Args:
            texts: one text, or any sequence of texts; empty texts and lists are valid.
            prompt: a text to put before every text, instead of the model's own; "" for no prompt.
                Prefix tokens stay.
            output: "float32", "int8" (unit vectors times 127, rounded) or "binary" (packed signs).
            max_batch_tokens: maximum number of tokens in one native call; bounds memory and does not change vectors.
            show_progress_bar: show a bar on stderr.

        Returns:
            (T, D) for a str, `TokenVectors` of N texts for N; mask tokens have vectors too.

        Raises:
            InputError: an argument or a text is invalid; the message has a text's position.
            EngineError: a vector came out with NaN or infinity.
        """
        own = query_prompt(self.prompts) if prompt is None else prompt
        return self._encode(texts, "query", own, output, 1.0, max_batch_tokens, show_progress_bar)

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt: str | None = None,
        pool_factor: float | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors: ...

    @overload
    def encode_document(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        pool_factor: float | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> TokenVectors: ...

    @explain_keywords(_ENCODE)
    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        pool_factor: float | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vectors | TokenVectors:
        """Turn documents into vectors of their tokens, in the order of the texts.

        Args:
            texts: as for `encode_query`.
            prompt: as for `encode_query`.
            pool_factor: keep about one of so many vectors of a document, at least 1: similar ones
                become their mean, of length 1 again. None follows the folder, which most do not pool.
            output: as for `encode_query`.
            max_batch_tokens: as for `encode_query`.
            show_progress_bar: as for `encode_query`.

        Returns:
            (T, D) for a str, `TokenVectors` of N texts for N; without the tokens that are skipped.

        Raises:
            InputError: an argument or a text is invalid; the message has a text's position.
            EngineError: a vector came out with NaN or infinity.
            ImportError: vectors are pooled, and scipy is not installed.
        """
        if pool_factor is not None and not (
            isinstance(pool_factor, (int, float))
            and not isinstance(pool_factor, bool)
            and 1 <= pool_factor < sys.maxsize
        ):
            raise InputError(f"pool_factor must be a number of at least 1: got {pool_factor!r}")
        factor = self._modules.pool_factor if pool_factor is None else float(pool_factor)
        own = document_prompt(self.prompts) if prompt is None else prompt
        return self._encode(
            texts, "document", own, output, factor, max_batch_tokens, show_progress_bar
        )

    def _encode(
        self,
        texts: str | Iterable[str],
        side: Side,
        prompt: str,
        output: Output,
        pool_factor: float,
        max_batch_tokens: int,
        show_progress_bar: bool | None,
    ) -> Vectors | TokenVectors:
        items = [texts] if isinstance(texts, str) else text_list(texts)
        convert(np.zeros((0, 8), np.float32), normalize=False, output=output)  # checks output
        words = choose_prompt(
            self.prompts, prompt_name=None, prompt=prompt, default=None, model=self.name
        )
        parts: list[Vectors] = []
        counts: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        for batch, position in token_batches(
            self._tokenize(side),
            [with_prompt(words, text) for text in items],
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=bool(show_progress_bar),
        ):
            found = self._token_vectors(batch, side, pool_factor, position)
            parts.append(convert(found.vectors, normalize=False, output=output))
            counts.append(np.diff(found.offsets))
        empty = convert(np.zeros((0, self.dimension), np.float32), normalize=False, output=output)
        all_vectors = TokenVectors(
            np.concatenate([empty, *parts]), np.cumsum(np.concatenate(counts))
        )
        return all_vectors[0] if isinstance(texts, str) else all_vectors

    def _token_vectors(
        self,
        batch: TokenBatch,
        side: Side,
        pool_factor: float,
        position: Callable[[int], int] | None = None,
    ) -> TokenVectors:
        kept = self._kept(batch, side)
        vectors = self._engine.encode(batch, spans=token_spans(batch, kept), position=position)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
        found = TokenVectors(vectors, before[batch.offsets])
        if pool_factor > 1:
            found = pooled_tokens(found, pool_factor, protected=self._modules.protected)
        return found

    def _tokenize(self, side: Side) -> Callable[[Sequence[str], Callable[[int], int]], TokenBatch]:
        return lambda texts, position: self._tokens(texts, side, position)

    def _room(self, side: Side) -> int:
        """Return how many tokens a text may have, special tokens included, beside a prefix."""
        longest = self.query_length if side == "query" else self.max_seq_length
        return longest - (self._prefixes[side] is not None)

    def _tokens(
        self,
        texts: Sequence[str],
        side: Side,
        position: Callable[[int], int] | None = None,
        keep: Literal["start", "end"] = "start",
        longest: int | None = None,
    ) -> TokenBatch:
        prefix, room = self._prefixes[side], self._room(side)
        room = min(room, longest or room)
        batch = self.tokenizer.encode(texts, position, keep=keep, longest=room)
        if prefix is not None:
            batch = _with_prefix(batch, prefix, self._leading)
        if side == "query" and self._expansion is not None and self._mask is not None:
            batch = _expanded(batch, self._expansion, self._mask)
        return batch

    def _kept(self, batch: TokenBatch, side: Side) -> NDArray[np.bool_]:
        """Return which tokens get a vector."""
        if side not in self._modules.skips or not len(self._skipped):
            return np.ones(batch.tokens, bool)
        return ~np.isin(batch.ids, self._skipped)

    def _prefix(self, side: str) -> int | None:
        """Return the token that goes before a text; one that the tokenizer lacks goes before it as text."""
        text = self._modules.prefix(side)
        if not text.split():
            return None
        for token in (text, text.split(None, 1)[0]):
            found = self.tokenizer.token_id(token)
            if found is not None:
                return found
        name = "query" if side == "query" else "document"
        self.prompts[name] = text + self.prompts.get(name, "")
        return None

    @property
    def _leading(self) -> int:
        """How many special tokens are before a text."""
        special = [piece.special for piece in self.tokenizer.pieces("a")]
        return special.index(False) if False in special else 0

    def _mask_token(self, expansion: QueryExpansion) -> int:
        names = (expansion.token,) if expansion.token else ("[MASK]", "<mask>", "<|mask|>")
        for name in names:
            found = self.tokenizer.token_id(name)
            if found is not None:
                return found
        raise ModelFolderError(
            f"queries of {self.name} become longer by mask tokens, so its tokenizer must have one: it has "
            f"none of {', '.join(map(repr, names))}"
        )

    def _skipped_ids(self, modules: MultiVectorModules) -> NDArray[np.int32]:
        """Return the tokens without vectors, of those that the vocabulary has."""
        found = (self.tokenizer.token_id(token) for token in modules.skipped)
        return np.array(sorted({id for id in found if id is not None}), np.int32)

    def similarity(
        self, queries: TokenVectors | Vectors, documents: TokenVectors | Vectors
    ) -> NDArray[np.float32]:
        """Score every document for every query, by `similarity_fn_name`.

        Formula:
            sum_i max_j q_i . d_j; "meanmaxsim" divides it by the query's vectors

        Args:
            queries: `TokenVectors` of N texts, or the (T, D) of one; float32, int8 or binary.
            documents: `TokenVectors` of M texts, or the (T, D) of one; likewise.

        Returns:
            float32 (N, M); a single text drops its axis. int8 and binary vectors give the scores of
            the vectors that they stand for. A document without vectors scores 0.

        Raises:
            InputError: the vectors have other shapes, or different dimensions.
        """
        return max_sim(queries, documents, self.dimension, mean=self._metric == "meanmaxsim")


def max_sim(
    queries: TokenVectors | Vectors,
    documents: TokenVectors | Vectors,
    dimension: int,
    *,
    mean: bool,
) -> NDArray[np.float32]:
    """Score every document for every query.

    Args:
        queries: `TokenVectors` of N texts, or the (T, D) of one; float32, int8 or binary.
        documents: `TokenVectors` of M texts, or the (T, D) of one; likewise.
        dimension: D.
        mean: divide each score by the query's vectors.

    Returns:
        float32 (N, M); a single text drops its axis.

    Raises:
        InputError: the vectors have other shapes, or different dimensions.
    """
    left, right = _several("queries", queries), _several("documents", documents)
    scores = np.zeros((len(left), len(right)), np.float32)
    for score, i in zip(scores, range(len(left)), strict=True):
        query = _floats("queries", left[i], dimension)
        _max_sims(query, right, dimension, score)
        if mean:
            score /= max(len(query), 1)
    axes = [len(one) for given, one in ((queries, left), (documents, right)) if given is one]
    return scores.reshape(axes)


def tokenize_passages(encoder: MultiVectorEncoder, texts: Sequence[str]) -> TokenBatch:
    """Tokenize texts as `MultiVectorEncoder.encode_document` does, for `encode_passages`.

    Args:
        encoder: the model.
        texts: N texts.

    Returns:
        their tokens, with the prompt and the prefix of documents.

    Raises:
        InputError: a text is invalid; the message has its position.
    """
    prompt = document_prompt(encoder.prompts)
    prompted = [with_prompt(prompt, text) for text in texts]
    return encoder._tokens(prompted, "document")


def encode_passages(
    encoder: MultiVectorEncoder, tokens: TokenBatch, *, output: Output = "float32"
) -> TokenVectors:
    """Turn tokens into a vector for each, as `MultiVectorEncoder.encode_document` does.

    Args:
        encoder: the model.
        tokens: N texts, from `tokenize_passages`.
        output: as for `MultiVectorEncoder.encode_document`.

    Returns:
        the vectors of N texts.

    Raises:
        EngineError: a vector came out with NaN or infinity.
    """
    factor = encoder._modules.pool_factor
    parts = [
        encoder._token_vectors(batch, "document", factor)
        for _, batch in tokens.split(MAX_BATCH_TOKENS)
    ]
    counts = [np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)]
    empty = np.zeros((0, encoder.dimension), np.float32)
    vectors = np.concatenate([empty, *(part.vectors for part in parts)])
    return TokenVectors(
        convert(vectors, normalize=False, output=output), np.cumsum(np.concatenate(counts))
    )


def tokenize_texts(
    encoder: MultiVectorEncoder,
    texts: Sequence[str],
    side: Side,
    *,
    keep: Literal["start", "end"] = "start",
    longest: int | None = None,
) -> TokenBatch:
    """Tokenize queries or documents, with their prefix and mask tokens, for `embed_tokenized`.

    Args:
        encoder: the model.
        texts: N texts, with the prompt that they get.
        side: "query" or "document".
        keep: which part of a text that is too long to keep.
        longest: maximum number of tokens in a text, special tokens included and more than they, without
            its prefix; None allows `longest_text`.

    Raises:
        InputError: a text is no str, or has half of a surrogate pair.
    """
    return encoder._tokens(texts, side, keep=keep, longest=longest)


def longest_text(encoder: MultiVectorEncoder, side: Side) -> int:
    """Return how many tokens a query or document may have, special tokens included, without its prefix."""
    return encoder._room(side)


def embed_tokenized(encoder: MultiVectorEncoder, tokens: TokenBatch, side: Side) -> TokenVectors:
    """Turn tokenized texts into vectors, as `MultiVectorEncoder.encode_query` and `encode_document` do.

    Args:
        encoder: the model.
        tokens: N texts, from `tokenize_texts`.
        side: "query" or "document".

    Raises:
        TokenRangeError: an id is outside the vocabulary, or a text is longer than the model allows.
        EngineError: a vector came out with NaN or infinity.
        ImportError: the folder says that documents are pooled, and scipy is not installed.
    """
    return encoder._token_vectors(
        tokens, side, encoder._modules.pool_factor if side == "document" else 1
    )


def require_pooling(encoder: MultiVectorEncoder) -> None:
    """Check that documents can be pooled if the folder says that they are, before the first one is.

    Args:
        encoder: the model.

    Raises:
        ImportError: scipy is not installed.
    """
    if encoder._modules.pool_factor > 1:
        _clustering()


def _clustering() -> tuple[Any, Any]:
    """Return what clusters vectors."""
    try:
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise ImportError("pooling tokens needs scipy: pip install 'quaver[scipy]'") from error
    return hierarchy, squareform


def pooled_tokens(vectors: TokenVectors, pool_factor: float, *, protected: int = 1) -> TokenVectors:
    """Merge similar vectors of each text, by Ward's hierarchical clustering of their cosines.

    Args:
        vectors: float32, of length 1.
        pool_factor: keep about one of so many vectors, more than 1.
        protected: the first vectors of a text, which stay as they are.

    Returns:
        fewer vectors, of length 1; those of a cluster become their mean.

    Raises:
        ImportError: scipy is not installed.

    Source:
        Clavié et al., Reducing the Footprint of Multi-Vector Retrieval (arXiv 2409.14683)
    """
    hierarchy, squareform = _clustering()
    kept: list[Vectors] = []
    for i in range(len(vectors)):
        first, rest = vectors[i][:protected], vectors[i][protected:]
        clusters = max(int(len(rest) // pool_factor), 1)
        if clusters < len(rest):
            distances = np.clip(1 - rest @ rest.T, 0, 2)
            tree = hierarchy.linkage(squareform(distances, checks=False), method="ward")
            labels = hierarchy.fcluster(tree, t=clusters, criterion="maxclust")
            _, places = np.unique(labels, return_inverse=True)
            sums = np.zeros((int(places.max()) + 1, rest.shape[1]), np.float32)
            np.add.at(sums, places, rest)
            rest = sums / np.bincount(places)[:, None].astype(np.float32)
        whole = np.concatenate([first, rest])
        kept.append(convert(whole, normalize=True, output="float32"))
    counts = np.array([0, *map(len, kept)], np.int64)
    empty = vectors.vectors[:0]
    return TokenVectors(np.concatenate([empty, *kept]), np.cumsum(counts))


def _with_prefix(batch: TokenBatch, prefix: int, leading: int) -> TokenBatch:
    """Put a token into each text, behind its leading special tokens."""
    places = np.minimum(batch.offsets[:-1] + leading, batch.offsets[1:])
    ids = np.insert(batch.ids, places, prefix).astype(np.int32)
    types = None if batch.type_ids is None else np.insert(batch.type_ids, places, 0)
    offsets = (batch.offsets + np.arange(len(batch.offsets))).astype(np.int32)
    return TokenBatch(ids, offsets, types, batch.truncated)


def _expanded(batch: TokenBatch, expansion: QueryExpansion, mask: int) -> TokenBatch:
    """Make every query at least as long as the expansion says, with mask tokens at its end."""
    lengths = np.diff(batch.offsets)
    added = np.maximum(expansion.length - lengths, 0)
    ids = np.insert(batch.ids, np.repeat(batch.offsets[1:], added), mask).astype(np.int32)
    offsets = np.zeros(len(batch.offsets), np.int32)
    np.cumsum(lengths + added, out=offsets[1:])
    keys = None if expansion.attend else lengths.astype(np.int32)
    return TokenBatch(ids, offsets, None, batch.truncated, keys)


def _several(name: str, vectors: TokenVectors | Vectors) -> TokenVectors:
    if isinstance(vectors, TokenVectors):
        return vectors
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
        raise InputError(
            f"{name} must be TokenVectors, or the vectors (T, D) of one text: got "
            f"{type(vectors).__name__} {np.shape(vectors)}"
        )
    return TokenVectors(vectors, np.array([0, len(vectors)], np.int64))


def _floats(name: str, vectors: Vectors, dimension: int) -> NDArray[np.float32]:
    """Return the vectors that int8 and binary ones stand for, float32 (T, D)."""
    packed = vectors.dtype == np.uint8
    if vectors.shape[1] != (-(-dimension // 8) if packed else dimension):
        raise InputError(
            f"{name} must have the model's dimension, {dimension}: got {vectors.dtype} {vectors.shape}"
        )
    if packed:
        bits = np.unpackbits(vectors, axis=1, count=dimension).astype(np.float32)
        signs: NDArray[np.float32] = (2 * bits - 1) * np.float32(dimension**-0.5)
        return signs
    exact: NDArray[np.float32] = vectors.astype(np.float32, copy=False)
    return exact / np.float32(127) if vectors.dtype == np.int8 else exact


def _max_sims(
    query: NDArray[np.float32], documents: TokenVectors, dimension: int, scores: NDArray[np.float32]
) -> None:
    """Write the score of each document, a block of documents at a time."""
    most = max(1, _MOST_PRODUCTS // max(len(query), dimension, 1))
    offsets = documents.offsets
    first = 0
    while first < len(documents):
        last = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
        last = max(last, first + 1)
        rows = documents.vectors[offsets[first] : offsets[last]]
        products = _floats("documents", rows, dimension) @ query.T
        starts = offsets[first:last] - offsets[first]
        filled = np.diff(offsets[first : last + 1]) > 0
        if filled.any() and len(query):
            largest = np.maximum.reduceat(products, starts[filled], axis=0)
            scores[first:last][filled] = largest.sum(axis=1)
        first = last


def multi_vector_settings(encoder: MultiVectorEncoder) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`, besides the name, that decide a model's vectors."""
    stated = encoder._options["max_seq_length"]
    return {} if stated is None else {"max_seq_length": stated}


def _reopened(source: str, options: Mapping[str, Any], fingerprint: str) -> MultiVectorEncoder:
    """Load the model of a pickled multi-vector encoder."""
    encoder = MultiVectorEncoder.from_pretrained(source, **options)
    check_reopened(
        "multi-vector encoder", "MultiVectorEncoder", source, encoder.fingerprint, fingerprint
    )
    return encoder
