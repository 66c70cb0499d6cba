"""Base classes and checks of the Haystack components.

The components are in `haystack_integrations.components.*.quaver`, because Haystack loads saved
pipelines from that package without a flag.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from quaver.embedder import Embedder
from quaver.errors import InputError, needs_extra
from quaver.integrations.shared_models import (
    SharedCrossEncoder,
    SharedEmbedder,
    SharedSparseEncoder,
    shared_embedder,
    shared_sparse_encoder,
)
from quaver.sparse_encoder import SparseVector

with needs_extra("haystack"):
    from haystack import (
        DeserializationError,
        Document,
        component,
        default_from_dict,
        default_to_dict,
    )
    from haystack.dataclasses import SparseEmbedding
    from haystack.utils import Secret
    from haystack.utils.misc import _deduplicate_documents

STAMP_KEY = "quaver_embedding"
"""The meta field that identifies the model and the text of a document's embedding."""

HUB_TOKENS = ("HF_API_TOKEN", "HF_TOKEN")

Self = TypeVar("Self", bound="SavedByParameters")
Shared = TypeVar("Shared", SharedEmbedder, SharedCrossEncoder, SharedSparseEncoder)


class SavedByParameters:
    """A component or store that keeps its init parameters as attributes of the same name."""

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dictionary, for YAML."""
        parameters = {name: getattr(self, name) for name in _parameters(type(self))}
        data: dict[str, Any] = default_to_dict(self, **parameters)
        return data

    @classmethod
    def from_dict(cls: type[Self], data: dict[str, Any]) -> Self:
        """Create the component from a dictionary.

        Args:
            data: what `to_dict` returned.

        Returns:
            the component.

        Raises:
            DeserializationError: a parameter is unknown, or the type is wrong.
        """
        known = _parameters(cls)
        for name in data.get("init_parameters", {}):
            if name not in known:
                raise DeserializationError(
                    f"{cls.__name__} has the parameters {', '.join(known)}: got {name!r}; another "
                    "version of Quaver may have saved this pipeline: remove the parameter, or "
                    "install that version"
                )
        made: Self = default_from_dict(cls, data)
        return made


class ModelComponent(SavedByParameters, Generic[Shared]):
    """A component that runs a model, loaded when it is first needed."""

    model: str
    token: Secret | None
    _shared: Shared | None = None

    def _load(self) -> Shared:
        """Return the model, loaded or shared with other components."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Load the model unless this process already has it."""
        if self._shared is None:
            self._shared = self._load()

    @property
    def shared(self) -> Shared:
        """The model; loads it first if necessary."""
        self.warm_up()
        assert self._shared is not None
        return self._shared

    async def shared_async(self) -> Shared:
        """Return the model; if it must be loaded, load it in a thread."""
        if self._shared is None:
            await asyncio.to_thread(self.warm_up)
        return self.shared

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"model": self.model}


class EmbedderComponent(ModelComponent[SharedEmbedder]):
    """A component that runs an `Embedder`."""

    prefix: str | None
    suffix: str
    normalize_embeddings: bool

    def _load(self) -> SharedEmbedder:
        return shared_embedder(self.model, **loading_settings(self))

    def _query_embedding(self, text: str) -> list[float]:
        rows = self.shared.encode([text + self.suffix], "query", **self._options())
        return list(rows[0].tolist())

    async def _query_embedding_async(self, text: str) -> list[float]:
        shared = await self.shared_async()
        rows = await shared.aencode([text + self.suffix], "query", **self._options())
        return list(rows[0].tolist())

    def _options(self) -> dict[str, Any]:
        return {"prompt": self.prefix, "normalize": self.normalize_embeddings or None}


class SparseEmbedderComponent(ModelComponent[SharedSparseEncoder]):
    """A component that runs a `SparseEncoder`."""

    prefix: str | None
    suffix: str

    def _load(self) -> SharedSparseEncoder:
        return shared_sparse_encoder(self.model, **loading_settings(self))

    @staticmethod
    def _sparse_embedding(vector: SparseVector) -> SparseEmbedding:
        return SparseEmbedding(indices=vector.indices.tolist(), values=vector.values.tolist())


