"""Systems to measure: each scores a task's documents for its queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.errors import TaskError
from quaver.evaluate.cache import Model, VectorCache, quaver_key
from quaver.evaluate.task import Scores, Task
from quaver.index import CorpusIndex
from quaver.multi_vector_encoder import MultiVectorEncoder, TokenVectors
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder, SparseVectors
from quaver.store import Mode

Rows = NDArray[np.float32]
RANKING_DEPTH = 100
"""Documents kept for a query in retrieval; the metric and the overlap need ten."""
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Measured:
    """A system's output for a task.

    Attributes:
        scores: scores for every query.
        vectors: float32 of the corpus (N, D) and of the queries (Q, D), in the task's order; None
            for a system without vectors.
    """

    scores: Scores
    vectors: tuple[Rows, Rows] | None = None


class System(Protocol):
    """A system to measure: one column of the table.

    Attributes:
        name: the column's heading.
    """

    name: str

    def measure(self, task: Task) -> Measured:
        """Score a task.

        Raises:
            TaskError: the system cannot run tasks of this kind.
        """
        ...


class Encoder(Protocol):
    """A model that embeds texts: `quaver.Embedder`, or another engine with the same model."""

    def encode_query(self, texts: list[str]) -> NDArray[Any]:
        """Return float32 (N, D)."""
        ...

    def encode_document(self, texts: list[str]) -> NDArray[Any]:
        """Return float32 (N, D)."""
        ...

    def similarity(self, a: NDArray[Any], b: NDArray[Any]) -> Rows:
        """Return float32 (Q, N)."""
        ...


class PairScorer(Protocol):
    """A model that scores pairs of query and document: `quaver.CrossEncoder`."""

    def predict(self, pairs: list[tuple[str, str]], *, activation: Literal["identity"]) -> Rows:
        """Return float32 (N,), or (N, labels)."""
        ...


class VectorSystem:
    """A system that ranks by the exact similarity of vectors."""

    def __init__(
        self, name: str, encoder: Encoder, *, cache: VectorCache | None = None, key: str = ""
    ) -> None:
        """Wrap an encoder.

        Args:
            name: heading of the column.
            encoder: embeds the texts.
            cache: keeps vectors between runs; None keeps none.
            key: identifies everything that the vectors depend on besides the texts.
        """
        self.name = name
        self._encoder = encoder
        self._cache = cache
        self._key = key

    def measure(self, task: Task) -> Measured:
        """Score a task."""
        texts = list(task.corpus.values())
        corpus = self._vectors("document", texts)
        queries = self._vectors("query", list(task.queries.values()))
        if task.kind == "retrieval":
            return Measured(self._nearest(task, corpus, queries), (corpus, queries))
        place = {document: row for row, document in enumerate(task.corpus)}
        scores: Scores = {}
        for query, vector in zip(task.queries, queries, strict=True):
            pool = list(task.judgments[query])
            near = self._encoder.similarity(vector[None], corpus[[place[d] for d in pool]])
            scores[query] = dict(zip(pool, near[0].tolist(), strict=True))
        return Measured(scores, (corpus, queries))

    def _nearest(self, task: Task, corpus: Rows, queries: Rows) -> Scores:
        ids, names = list(task.corpus), list(task.queries)
        kept = min(RANKING_DEPTH, len(ids))
        scores: Scores = {}
        for first in range(0, len(names), _QUERIES_AT_ONCE):
            near = self._encoder.similarity(queries[first : first + _QUERIES_AT_ONCE], corpus)
            best = np.argpartition(-near, kept - 1, axis=1)[:, :kept]
            values = np.take_along_axis(near, best, axis=1).tolist()
            for name, row, value in zip(names[first:], best.tolist(), values, strict=False):
                scores[name] = {ids[i]: v for i, v in zip(row, value, strict=True)}
        return scores

    def _vectors(self, role: str, texts: list[str]) -> Rows:
        def encode() -> Rows:
            vectors = (
                self._encoder.encode_query(texts)
                if role == "query"
                else self._encoder.encode_document(texts)
            )
            return np.asarray(vectors, np.float32)

        if self._cache is None:
            return encode()
        (vectors,) = self._cache.get((self._key, role), texts, lambda: [encode()])
        return vectors


class TokenSystem:
    """A system that ranks by what a model makes of each token: weights of words, or a vector for each."""

    def __init__(
        self,
        name: str,
        encoder: SparseEncoder | MultiVectorEncoder,
        *,
        cache: VectorCache | None = None,
        key: str = "",
    ) -> None:
        """Wrap an encoder.

        Args:
            name: heading of the column.
            encoder: encodes the texts.
            cache: see `VectorSystem`.
            key: see `VectorSystem`.
        """
        self.name = name
        self._encoder: Any = encoder
        self._cache = cache
        self._key = key

    def measure(self, task: Task) -> Measured:
        """Score a task; there are no vectors to compare, one for each text."""
        corpus = self._tokens("document", list(task.corpus.values()))
        queries = self._tokens("query", list(task.queries.values()))
        ids = list(task.corpus)
        place = {document: row for row, document in enumerate(ids)}
        kept = min(RANKING_DEPTH, len(ids))
        scores: Scores = {}
        for number, query in enumerate(task.queries):
            near = self._encoder.similarity(queries[number], corpus)
            if task.kind == "retrieval":
                best = np.argpartition(-near, kept - 1)[:kept]
            else:
                best = np.array([place[document] for document in task.judgments[query]])
            scores[query] = {ids[i]: float(near[i]) for i in best.tolist()}
        return Measured(scores)

    def _tokens(self, role: str, texts: list[str]) -> SparseVectors | TokenVectors:
        def encode() -> SparseVectors | TokenVectors:
            encoder = self._encoder
            call = encoder.encode_query if role == "query" else encoder.encode_document
            tokens: SparseVectors | TokenVectors = call(texts)
            return tokens

        if self._cache is None:
            return encode()
        kept = self._cache.get((self._key, role), texts, lambda: _arrays(encode()))
        if isinstance(self._encoder, SparseEncoder):
            indptr, indices, values, size = kept
            return SparseVectors(indptr, indices, values, int(size))
        return TokenVectors(*kept)


def _arrays(tokens: SparseVectors | TokenVectors) -> list[NDArray[Any]]:
    if isinstance(tokens, SparseVectors):
        return [tokens.indptr, tokens.indices, tokens.values, np.array(tokens.size)]
    return [tokens.vectors, tokens.offsets]


class PairSystem:
    """A system that ranks by a cross-encoder's score of each pair of query and document."""

    def __init__(
        self, name: str, scorer: PairScorer, *, cache: VectorCache | None = None, key: str = ""
    ) -> None:
        """Wrap a cross-encoder.

        Args:
            name: heading of the column.
            scorer: scores the pairs.
            cache: keeps scores between runs; None keeps none.
            key: identifies everything that the scores depend on besides the texts.
        """
        self.name = name
        self._scorer = scorer
        self._cache = cache
        self._key = key

    def measure(self, task: Task) -> Measured:
        """Score a reranking task.

        Raises:
            TaskError: it is a retrieval task, which would need every query with every document.
        """
        if task.kind != "reranking":
            raise TaskError(
                f"{self.name} is a cross-encoder, which reranks: got the {task.kind} task "
                f"{task.name}; give reranking tasks, or evaluate an embedding model"
            )
        rows = [(query, document) for query in task.queries for document in task.judgments[query]]
        pairs = [(task.queries[q], task.corpus[d]) for q, d in rows]
        predicted = self._scores(pairs)
        if predicted.ndim != 1:
            raise TaskError(
                f"a model that reranks must return one score for a pair: {self.name} returns "
                f"{predicted.shape[1]}, so it is a classifier"
            )
        scores: Scores = {}
        for (query, document), score in zip(rows, predicted.tolist(), strict=True):
            scores.setdefault(query, {})[document] = score
        return Measured(scores)

    def _scores(self, pairs: list[tuple[str, str]]) -> Rows:
        def predict() -> Rows:
            # The sigmoid would round high scores to the same value.
            return self._scorer.predict(pairs, activation="identity")

        if self._cache is None:
            return predict()
        texts = (text for pair in pairs for text in pair)
        (scores,) = self._cache.get((self._key, "pairs"), texts, lambda: [predict()])
        return scores


