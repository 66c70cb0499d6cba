"""Models shared within a process: loaded once, with concurrent requests batched."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.engine import MicroBatcher
from quaver.errors import InputError
from quaver.multi_vector_encoder import MultiVectorEncoder, TokenVectors
from quaver.reranker import CrossEncoder, ScoreActivation
from quaver.sparse_encoder import SparseEncoder, SparseVector, SparseVectors

Role = Literal["query", "document"]
Model = TypeVar("Model")
TokenModel = TypeVar("TokenModel", SparseEncoder, MultiVectorEncoder)
Rows = TypeVar("Rows")
Row = TypeVar("Row")
Shared = TypeVar("Shared", bound="SharedModel[Any]")

_lock = threading.Lock()
_models: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
_loading: dict[Hashable, threading.Lock] = {}


def name_in_results(name: str, precision: str) -> str:
    """Return the model name for published results, which differs from the original model's.

    Args:
        name: hub id, or the name of a folder.
        precision: precision of the engine.
    """
    return f"{name if '/' in name else f'local/{name}'}-quaver-{precision}"


class SharedModel(Generic[Model]):
    """A model that the components of a process share; the functions below return them.

    Attributes:
        model: the model.
    """

    def __init__(
        self,
        model: Model,
        load: Callable[..., Any],
        name_or_path: str | Path,
        settings: dict[str, Any],
    ) -> None:
        """Wrap a model; use the functions below instead.

        Args:
            model: the model.
            load: the function that returns this object for `name_or_path` and `settings`.
            name_or_path: the folder or hub id it was loaded from.
            settings: the arguments of `from_pretrained` it was loaded with.
        """
        self.model = model
        self._origin = load, name_or_path, settings
        self._batches = MicroBatcher(self._batch)

    def __reduce__(self) -> tuple[Any, ...]:
        """Share the model with copies; another process loads its own, as engines are not pickled."""
        return _reload, self._origin

    def _batch(self, key: Any, items: list[Any]) -> list[Any]:
        """Compute the items of concurrent requests with equal options."""
        raise NotImplementedError


class SharedEmbedder(SharedModel[Embedder]):
    """An `Embedder` shared by components; `shared_embedder` returns it."""

    def encode(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        prompt: str | None = None,
        normalize: bool | None = None,
        show_progress_bar: bool = False,
    ) -> NDArray[np.float32]:
        """Turn texts into vectors.

        Args:
            texts: N texts.
            role: "query" or "document"; selects the model's prompt.
            prompt: replaces the model's prompt; "" for no prompt.
            normalize: whether to return unit vectors; None follows the model.
            show_progress_bar: show a progress bar on stderr.

        Returns:
            float32 (N, D).

        Raises:
            InputError: texts is a str; or a text is not a str or is invalid, and the message names
                its position.
        """
        _require_list(texts)
        if prompt is not None:
            return self.model.encode(
                texts, prompt=prompt, normalize=normalize, show_progress_bar=show_progress_bar
            )
        by_role = {"query": self.model.encode_query, "document": self.model.encode_document}
        return by_role[role](texts, normalize=normalize, show_progress_bar=show_progress_bar)

    async def aencode(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        prompt: str | None = None,
        normalize: bool | None = None,
    ) -> NDArray[np.float32]:
        """Run `encode` without blocking the event loop, batched with other tasks' texts."""
        _require_list(texts)
        if not texts:
            return self.encode(texts, role, prompt=prompt, normalize=normalize)
        rows = await self._batches.submit((role, prompt, normalize), texts)
        return np.stack(rows) if len(rows) > 1 else rows[0][None]

    def _batch(
        self, key: tuple[Role, str | None, bool | None], items: list[str]
    ) -> list[NDArray[np.float32]]:
        role, prompt, normalize = key
        return list(self.encode(items, role, prompt=prompt, normalize=normalize))


def shared_embedder(model: str | Path, **settings: Any) -> SharedEmbedder:
    """Load a model, or return the one already loaded in this process.

    Args:
        model: model folder or hub id.
        settings: further arguments of `Embedder.from_pretrained`.

    Returns:
        the same object for the same model and settings, while anything references it.

    Raises:
        ModelError: the model cannot be loaded; see `Embedder.from_pretrained`.
        InputError: a setting is invalid.
    """
    return _shared(SharedEmbedder, Embedder, shared_embedder, model, settings)


class SharedCrossEncoder(SharedModel[CrossEncoder]):
    """A `CrossEncoder` shared by components; `shared_cross_encoder` returns it."""

    def score(
        self, pairs: Sequence[tuple[str, str]], activation: ScoreActivation | None = None
    ) -> list[float]:
        """Score pairs.

        Args:
            pairs: N pairs of query and document.
            activation: "sigmoid", "identity" for raw scores, or None for the model's own.

        Returns:
            N scores; higher is better.

        Raises:
            InputError: a pair is invalid; the message names its position.
        """
        scores: list[float] = self.model.predict(pairs, activation=activation).tolist()
        return scores

    async def ascore(
        self, pairs: Sequence[tuple[str, str]], activation: ScoreActivation | None = None
    ) -> list[float]:
        """Run `score` without blocking the event loop, batched with other tasks' pairs."""
        return list(await self._batches.submit(activation, pairs))

    def _batch(self, key: ScoreActivation | None, items: list[tuple[str, str]]) -> list[float]:
        return self.score(items, key)