class RankerComponent(ModelComponent[Shared]):
    """A component that ranks documents; subclasses add the model, the scores and their scale."""

    top_k: int
    scale_score: bool
    score_threshold: float | None
    meta_fields_to_embed: list[str]
    embedding_separator: str

    def _scores(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return a score for each document; higher is better."""
        raise NotImplementedError

    async def _scores_async(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return what `_scores` returns without blocking the event loop."""
        raise NotImplementedError

    @staticmethod
    def _scaled(score: float) -> float:
        """Return a score in the range 0 to 1 that rises with the given one."""
        raise NotImplementedError

    @component.output_types(documents=list[Document])
    def run(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents for a query.

        Args:
            query: the query.
            documents: the documents. Of documents with equal ids, the best one is kept, by the
                score they already have.
            top_k: overrides the component's.
            scale_score: overrides the component's.
            score_threshold: overrides the component's.

        Returns:
            "documents": copies with their scores, best first.

        Raises:
            TypeError: query is not a string, or documents is not a list of Documents.
            ValueError: top_k is below 1.
        """
        limit, unique = self._checked(query, documents, top_k)
        scores = self._scores(query, unique)
        return self._ranked(unique, scores, limit, scale_score, score_threshold)

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        *,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents without blocking the event loop; see `run`."""
        limit, unique = self._checked(query, documents, top_k)
        scores = await self._scores_async(query, unique)
        return self._ranked(unique, scores, limit, scale_score, score_threshold)

    def _checked(
        self, query: str, documents: list[Document], top_k: int | None
    ) -> tuple[int, list[Document]]:
        limit = self.top_k if top_k is None else top_k
        require_query(self, query, limit)
        require_documents(self, documents)
        return limit, _deduplicate_documents(documents)

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        return document_texts(self, list(documents))

    def _ranked(
        self,
        documents: Sequence[Document],
        scores: Sequence[float],
        top_k: int,
        scale_score: bool | None,
        score_threshold: float | None,
    ) -> dict[str, list[Document]]:
        """Put copies of the documents in order; equal scores keep the input order."""
        scaled = self.scale_score if scale_score is None else scale_score
        threshold = self.score_threshold if score_threshold is None else score_threshold
        final = [self._scaled(score) if scaled else score for score in scores]
        order = sorted(range(len(documents)), key=lambda i: -scores[i])
        kept = [i for i in order if threshold is None or final[i] >= threshold]
        return {"documents": [replace(documents[i], score=final[i]) for i in kept[:top_k]]}


_LOADING = (
    "precision",
    "revision",
    "max_seq_length",
    "max_active_dims",
    "truncate_dim",
    "pooling",
    "threads",
    "local_files_only",
)


def loading_settings(component: Any) -> dict[str, Any]:
    """Return a component's parameters for loading its model."""
    settings = {name: getattr(component, name) for name in _LOADING if hasattr(component, name)}
    token = component.token.resolve_value() if component.token else None
    return {**settings, "token": token}


def model_name(model: object) -> str:
    """Return a component's model as a str, the form that is saved.

    Raises:
        InputError: the model is neither a folder nor a hub id.
    """
    if not isinstance(model, str | Path):
        raise InputError(f"model must be a folder or a hub id: got {model!r}")
    return str(model)


def hub_token() -> Secret:
    """Return the default of `token`: an environment variable that may be unset."""
    return Secret.from_env_var(list(HUB_TOKENS), strict=False)


def require_documents(component: object, documents: object) -> None:
    """Check that an input is a list of documents.

    Raises:
        TypeError: the input is not a list of documents.
    """
    name = type(component).__name__
    if not isinstance(documents, list):
        raise TypeError(f"{name} takes a list of Documents: got {type(documents).__name__}")
    for at, document in enumerate(documents):
        if not isinstance(document, Document):
            raise TypeError(
                f"{name} takes a list of Documents: documents[{at}] is {type(document).__name__}"
            )


def require_query(component: object, query: object, top_k: object) -> None:
    """Check the query and top_k of a ranker or retriever.

    Raises:
        TypeError: the query is not a string.
        ValueError: top_k is not an integer of at least 1.
    """
    if not isinstance(query, str):
        raise TypeError(
            f"{type(component).__name__} takes a string as query: got {type(query).__name__}"
        )
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k must be an integer of at least 1: got {top_k!r}")


def require_text(
    component: object, name: str, text: object, for_documents: str = "QuaverDocumentEmbedder"
) -> None:
    """Check that an input is a string; name the component for documents if it is not.

    Raises:
        TypeError: the input is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"{type(component).__name__} takes a string as {name}: got {type(text).__name__}; for "
            f"a list of Documents use {for_documents}"
        )


def field_names(component: object, fields: object) -> list[str]:
    """Return `meta_fields_to_embed` as a list; an empty one for None.

    Raises:
        TypeError: it is not a list of strings; a string would be read as one field per letter.
    """
    if fields is None:
        return []
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise TypeError(
            f"{type(component).__name__} takes a list of strings as meta_fields_to_embed: "
            f"got {fields!r}"
        )
    return fields


def document_texts(component: Any, documents: object, suffix: str = "") -> list[str]:
    """Return what a component's model reads of documents.

    Args:
        component: says which meta fields go before the content, and what separates them.
        documents: the documents.
        suffix: appended to every text.

    Raises:
        TypeError: the input is not a list of documents.
    """
    require_documents(component, documents)
    fields, separator = component.meta_fields_to_embed, component.embedding_separator
    checked: Any = documents
    return [document_text(document, fields, separator) + suffix for document in checked]


def document_text(document: Document, meta_fields: Sequence[str], separator: str) -> str:
    """Return what a model reads of a document.

    Args:
        document: the document; one without content counts as empty.
        meta_fields: fields of its meta to put before the content; missing ones are left out.
        separator: goes between them.

    Returns:
        the fields and the content, joined.
    """
    fields = [document.meta.get(name) for name in meta_fields]
    return separator.join([*(str(f) for f in fields if f is not None), document.content or ""])


def stamp(embedder: Embedder, prefix: str | None, normalize: bool, text: str) -> str:
    """Return the value of `Document.meta[STAMP_KEY]` for a text embedded this way.

    Args:
        embedder: the model.
        prefix: the prefix of the text; None for the model's own prompt.
        normalize: whether the vector was normalized even if the model does not.
        text: the text without the prefix.

    Returns:
        16 hex digits.
    """
    start = embedder.document_prompt if prefix is None else prefix
    read = f"{embedder.fingerprint}\0{normalize or embedder.normalize}\0{start}{text}"
    return hashlib.sha256(read.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _parameters(kind: Any) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