class IndexSystem:
    """A system that ranks by a search of an index, in one of its modes."""

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        *,
        mode: Mode = "hybrid",
        sparse: SparseEncoder | None = None,
        multi: MultiVectorEncoder | None = None,
    ) -> None:
        """Wrap a search.

        Args:
            name: heading of the column.
            embedder: the model.
            mode: mode of `quaver.Index.search`.
            sparse: the model of the sparse vectors, for modes that compare them.
            multi: the model of token vectors, by which hits are reranked; None does not rerank.
        """
        self.name = name
        self._embedder = embedder
        self._mode: Mode = mode
        self._sparse, self._multi = sparse, multi

    def measure(self, task: Task) -> Measured:
        """Score a retrieval task.

        Raises:
            TaskError: it is a reranking task, which has its own candidates.
        """
        if task.kind != "retrieval":
            raise TaskError(
                f"an index searches all documents: got the {task.kind} task {task.name}, which "
                "has its own candidates; leave --index out"
            )
        with CorpusIndex(
            self._embedder, mode=self._mode, sparse=self._sparse, multi=self._multi
        ) as index:
            index.add(task.corpus.items())
            return Measured(
                {q: index.search(text, RANKING_DEPTH) for q, text in task.queries.items()}
            )


def system_of(name: str, model: Model, *, cache: VectorCache | None = None) -> System:
    """Wrap a model in the system that ranks by what this kind of model computes.

    Args:
        name: heading of the column.
        model: the model.
        cache: keeps its vectors or scores between runs; None keeps none.
    """
    key = "" if cache is None else quaver_key(model)
    if isinstance(model, Embedder):
        return VectorSystem(name, model, cache=cache, key=key)
    if isinstance(model, CrossEncoder):
        return PairSystem(name, model, cache=cache, key=key)
    return TokenSystem(name, model, cache=cache, key=key)
