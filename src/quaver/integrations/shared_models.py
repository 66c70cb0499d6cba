"""Models shared within a process: loaded once, with concurrent requests batched."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

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


class SharedEmbedder:
    """An `Embedder` shared by components; `shared_embedder` returns it.

    Attributes:
        embedder: the model.
    """

    def __init__(self, embedder: Embedder, model: str | Path, settings: dict[str, Any]) -> None:
        """Wrap a model; use `shared_embedder` instead.

        Args:
            embedder: the model.
            model: the folder or hub id it was loaded from.
            settings: the arguments of `Embedder.from_pretrained` it was loaded with.
        """
        self.embedder = embedder
        self._origin = model, settings
        self._batches = MicroBatcher(self._encode_batch)

    def __reduce__(self) -> tuple[Any, ...]:
        """Share the model with copies; another process loads its own, as engines are not pickled."""
        return _reload, (shared_embedder, *self._origin)

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
            return self.embedder.encode(
                texts, prompt=prompt, normalize=normalize, show_progress_bar=show_progress_bar
            )
        by_role = {"query": self.embedder.encode_query, "document": self.embedder.encode_document}
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

    def _encode_batch(
        self, key: tuple[Role, str | None, bool | None], texts: list[str]
    ) -> list[NDArray[np.float32]]:
        role, prompt, normalize = key
        return list(self.encode(texts, role, prompt=prompt, normalize=normalize))


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
    return _shared(
        SharedEmbedder,
        lambda: SharedEmbedder(Embedder.from_pretrained(model, **settings), model, settings),
        model,
        settings,
    )


class SharedCrossEncoder:
    """A `CrossEncoder` shared by components; `shared_cross_encoder` returns it.

    Attributes:
        model: the model.
    """

    def __init__(
        self, model: CrossEncoder, name_or_path: str | Path, settings: dict[str, Any]
    ) -> None:
        """Wrap a model; use `shared_cross_encoder` instead.

        Args:
            model: the model.
            name_or_path: the folder or hub id it was loaded from.
            settings: the arguments of `CrossEncoder.from_pretrained` it was loaded with.
        """
        self.model = model
        self._origin = name_or_path, settings
        self._batches = MicroBatcher(self._score_batch)

    def __reduce__(self) -> tuple[Any, ...]:
        """Share the model with copies; another process loads its own, as engines are not pickled."""
        name_or_path, settings = self._origin
        return _reload, (shared_cross_encoder, name_or_path, {**settings, "one_score": False})

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

    def _score_batch(
        self, activation: ScoreActivation | None, pairs: list[tuple[str, str]]
    ) -> list[float]:
        return self.score(pairs, activation)


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
    shared = _shared(
        SharedCrossEncoder,
        lambda: SharedCrossEncoder(
            CrossEncoder.from_pretrained(model, **settings), model, settings
        ),
        model,
        settings,
    )
    found = shared.model
    if one_score and found.labels != 1:
        raise InputError(
            f"a reranker needs a model with one label: {found.name} has {found.labels} "
            f"({', '.join(found.label_names)})"
        )
    return shared


class SharedSparseEncoder:
    """A `SparseEncoder` shared by components; `shared_sparse_encoder` returns it.

    Attributes:
        encoder: the model.
    """

    def __init__(self, encoder: SparseEncoder, model: str | Path, settings: dict[str, Any]) -> None:
        """Wrap a model; use `shared_sparse_encoder` instead.

        Args:
            encoder: the model.
            model: the folder or hub id it was loaded from.
            settings: the arguments of `SparseEncoder.from_pretrained` it was loaded with.
        """
        self.encoder = encoder
        self._origin = model, settings
        self._batches = MicroBatcher(self._encode_batch)

    def __reduce__(self) -> tuple[Any, ...]:
        """Share the model with copies; another process loads its own, as engines are not pickled."""
        return _reload, (shared_sparse_encoder, *self._origin)

    def encode(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        prompt: str | None = None,
        show_progress_bar: bool = False,
    ) -> SparseVectors:
        """Turn texts into weights of words.

        Args:
            texts: N texts.
            role: "query" or "document"; queries go through the model's table if it has one.
            prompt: replaces the model's prompt; "" for no prompt.
            show_progress_bar: show a progress bar on stderr.

        Returns:
            N rows.

        Raises:
            InputError: texts is a str; or a text is not a str or is invalid, and the message names
                its position.
        """
        _require_list(texts)
        by_role = {"query": self.encoder.encode_query, "document": self.encoder.encode_document}
        return by_role[role](texts, prompt=prompt, show_progress_bar=show_progress_bar)

    async def aencode(
        self, texts: Sequence[str], role: Role, *, prompt: str | None = None
    ) -> list[SparseVector]:
        """Run `encode` without blocking the event loop, batched with other tasks' texts."""
        _require_list(texts)
        return list(await self._batches.submit((role, prompt), texts))

    def _encode_batch(self, key: tuple[Role, str | None], texts: list[str]) -> list[SparseVector]:
        role, prompt = key
        rows = self.encode(texts, role, prompt=prompt)
        return [rows[i] for i in range(len(rows))]


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
    return _shared(
        SharedSparseEncoder,
        lambda: SharedSparseEncoder(
            SparseEncoder.from_pretrained(model, **settings), model, settings
        ),
        model,
        settings,
    )


