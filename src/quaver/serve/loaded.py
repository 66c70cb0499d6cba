"""Loaded models of a server: what each kind computes, in its lanes of the scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder, pool_parts, pool_tokenized
from quaver.models import TokenBatch, Tokenizer
from quaver.multi_vector_encoder import (
    MultiVectorEncoder,
    Side,
    TokenVectors,
    embed_tokenized,
    longest_text,
    require_pooling,
    tokenize_texts,
)
from quaver.reranker import CrossEncoder, pair_logits
from quaver.serve.scheduler import (
    Cut,
    Item,
    Lane,
    Length,
    Pair,
    SpanBatch,
    Spans,
    Tokens,
    TooLong,
)
from quaver.sparse_encoder import (
    SparseEncoder,
    SparseVectors,
    query_tokenizer,
    weigh_query_tokens,
    weigh_tokenized,
)

Model = TypeVar("Model", Embedder, CrossEncoder, SparseEncoder, MultiVectorEncoder)

# Each load has a number: a model that is loaded again may have other files, and then other results.
_loads = itertools.count()


class _LoadedModel(Generic[Model]):
    """What every loaded model has.

    Attributes:
        model: the model.
        lanes: its lanes.
        tokenizers: the tokenizers of the lanes, the model's own first.
    """

    model: Model
    lanes: tuple[Lane, ...]
    tokenizers: tuple[Tokenizer, ...]

    def __init__(self, model: Model) -> None:
        """Take the model; a subclass makes the lanes."""
        self.model = model
        self.tokenizers = (model.tokenizer,)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.tokenizer

    @property
    def nbytes(self) -> int:
        """The bytes that the model holds."""
        return self.model.nbytes


class LoadedEmbedder(_LoadedModel[Embedder]):
    """An embedding model with its lanes.

    Attributes:
        lane: computes pooled vectors, which `quaver.embedder.finish_vectors` completes.
        parts: computes the same of parts of texts; of a text without parts, for each of its tokens.
    """

    def __init__(self, embedder: Embedder) -> None:
        """Give the model its lanes."""
        super().__init__(embedder)
        key = f"{embedder.fingerprint}/{embedder.precision}/{embedder.isa}/{next(_loads)}"

        def tokenize(items: Sequence[Item]) -> list[Tokens]:
            return _tokenized(embedder.tokenizer, items)

        self.lane = Lane(
            key,
            tokenize,
            lambda batch: pool_tokenized(embedder, batch),
            width=embedder.spec.outputs,
            longest=embedder.max_seq_length,
        )
        self.parts = Lane(
            f"{key}/parts",
            lambda items: [_with_parts(tokens) for tokens in tokenize(items)],
            lambda batch: _parts(embedder, batch),
            width=None,
            longest=embedder.max_seq_length,
            cached=False,
        )
        self.lanes = (self.lane, self.parts)


class LoadedCrossEncoder(_LoadedModel[CrossEncoder]):
    """A cross-encoder with its lane.

    Attributes:
        lane: computes logits, which `quaver.reranker.activated` completes.
    """

    def __init__(self, model: CrossEncoder) -> None:
        """Give the model a lane.

        Raises:
            InputError: its chat template needs an instruction, and its folder names no default, so that
                no request could be answered.
        """
        super().__init__(model)
        model.tokenizer.encode_pairs([("", "")], prompt=model.default_prompt)
        self.lane = Lane(
            f"{model.source}/{model.precision}/{model.isa}/{next(_loads)}",
            lambda items: _tokenized(model.tokenizer, items, model.default_prompt),
            lambda batch: pair_logits(model, batch),
            width=model.labels,
            longest=model.max_seq_length,
            cached=False,
        )
        self.lanes = (self.lane,)


class LoadedSparse(_LoadedModel[SparseEncoder]):
    """A sparse encoder with its lanes.

    Attributes:
        lane: computes the weights of texts, as arrays of `ENTRY`.
        queries: computes those of queries; the same lane unless a table weighs them.
    """

    def __init__(self, model: SparseEncoder) -> None:
        """Give the model its lanes."""
        super().__init__(model)
        key = f"{model.fingerprint}/{model.precision}/{model.isa}/{next(_loads)}"
        self.lane = self.queries = Lane(
            key,
            lambda items: _tokenized(model.tokenizer, items),
            lambda batch: _entries(weigh_tokenized(model, batch)),
            width=None,
            longest=model.max_seq_length,
        )
        if model.queries_without_model:
            tokenizer = query_tokenizer(model)
            self.queries = Lane(
                f"{key}/queries",
                lambda items: _tokenized(tokenizer, items),
                lambda batch: _entries(weigh_query_tokens(model, batch)),
                width=None,
                longest=tokenizer.max_length,
            )
            self.tokenizers = (model.tokenizer, tokenizer)
        self.lanes = (self.lane, self.queries)


class LoadedMultiVector(_LoadedModel[MultiVectorEncoder]):
    """A multi-vector model with its lanes.

    Attributes:
        documents: computes the vectors of the tokens of documents.
        queries: computes those of queries.
    """

    def __init__(self, model: MultiVectorEncoder) -> None:
        """Give the model its lanes.

        Raises:
            ImportError: its folder says that documents are pooled, and scipy is not installed.
        """
        super().__init__(model)
        require_pooling(model)
        key = f"{model.fingerprint}/{model.precision}/{model.isa}/{next(_loads)}"

        def lane(side: Side, longest: int) -> Lane:
            return Lane(
                f"{key}/{side}",
                lambda items: _tokenized(_Sided(model, side), items),
                lambda batch: _split(embed_tokenized(model, batch, side)),
                width=None,
                longest=longest,
            )

        self.documents = lane("document", model.max_seq_length)
        self.queries = lane("query", model.query_length)
        self.lanes = (self.documents, self.queries)


class _Sided:
    """Tokenizes texts as queries or documents of a multi-vector model."""

    def __init__(self, model: MultiVectorEncoder, side: Side) -> None:
        self._model, self._side = model, side
        self.max_length = min(model.tokenizer.max_length, longest_text(model, side))

    def encode(
        self,
        texts: Sequence[str],
        *,
        keep: Literal["start", "end"] = "start",
        longest: int | None = None,
    ) -> TokenBatch:
        return tokenize_texts(self._model, texts, self._side, keep=keep, longest=longest)


Loaded = LoadedEmbedder | LoadedCrossEncoder | LoadedSparse | LoadedMultiVector

ENTRY = np.dtype([("index", np.int32), ("value", np.float32)])
"""A word of a sparse vector, and its weight."""


def _entries(vectors: SparseVectors) -> list[NDArray[Any]]:
    """Return the words and weights of each text."""
    entries = np.empty(len(vectors.indices), ENTRY)
    entries["index"], entries["value"] = vectors.indices, vectors.values
    return np.split(entries, vectors.indptr[1:-1])


def _split(vectors: TokenVectors) -> list[NDArray[np.float32]]:
    return [np.asarray(vectors[i], np.float32) for i in range(len(vectors))]


def _tokenized(
    tokenizer: Tokenizer | _Sided, items: Sequence[Item], prompt: str = ""
) -> list[Tokens]:
    """Tokenize inputs of any kind, each kind in one call, with the prompt before the query of a pair."""
    groups: dict[tuple[type[Item], Length], list[int]] = {}
    for i, item in enumerate(items):
        length = item.length if isinstance(item, (Cut, Pair)) else Length()
        groups.setdefault((type(item), length), []).append(i)
    found: dict[int, Tokens] = {}
    for (kind, length), rows in groups.items():
        if kind is bytes or kind is Spans:
            found.update((i, _given(items[i])) for i in rows)
            continue
        keep: Literal["start", "end"] = "end" if length.truncate == "start" else "start"
        if kind is Pair:
            assert isinstance(tokenizer, Tokenizer)
            pairs = [(each.query, each.document) for each in map(_pair, (items[i] for i in rows))]
            batch = tokenizer.encode_pairs(
                pairs, longest_second=length.most, prompt=prompt, keep=keep
            )
        else:
            texts = [_text(items[i]) for i in rows]
            batch = tokenizer.encode(texts, keep=keep, longest=length.most)
        if length.truncate == "never" and batch.truncated:
            raise TooLong(min(tokenizer.max_length, length.most or tokenizer.max_length))
        found.update(zip(rows, _apart(batch), strict=True))
    return [found[i] for i in range(len(items))]


def _apart(batch: TokenBatch) -> list[Tokens]:
    ends = batch.offsets.tolist()
    types, keys, splits = batch.type_ids, batch.keys, batch.splits
    unpooled = [0] * len(batch) if batch.unpooled is None else batch.unpooled.tolist()
    return [
        Tokens(
            batch.ids[first:last],
            None if types is None else types[first:last],
            attended=None if keys is None else int(keys[i]),
            split=None if splits is None else int(splits[i]),
            unpooled=unpooled[i],
        )
        for i, (first, last) in enumerate(itertools.pairwise(ends))
    ]


def _given(item: Item) -> Tokens:
    if isinstance(item, Spans):
        spans = np.frombuffer(item.spans, np.int32).reshape(-1, 2)
        return Tokens(np.frombuffer(item.ids, np.int32), None, spans)
    assert isinstance(item, bytes)
    return Tokens(np.frombuffer(item, np.int32), None)


def _with_parts(tokens: Tokens) -> Tokens:
    """Return tokens with the parts that get a vector: every token, unless there are some."""
    if tokens.spans is not None:
        return tokens
    first = np.arange(len(tokens.ids), dtype=np.int32)
    return tokens._replace(spans=np.stack([first, first + 1], axis=1))


def _parts(embedder: Embedder, batch: TokenBatch) -> list[NDArray[np.float32]]:
    """Return the vectors of each text's parts."""
    assert isinstance(batch, SpanBatch)
    return np.split(pool_parts(embedder, batch, batch.spans), np.cumsum(batch.counts)[:-1])


def _text(item: Item) -> str:
    assert isinstance(item, (str, Cut))
    return item if isinstance(item, str) else item.text


def _pair(item: Item) -> Pair:
    assert isinstance(item, Pair)
    return item
