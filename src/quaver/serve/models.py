"""The models of a server: named, loaded on demand, unloaded when idle, each with its lane in the scheduler."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder, pool_parts, pool_tokenized
from quaver.errors import InputError, QuaverError
from quaver.models import TokenBatch, Tokenizer
from quaver.reranker import BiEncoderRanker, CrossEncoder, Ranker, pair_logits
from quaver.serve.refusal import Reason, Refusal
from quaver.serve.scheduler import Cut, Item, Lane, Pair, SpanBatch, Spans, Tokens
from quaver.serve.settings import ModelSettings

Status = Literal["unloaded", "loading", "ready", "failed"]

_RETRY_SECONDS = 30.0
"""How long a model that failed to load is not tried again."""

_loads = itertools.count()


class LoadedEmbedder:
    """An embedding model with its lane.

    Attributes:
        embedder: the model.
        lane: computes pooled vectors, which `quaver.embedder.finish_vectors` completes.
        parts: computes the same of parts of texts; of a text without parts, for each of its tokens.
    """

    def __init__(self, embedder: Embedder) -> None:
        """Give the model a lane."""
        self.embedder = embedder
        # A model that was unloaded and loaded again may have other files.
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

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The model's lanes."""
        return self.lane, self.parts

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.embedder.tokenizer


class LoadedCrossEncoder:
    """A cross-encoder with its lane.

    Attributes:
        model: the model.
        lane: computes logits, which `quaver.reranker.activated` completes.
    """

    def __init__(self, model: CrossEncoder) -> None:
        """Give the model a lane."""
        self.model = model
        self.lane = Lane(
            f"{model.source}/{model.precision}/{model.isa}/{next(_loads)}",
            lambda items: _tokenized(model.tokenizer, items, model.default_prompt),
            lambda batch: pair_logits(model, batch),
            width=model.labels,
            longest=model.max_seq_length,
            cached=False,
        )

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The model's lanes."""
        return (self.lane,)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.tokenizer


Loaded = LoadedEmbedder | LoadedCrossEncoder


class ServedModel:
    """A model that the server offers, loaded or not.

    Attributes:
        settings: where it comes from and what it is called.
        reranks: whether it was given for reranking.
        status: "unloaded", "loading", "ready" or "failed".
        error: why it could not be loaded, or None.
        loaded: the model while it is ready.
        load_seconds: how long the last load took.
        created: Unix time of the start of the server, which OpenAI's list of models shows.
    """

    def __init__(self, settings: ModelSettings) -> None:
        """Offer a model."""
        self.settings = settings
        self.name = settings.name
        self.reranks = settings.task == "rerank"
        self.status: Status = "unloaded"
        self.error: str | None = None
        self.loaded: Loaded | None = None
        self.load_seconds = 0.0
        self.created = int(time.time())
        self.holds = 0
        self._failed_at = -_RETRY_SECONDS
        self._loading: asyncio.Future[Loaded] | None = None

    async def load(self, pool: ThreadPoolExecutor, threads: int | None) -> Loaded:
        """Load the model, or wait for whoever is loading it.

        Args:
            pool: where loading runs.
            threads: of the engine.

        Returns:
            the loaded model.

        Raises:
            Refusal: it cannot be loaded; for half a minute it is not tried again.
        """
        if self.loaded is not None:
            return self.loaded
        if self._loading is None:
            waited = time.monotonic() - self._failed_at
            if waited < _RETRY_SECONDS:
                raise self._unavailable(math.ceil(_RETRY_SECONDS - waited))
            self.status = "loading"
            self._loading = asyncio.ensure_future(self._load(pool, threads))
        return await asyncio.shield(self._loading)

    async def _load(self, pool: ThreadPoolExecutor, threads: int | None) -> Loaded:
        begin = time.perf_counter()
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(
                pool, _open, self.settings, threads
            )
        except Exception as error:
            # Whatever a folder made fail, the other models are served.
            known = isinstance(error, (QuaverError, OSError))
            self.status = "failed"
            self.error = str(error) if known else f"{type(error).__name__}: {error}"
            self._failed_at = time.monotonic()
            raise self._unavailable(math.ceil(_RETRY_SECONDS)) from error
        finally:
            self._loading = None
        self.load_seconds = time.perf_counter() - begin
        self.loaded, self.status, self.error = loaded, "ready", None
        return loaded

    def _unavailable(self, seconds: int) -> Refusal:
        return Refusal(
            Reason.UNAVAILABLE,
            f"the model {self.name} could not be loaded: {self.error}",
            retry_after=seconds,
        )

    def unload_if_idle(self, seconds: float) -> bool:
        """Unload the model if no request has used it for some time.

        Args:
            seconds: for how long.

        Returns:
            whether it was unloaded.
        """
        if self.loaded is None or self.holds or any(lane.jobs for lane in self.loaded.lanes):
            return False
        if time.monotonic() - max(lane.used for lane in self.loaded.lanes) < seconds:
            return False
        self.loaded, self.status = None, "unloaded"
        gc.collect()  # the engine's memory goes with the last reference
        return True


