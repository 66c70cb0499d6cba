"""Ranking documents for a query, by a cross-encoder or by the similarity of vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.engine import (
    CALL_KEYWORDS,
    LOADING_KEYWORDS,
    MAX_BATCH_TOKENS,
    LoadedModel,
    Precision,
    Vectors,
    check_listable,
    check_loaded,
    check_reopened,
    encode_texts,
    encode_tokens,
    explain_keywords,
    load_classifier,
    text_list,
)
from quaver.errors import (
    InputError,
    UnsupportedArchitectureError,
    check_range,
)
from quaver.models import TokenBatch, choose_prompt

ScoreActivation = Literal["sigmoid", "identity"]
# The torch classes that common models name; they are never imported.
_ACTIVATIONS: dict[str, ScoreActivation] = {"Sigmoid": "sigmoid", "Identity": "identity"}

_PREDICT = {
    **CALL_KEYWORDS,
    "activation_fct": "use activation: 'sigmoid' or 'identity'",
    "activation_fn": "use activation: 'sigmoid' or 'identity'",
    "apply_softmax": "apply it to the plain scores (activation='identity')",
    "inputs": "give the pairs as the first argument",
    "sentences": "give the pairs as the first argument",
}
_RANK = {
    **_PREDICT,
    "activation_fct": "use predict(pairs, activation=...)",
    "activation_fn": "use predict(pairs, activation=...)",
    "return_documents": "leave it out: every result has its document as text",
    "show_progress_bar": "use predict(pairs, show_progress_bar=True)",
}


@dataclass(frozen=True)
class Ranked:
    """One ranked document.

    Attributes:
        index: its position in the list of documents.
        score: higher means more relevant.
        text: the document.
    """

    index: int
    score: float
    text: str


class Ranker(ABC):
    """A model that ranks documents for a query: a `CrossEncoder` or a `BiEncoderRanker`.

    Example:
        ranker = Ranker.from_pretrained("cross-encoder/ms-marco-MiniLM-L6-v2")
        ranker.rank("What is the capital of France?", ["Rome is in Italy.", "Paris is in France."])
    """

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
    ) -> Ranker:
        """Load a cross-encoder or an embedding model as a ranker.

        Args:
            name_or_path: local folder, or hub id.
            precision: "int8" quantizes the weights while loading; "float32" keeps them; "bfloat16" and
                "bfloat16-weights" as for `Embedder.from_pretrained`.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text or pair; None allows the model's maximum.
            threads: threads of the engine; None uses the CPUs this process may use.
            isa: force an instruction set; None uses the best.
            local_files_only: never use the network.
            token: access token of the hub.

        Returns:
            a `CrossEncoder` if the model scores pairs of texts, else a `BiEncoderRanker`.

        Raises:
            ModelNotFoundError: no such folder or hub model.
            UnsupportedArchitectureError: the model is neither a cross-encoder nor an embedding
                model.
            ModelError: the folder is broken; see the subclasses.
            InputError: an argument is invalid.
            InstructionSetError: isa is unknown or not available here, or this CPU lacks what precision needs.
        """
        options: dict[str, Any] = {
            "precision": precision,
            "revision": revision,
            "max_seq_length": max_seq_length,
            "threads": threads,
            "isa": isa,
            "local_files_only": local_files_only,
            "token": token,
        }
        try:
            return CrossEncoder.from_pretrained(name_or_path, **options)
        except UnsupportedArchitectureError as no_cross_encoder:
            try:
                return BiEncoderRanker.from_pretrained(name_or_path, **options)
            except UnsupportedArchitectureError as error:
                reasons = dict.fromkeys((str(no_cross_encoder), str(error)))
                raise UnsupportedArchitectureError(
                    f"a ranker is a cross-encoder or an embedding model: {name_or_path} is neither "
                    f"({'; '.join(reasons)})"
                ) from error

    @abstractmethod
    def rank(
        self, query: str, documents: Iterable[str], *, top_k: int | None = None
    ) -> list[Ranked]:
        """Rank documents for a query, best first."""


class CrossEncoder(Ranker):
    """A model that reads query and document together and scores the pair.

    It has the classification head of its class, or modules of sentence-transformers that compute
    scores (modules.json).

        model = CrossEncoder.from_pretrained("cross-encoder/ms-marco-MiniLM-L6-v2")
        model.rank("What is the capital of France?", ["Rome is in Italy.", "Paris is in France."])

    Calls do not change a cross-encoder, so threads can share it. It pickles like an `Embedder`.

    Attributes:
        name: hub id or folder name.
        source: the name that loads this model again in any process.
        precision: "int8", "bfloat16", "bfloat16-weights" or "float32".
        max_seq_length: maximum number of tokens in query and document together, special tokens included.
        labels: number of scores for a pair; 1 for a reranker.
        label_names: their names, as config.json has them.
        activation: what `predict` applies to the scores by default: as the model folder says, else
            "sigmoid" for one label and "identity" for several.
        prompts: texts that go before the first text of a pair, by name; most models have none.
        default_prompt_name: the prompt used by default, or None.
        tokenizer: the model's tokenizer.
        fingerprint: 64 hex digits that say which scores come from the same model's files.
    """

    @explain_keywords(LOADING_KEYWORDS)
    def __init__(self, model: LoadedModel) -> None:
        """Wrap a loaded model; `from_pretrained` is the usual way.

        Args:
            model: a model that computes scores.

        Raises:
            UnsupportedArchitectureError: Quaver does not have the model's activation.
        """
        check_loaded("CrossEncoder", model, LoadedModel)
        self._options = model.options
        self.fingerprint = model.folder.fingerprint
        self.name = model.folder.name
        self.source = model.folder.source
        self.precision = model.engine.precision
        self.max_seq_length = model.tokenizer.max_length
        self.labels = model.spec.outputs
        self.label_names = _label_names(model.folder.label_names, self.labels)
        self.activation = _activation(model.folder.score_activation, self.labels)
        self.prompts = dict(model.folder.prompts)
        default = model.folder.default_prompt_name
        self.default_prompt_name = default if default in self.prompts else None
        self.tokenizer = model.tokenizer
        self._engine = model.engine

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
    ) -> CrossEncoder:
        """Load a model.

        Args:
            name_or_path: local folder, or hub id.
            precision: "int8" quantizes the weights while loading; "float32" is the same engine with
                the weights as they are; "bfloat16" and "bfloat16-weights" as for
                `Embedder.from_pretrained`. The head is float32 in all of them.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a pair; None allows the model's maximum.
            threads: threads of the engine; None uses the CPUs this process may use.
            isa: force an instruction set; None uses the best.
            local_files_only: never use the network.
            token: access token of the hub.

        Returns:
            the cross-encoder.

        Raises:
            ModelNotFoundError: no such folder or hub model.
            ModelError: the folder is broken or not supported; see the subclasses.
            InputError: an argument is invalid.
            InstructionSetError: isa is unknown or not available here, or this CPU lacks what precision needs.
        """
        model = load_classifier(
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
        """Return the model and what decides its scores and its speed."""
        return (
            f"CrossEncoder({self.name!r}, labels={self.labels}, precision={self.precision!r}, "
            f"isa={self.isa!r}, threads={self.threads})"
        )

    @property
    def default_prompt(self) -> str:
        """What goes before every query unless a call names another prompt; "" for most models."""
        name = self.default_prompt_name
        return "" if name is None else self.prompts[name]

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

    @explain_keywords(_PREDICT)
    def predict(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: ScoreActivation | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> NDArray[np.float32]:
        """Score pairs, in their order.

        Formula:
            activation(head(encoder(prompt + query, document)))

        A document that does not fit with its query is truncated; a query never is.

        Args:
            pairs: (query, document), or any two texts.
            prompt_name: a name in `prompts`; None uses the model's default prompt, if it has one.
            prompt: a text to put before every query, instead of a named one; "" for no prompt.
            activation: "sigmoid", "identity" for the plain scores, or None for the model's own.
            max_batch_tokens: maximum number of tokens in one native call; bounds the memory and does not change scores.
            show_progress_bar: show a bar on stderr.

        Returns:
            float32 (N,) for a model with one label, (N, labels) for several.

        Raises:
            InputError: an argument or a pair is invalid, or a query leaves no room for its
                document; the message has its position.
        """
        chosen = self.activation if activation is None else activation
        if chosen not in _ACTIVATIONS.values():
            names = ", ".join(map(repr, _ACTIVATIONS.values()))
            raise InputError(f"activation must be one of {names}, or None: got {activation!r}")
        logits = self._logits(
            _pair_list(pairs),
            prompt_name=prompt_name,
            prompt=prompt,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=bool(show_progress_bar),
        )
        scores = activated(self, logits, chosen)
        return scores[:, 0] if self.labels == 1 else scores

    @explain_keywords(_RANK)
    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> list[Ranked]:
        """Rank documents for a query, best first.

        Args:
            query: the query.
            documents: the documents; an empty list is valid.
            top_k: how many to return; None returns all.
            prompt_name: as for `predict`.
            prompt: as for `predict`.

        Returns:
            at most top_k ranked documents, with the scores of `predict`; ties keep their order.

        Raises:
            InputError: an argument is invalid, the query leaves no room for a document, or
                the model has several labels, so no single score ranks documents.
        """
        if self.labels != 1:
            names = ", ".join(self.label_names)
            raise InputError(
                f"rank needs a model with one label: {self.name} has {self.labels} ({names}); take "
                "the score you mean from predict()"
            )
        texts = _checked(query, documents, top_k)
        logits = self._logits(
            [(query, text) for text in texts], prompt_name=prompt_name, prompt=prompt
        )[:, 0]
        # Sorted before the sigmoid, which rounds large scores to the same number.
        scores = activated(self, logits)
        return _ranked(texts, scores, np.argsort(-logits, kind="stable")[:top_k])

    def _logits(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        prompt_name: str | None,
        prompt: str | None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool = False,
    ) -> NDArray[np.float32]:
        before = choose_prompt(
            self.prompts,
            prompt_name=prompt_name,
            prompt=prompt,
            default=self.default_prompt_name,
            model=self.name,
        )
        report = encode_texts(
            partial(self.tokenizer.encode_pairs, prompt=before),
            self._engine,
            pairs,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )
        return report.vectors


def pair_logits(model: CrossEncoder, tokens: TokenBatch) -> NDArray[np.float32]:
    """Turn tokenized pairs into logits, for callers that tokenize and batch themselves.

    Args:
        model: the cross-encoder.
        tokens: N pairs, from `model.tokenizer.encode_pairs` with `model.default_prompt`.

    Returns:
        float32 (N, labels), before any activation.

    Raises:
        EngineError: a score came out with NaN or infinity.
    """
    return encode_tokens(model._engine, tokens)


def activated(
    model: CrossEncoder,
    logits: NDArray[np.float32],
    activation: ScoreActivation | None = None,
) -> NDArray[np.float32]:
    """Apply to logits what `CrossEncoder.predict` applies.

    Args:
        model: the cross-encoder.
        logits: float32 (N, labels), from `pair_logits`.
        activation: "sigmoid", "identity", or None for the model's own.

    Returns:
        float32 (N, labels).
    """
    chosen = model.activation if activation is None else activation
    return _sigmoid(logits) if chosen == "sigmoid" else logits


class BiEncoderRanker(Ranker):
    """Ranks by the similarity of query and document vectors; faster than a cross-encoder.

        BiEncoderRanker(model).rank("What is the capital of France?", ["Rome ...", "Paris ..."])

    Attributes:
        embedder: the model that makes the vectors.
        name: the model's name.
    """

    def __init__(self, embedder: Embedder) -> None:
        """Rank with an embedder.

        Args:
            embedder: the model; queries go through `encode_query`, documents through
                `encode_document`.

        Raises:
            InputError: embedder is not an Embedder.
        """
        if not isinstance(embedder, Embedder):
            given = repr(str(embedder)) if isinstance(embedder, (str, Path)) else "name_or_path"
            raise InputError(
                f"BiEncoderRanker ranks with an Embedder: got {type(embedder).__name__}; give it "
                f"Embedder.from_pretrained({given})"
            )
        self.embedder = embedder
        self.name = embedder.name

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
    ) -> BiEncoderRanker:
        """Load an embedding model to rank with; arguments and errors are those of `Embedder`.

        `BiEncoderRanker(embedder)` takes a model that is loaded already.
        """
        embedder = Embedder.from_pretrained(
            name_or_path,
            precision=precision,
            revision=revision,
            max_seq_length=max_seq_length,
            threads=threads,
            isa=isa,
            local_files_only=local_files_only,
            token=token,
        )
        return cls(embedder)

    def __repr__(self) -> str:
        """Return the embedder that makes the vectors."""
        return f"BiEncoderRanker({self.embedder!r})"

    @explain_keywords(_RANK)
    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        embeddings: Vectors | None = None,
    ) -> list[Ranked]:
        """Rank documents for a query, best first.

        Args:
            query: the query.
            documents: the documents; an empty list is valid.
            top_k: how many to return; None returns all.
            embeddings: float32 or int8 (N, D), the documents' vectors if you have them; None
                encodes the documents.

        Returns:
            at most top_k ranked documents, scored by similarity to the query; ties keep their order.

        Raises:
            InputError: an argument is invalid, or embeddings does not have one row for each
                document.
        """
        texts = _checked(query, documents, top_k)
        if embeddings is not None and np.shape(embeddings)[:1] != (len(texts),):
            raise InputError(
                f"embeddings must have one row for each of {len(texts)} documents: got shape "
                f"{np.shape(embeddings)}"
            )
        if not texts:
            return []
        vectors = self.embedder.encode_document(texts) if embeddings is None else embeddings
        scores = self.embedder.similarity(self.embedder.encode_query(query), vectors)
        return _ranked(texts, scores, np.argsort(-scores, kind="stable")[:top_k])


def _ranked(
    texts: Sequence[str], scores: NDArray[np.float32], order: NDArray[np.intp]
) -> list[Ranked]:
    return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]


def _checked(query: str, documents: Iterable[str], top_k: int | None) -> list[str]:
    """Check the arguments of `rank` and return the documents as a list."""
    if not isinstance(query, str):
        raise InputError(f"query must be a str: got {type(query).__name__}")
    if isinstance(documents, str):
        raise InputError("documents must be a list of str: got one str; put it in a list")
    if top_k is not None:
        check_range("top_k", top_k)
    return text_list(documents, name="documents", rule="a list of str")


def _pair_list(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    if isinstance(pairs, str):
        raise InputError("pairs must be a list of (query, document): got str")
    check_listable("pairs", pairs, "a list of (query, document)")
    items = list(pairs)
    if len(items) == 2 and all(isinstance(item, str) for item in items):
        raise InputError(
            "pairs must be a list of (query, document): got two texts; put the pair in a list"
        )
    return items


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + e^-x) without overflow, and precise for x far below 0."""
    power = np.exp(-np.abs(x))
    scores: NDArray[np.float32] = np.where(x >= 0, np.float32(1), power) / (1 + power)
    return scores


def _activation(named: str | None, labels: int) -> ScoreActivation:
    """Return the folder's activation, or sentence-transformers' default."""
    if named is None:
        return "sigmoid" if labels == 1 else "identity"
    kind = named.rpartition(".")[2]
    if not named.startswith("torch.nn.") or kind not in _ACTIVATIONS:
        raise UnsupportedArchitectureError(
            f"the model requires the activation {named!r}, and a name is never imported as code; "
            f"supported are torch.nn.{' and torch.nn.'.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[kind]


def _label_names(names: Mapping[str, str], labels: int) -> tuple[str, ...]:
    return tuple(names.get(str(i), f"LABEL_{i}") for i in range(labels))


def _reopened(source: str, options: Mapping[str, Any], fingerprint: str) -> CrossEncoder:
    """Load the model of a pickled cross-encoder."""
    model = CrossEncoder.from_pretrained(source, **options)
    check_reopened("cross-encoder", "CrossEncoder", source, model.fingerprint, fingerprint)
    return model