class SharedMultiVectorEncoder:
    """A `MultiVectorEncoder` shared by components; `shared_multi_vector_encoder` returns it.

    Attributes:
        encoder: the model.
    """

    def __init__(
        self, encoder: MultiVectorEncoder, model: str | Path, settings: dict[str, Any]
    ) -> None:
        """Wrap a model; use `shared_multi_vector_encoder` instead.

        Args:
            encoder: the model.
            model: the folder or hub id it was loaded from.
            settings: the arguments of `MultiVectorEncoder.from_pretrained` it was loaded with.
        """
        self.encoder = encoder
        self._origin = model, settings

    def __reduce__(self) -> tuple[Any, ...]:
        """Share the model with copies; another process loads its own, as engines are not pickled."""
        return _reload, (shared_multi_vector_encoder, *self._origin)

    def encode(
        self, texts: Sequence[str], role: Role, *, prompt: str | None = None
    ) -> TokenVectors:
        """Turn texts into a vector for each token.

        Args:
            texts: N texts.
            role: "query" or "document"; selects prompt, prefix token, length and mask tokens.
            prompt: replaces the model's prompt; "" for no prompt. Prefix tokens stay.

        Returns:
            the vectors of N texts.

        Raises:
            InputError: texts is a str; or a text is not a str or is invalid, and the message names
                its position.
        """
        _require_list(texts)
        if role == "query":
            return self.encoder.encode_query(texts, prompt=prompt)
        return self.encoder.encode_document(texts, prompt=prompt)


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
    return _shared(
        SharedMultiVectorEncoder,
        lambda: SharedMultiVectorEncoder(
            MultiVectorEncoder.from_pretrained(model, **settings), model, settings
        ),
        model,
        settings,
    )


def _reload(load: Callable[..., Any], model: str | Path, settings: dict[str, Any]) -> Any:
    return load(model, **settings)


def _require_list(texts: object) -> None:
    if isinstance(texts, str):
        raise InputError(f"texts must be a list of str: got the str {texts!r:.40}; write [text]")


def _shared(
    kind: type[Model], load: Callable[[], Model], model: str | Path, settings: dict[str, Any]
) -> Model:
    if not isinstance(model, str | Path):
        raise InputError(f"model must be a folder or a hub id: got {model!r}")
    place = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    key = (kind, place, repr(sorted(settings.items())))
    with _lock:
        loading = _loading.setdefault(key, threading.Lock())
    with loading:  # one lock per model: threads load each model once, different models in parallel
        found: Model | None = _models.get(key)
        if found is None:
            found = load()
            _models[key] = found
        return found