def shared_cross_encoder(
    model: str | Path, *, one_score: bool = True, **settings: Any
) -> SharedCrossEncoder:
    """Load a cross-encoder, or return the one already loaded in this process.

    Args:
        model: model folder or hub id.
        one_score: refuse a model with several labels, because none of its scores ranks documents.
        settings: further arguments of `CrossEncoder.from_pretrained`.

    Returns:
        the same object for the same model and settings, while anything references it.

    Raises:
        ModelError: the model cannot be loaded; see `CrossEncoder.from_pretrained`.
        InputError: a setting is invalid, or the model has several labels.
    """
    again = partial(shared_cross_encoder, one_score=False)
    shared = _shared(SharedCrossEncoder, CrossEncoder, again, model, settings)
    found = shared.model
    if one_score and found.labels != 1:
        raise InputError(
            f"a reranker needs a model with one label: {found.name} has {found.labels} "
            f"({', '.join(found.label_names)})"
        )
    return shared


class SharedTokenEncoder(SharedModel[TokenModel], Generic[TokenModel, Rows, Row]):
    """A `SparseEncoder` or `MultiVectorEncoder` shared by components."""

    def encode(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        prompt: str | None = None,
        show_progress_bar: bool = False,
    ) -> Rows:
        """Turn texts into weights of words, or a vector for each token.

        Args:
            texts: N texts.
            role: "query" or "document"; selects prompt and prefix, and the table for queries or the mask
                tokens of the model.
            prompt: replaces the model's prompt; "" for no prompt. Prefix tokens stay.
            show_progress_bar: show a progress bar on stderr.

        Returns:
            N rows of `SparseVectors` or `TokenVectors`.

        Raises:
            InputError: texts is a str; or a text is not a str or is invalid, and the message names
                its position.
        """
        _require_list(texts)
        encode: Any = self.model.encode_query if role == "query" else self.model.encode_document
        rows: Rows = encode(texts, prompt=prompt, show_progress_bar=show_progress_bar)
        return rows

    async def aencode(
        self, texts: Sequence[str], role: Role, *, prompt: str | None = None
    ) -> list[Row]:
        """Run `encode` without blocking the event loop, batched with other tasks' texts."""
        _require_list(texts)
        return list(await self._batches.submit((role, prompt), texts))

    def _batch(self, key: tuple[Role, str | None], items: list[str]) -> list[Row]:
        role, prompt = key
        rows: Any = self.encode(items, role, prompt=prompt)
        return [rows[i] for i in range(len(rows))]


class SharedSparseEncoder(SharedTokenEncoder[SparseEncoder, SparseVectors, SparseVector]):
    """A `SparseEncoder` shared by components; `shared_sparse_encoder` returns it."""


def shared_sparse_encoder(model: str | Path, **settings: Any) -> SharedSparseEncoder:
    """Load a sparse encoder, or return the one already loaded in this process.

    Args:
        model: model folder or hub id.
        settings: further arguments of `SparseEncoder.from_pretrained`.

    Returns:
        the same object for the same model and settings, while anything references it.

    Raises:
        ModelError: the model cannot be loaded; see `SparseEncoder.from_pretrained`.
        InputError: a setting is invalid.
    """
    return _shared(SharedSparseEncoder, SparseEncoder, shared_sparse_encoder, model, settings)


class SharedMultiVectorEncoder(
    SharedTokenEncoder[MultiVectorEncoder, TokenVectors, NDArray[np.float32]]
):
    """A `MultiVectorEncoder` shared by components; `shared_multi_vector_encoder` returns it."""


def shared_multi_vector_encoder(model: str | Path, **settings: Any) -> SharedMultiVectorEncoder:
    """Load a multi-vector model, or return the one already loaded in this process.

    Args:
        model: model folder or hub id.
        settings: further arguments of `MultiVectorEncoder.from_pretrained`.

    Returns:
        the same object for the same model and settings, while anything references it.

    Raises:
        ModelError: the model cannot be loaded; see `MultiVectorEncoder.from_pretrained`.
        InputError: a setting is invalid.
    """
    load = shared_multi_vector_encoder
    return _shared(SharedMultiVectorEncoder, MultiVectorEncoder, load, model, settings)


def _reload(load: Callable[..., Any], model: str | Path, settings: dict[str, Any]) -> Any:
    return load(model, **settings)


def _require_list(texts: object) -> None:
    if isinstance(texts, str):
        raise InputError(f"texts must be a list of str: got the str {texts!r:.40}; write [text]")


def _shared(
    kind: type[Shared],
    opens: Any,
    load: Callable[..., Any],
    model: str | Path,
    settings: dict[str, Any],
) -> Shared:
    if not isinstance(model, str | Path):
        raise InputError(f"model must be a folder or a hub id: got {model!r}")
    place = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    key = (kind, place, repr(sorted(settings.items())))
    with _lock:
        loading = _loading.setdefault(key, threading.Lock())
    with loading:  # one lock per model: threads load each model once, different models in parallel
        found: Shared | None = _models.get(key)
        if found is None:
            found = kind(opens.from_pretrained(model, **settings), load, model, settings)
            _models[key] = found
        return found