class Models:
    """All models of a server, by name and alias."""

    def __init__(self, settings: Sequence[ModelSettings], *, threads: int | None = None) -> None:
        """Offer models; none is loaded yet.

        Args:
            settings: the models; the first of a task is its default.
            threads: of the engine, for each model.

        Raises:
            InputError: two models have the same name or alias, or there is no model.
        """
        if not settings:
            raise InputError("a server needs a model: got none; give --model or --rerank")
        self.all = [ServedModel(each) for each in settings]
        self._threads = threads
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quaver-loader")
        self._by_name: dict[str, ServedModel] = {}
        for model in self.all:
            for name in (model.name, *model.settings.aliases):
                if self._by_name.setdefault(name, model) is not model:
                    raise InputError(
                        f"names and aliases of models must differ: {name!r} is given twice; name one "
                        "of them with NAME=MODEL"
                    )

    def find(self, name: str | None, *, rerank: bool) -> ServedModel:
        """Return the model that a request asks for.

        Args:
            name: the name or alias; None or "" for the default of the task.
            rerank: whether it must rerank.

        Raises:
            Refusal: no model has this name, or it has another task.
        """
        if not name:
            return self.default(rerank=rerank)
        model = self.named(name)
        if model.reranks != rerank:
            task, other = ("rerank", "embed") if rerank else ("embed", "rerank")
            raise Refusal(
                Reason.WRONG_MODEL,
                f"{model.name} does not {task}: it was given to {other}",
                field="model",
            )
        return model

    def has(self, name: str) -> bool:
        """Return whether a model has this name or alias."""
        return name in self._by_name

    def named(self, name: str) -> ServedModel:
        """Return the model of a name or alias.

        Raises:
            Refusal: there is none.
        """
        model = self._by_name.get(name)
        if model is None:
            listed = ", ".join(sorted(self._by_name))
            raise Refusal(
                Reason.NOT_FOUND,
                f"no model is named {name[:128]!r}: here are {listed}",
                field="model",
            )
        return model

    def default(self, *, rerank: bool) -> ServedModel:
        """Return the first model of a task.

        Raises:
            Refusal: there is none.
        """
        for model in self.all:
            if model.reranks == rerank:
                return model
        option = "--rerank" if rerank else "--model"
        raise Refusal(
            Reason.WRONG_MODEL,
            f"this server has no model to {'rerank' if rerank else 'embed'}: start it with {option}",
        )

    async def loaded(self, model: ServedModel) -> Loaded:
        """Return a model ready to run, loading it if needed; see `ServedModel.load`."""
        return await model.load(self._pool, self._threads)

    async def load_all(self, report: Callable[[ServedModel], None]) -> None:
        """Load every model that is not marked to be loaded on demand; one that fails leaves the others.

        Args:
            report: called after each, whether it loaded or failed.
        """
        for model in self.all:
            if model.settings.on_demand:
                continue
            with suppress(Refusal):  # model.error says why
                await self.loaded(model)
            report(model)

    @property
    def usable(self) -> bool:
        """Whether any model is loaded, or may be loaded on demand."""
        return any(model.status != "failed" for model in self.all)

    def close(self) -> None:
        """Load no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _open(settings: ModelSettings, threads: int | None) -> Loaded:
    options: dict[str, Any] = {
        "precision": settings.precision,
        "revision": settings.revision,
        "max_seq_length": settings.max_seq_length,
        "threads": threads,
        "local_files_only": settings.local_files_only,
    }
    if settings.task == "rerank":
        ranker = Ranker.from_pretrained(settings.source, **options)
        if isinstance(ranker, CrossEncoder):
            return LoadedCrossEncoder(ranker)
        assert isinstance(ranker, BiEncoderRanker)
        return LoadedEmbedder(ranker.embedder)
    embedder = Embedder.from_pretrained(
        settings.source,
        **options,
        pooling=settings.pooling,
        normalize=settings.normalize,
        truncate_dim=settings.truncate_dim,
        prompts=settings.prompts,
    )
    return LoadedEmbedder(embedder)


def _tokenized(tokenizer: Tokenizer, items: Sequence[Item], prompt: str = "") -> list[Tokens]:
    """Tokenize inputs of any kind, each kind in one call, with the prompt before the query of a pair."""
    groups: dict[Any, list[int]] = {}
    for i, item in enumerate(items):
        kind: Any = type(item)
        if isinstance(item, Cut):
            kind = (Cut, item.keep_end, item.longest)
        elif isinstance(item, Pair):
            kind = (Pair, item.keep_end, item.longest)
        groups.setdefault(kind, []).append(i)
    found: dict[int, Tokens] = {}
    for kind, rows in groups.items():
        if kind is bytes or kind is Spans:
            found.update((i, _given(items[i])) for i in rows)
            continue
        if kind is str:
            batch = tokenizer.encode([_text(items[i]) for i in rows])
        else:
            part, keep_end, longest = kind
            keep: Literal["start", "end"] = "end" if keep_end else "start"
            if part is Cut:
                texts = [_text(items[i]) for i in rows]
                batch = tokenizer.encode(texts, keep=keep, longest=longest)
            else:
                pairs = [
                    (each.query, each.document) for each in map(_pair, (items[i] for i in rows))
                ]
                batch = tokenizer.encode_pairs(
                    pairs, longest_second=longest, prompt=prompt, keep=keep
                )
        found.update(zip(rows, _apart(batch), strict=True))
    return [found[i] for i in range(len(items))]


def _apart(batch: TokenBatch) -> list[Tokens]:
    ends = batch.offsets.tolist()
    types = batch.type_ids
    return [
        Tokens(batch.ids[first:last], None if types is None else types[first:last])
        for first, last in itertools.pairwise(ends)
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
