"""The stores of a server: searched with the server's models, away from the event loop, and bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from quaver.answers import ChatModel, Message, answer_from
from quaver.documents import embedded_text
from quaver.errors import (
    InputError,
    LanguageModelError,
    ModelError,
    QuaverError,
    StoreClosedError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from quaver.index import Library, stored_query, stored_weights, token_model
from quaver.serve.loaded import Loaded, LoadedEmbedder, LoadedMultiVector, LoadedSparse
from quaver.serve.models import DoesNotFit, ServedModel
from quaver.serve.refusal import Reason, Refusal
from quaver.serve.service import Service, Waiter
from quaver.serve.settings import ModelSettings, Settings, StoreSettings, Task
from quaver.sparse_encoder import SparseVector
from quaver.store import CANDIDATES, RANKINGS, Filter, Hit, Manifest, Mode, TokenModel

T = TypeVar("T")

ModeName = Literal[
    "hybrid", "words", "vectors", "bm25", "dense", "sparse", "dense+sparse", "dense+bm25+sparse"
]
_MODES: dict[ModeName, Mode] = {
    "hybrid": "hybrid",
    "words": "bm25",
    "bm25": "bm25",
    "vectors": "dense",
    "dense": "dense",
    "sparse": "sparse",
    "dense+sparse": "dense+sparse",
    "dense+bm25+sparse": "dense+bm25+sparse",
}

MOST_HITS = 1000
"""Maximum number of hits, and of candidates for a ranker, of a request."""

LONGEST_QUERY = 10_000
"""Maximum number of characters in a question."""

_THREADS = 4
"""Threads that search: NumPy releases the GIL in what takes long."""

_ASKING = 16
"""Maximum number of questions that wait for the language model."""

_LONGEST_ANSWER = 200_000
"""Characters of an answer after which it is broken off: a model may never end."""

_PIECE_SECONDS = 0.02
"""Time in which pieces of an answer are gathered: no eye sees the difference."""

_BEAT_SECONDS = 10.0
"""Time without an event after which a stream says that it goes on."""


@dataclass(frozen=True)
class Query:
    """What to search for.

    Attributes:
        text: the question.
        k: maximum number of hits.
        mode: "hybrid", "words" or "vectors"; or the library's own name of any mode.
        filter: only passages that match.
        rerank: name of the reranking model, "" for the server's first one, or None.
        candidates: number of hits to rerank.
        min_score: leave out hits with a lower score.
        maxsim: rerank by the stored token vectors instead.
    """

    text: str
    k: int = 10
    mode: ModeName = "hybrid"
    filter: Filter | None = None
    rerank: str | None = None
    candidates: int = CANDIDATES
    min_score: float | None = None
    maxsim: bool = False


@dataclass(frozen=True)
class Event:
    """An event of an answer on its way.

    Attributes:
        name: "passages", "prompt", "text", "answer" or "error"; "beat" only says that it goes on.
        value: hits, messages, a piece of text, the `Answer`, or a `Refusal`.
    """

    name: Literal["passages", "prompt", "text", "answer", "error", "beat"]
    value: Any = None


class Stores:
    """The stores of a server, open to be read.

    Attributes:
        all: the stores, in the order of the settings.
        answers: whether a language model answers questions.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the stores.

        Raises:
            InputError: two stores have the same name, or the endpoint's address is invalid.
            StoreError: a store cannot be opened; the subclass says why.
        """
        self._settings = settings
        self._chat: ChatModel | None = None
        if settings.llm is not None:
            self._chat = ChatModel(
                settings.llm,
                model=settings.llm_model,
                key=settings.llm_key,
                timeout=settings.llm_timeout,
                retries=1,
            )
        self.answers = self._chat is not None
        self.all = _opened(settings.store)
        self._by_name = {library.name: library for library in self.all}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="quaver-search")
        self._waiting = 0
        self._asking = threading.Semaphore(_ASKING)

    def named(self, name: str) -> Library:
        """Return a store by name.

        Raises:
            Refusal: there is none.
        """
        library = self._by_name.get(name)
        if library is None:
            listed = ", ".join(sorted(self._by_name)) or "none"
            raise Refusal(
                Reason.NOT_FOUND,
                f"no store is named {name[:128]!r}: here are {listed}",
                field="name",
            )
        return library

    async def warm(self) -> None:
        """Look through all stores before anyone asks: in a large store it takes a while."""
        loop = asyncio.get_running_loop()
        for library in self.all:
            for look in (library.status, library.catalog):
                with suppress(StoreError):  # whoever asks is told
                    await loop.run_in_executor(self._pool, look)

    async def run(self, waiter: Waiter, call: Callable[[], T]) -> T:
        """Run something about a store in a thread.

        Args:
            waiter: waits for the request.
            call: what to run.

        Returns:
            what it returns.

        Raises:
            Refusal: too many wait, it took too long, an argument is invalid, or the store failed.
        """
        if self._waiting >= self._settings.queue_requests:
            raise Refusal(
                Reason.OVERLOADED, "too many requests search the stores: try again", retry_after=1
            )
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        future.add_done_callback(self._done)
        try:
            # A thread cannot be stopped: what nobody waits for any more still counts until it ends.
            return await asyncio.wait_for(asyncio.shield(future), waiter.seconds_left)
        except (asyncio.TimeoutError, QuaverError) as error:
            refusal = refusal_of(error)
            waiter.detail = refusal.detail  # a page may show the refusal itself
            raise refusal from error

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # whoever waited for it may have gone

    async def search(
        self, service: Service, waiter: Waiter, library: Library, query: Query
    ) -> list[Hit]:
        """Find the passages that answer a question best, as `Index.search` does.

        Args:
            service: the server's models.
            waiter: waits for the request.
            library: the store.
            query: what to search for.

        Returns:
            hits, best first.

        Raises:
            Refusal: an argument is outside its rule, or the store or a model is not to be had.
            HungUp: the client went away.
        """
        _check(query)
        mode = _MODES[query.mode]
        ranker = None
        if query.rerank is not None:
            ranker = service.models.find(query.rerank or None, "rerank")
        vector: NDArray[np.float32] | None = None
        if "dense" in RANKINGS[mode]:
            model = await self._model(service, waiter, library)
            vectors = await service.embed(waiter, [query.text], model=model.name, role="query")
            vector = np.asarray(vectors[0], np.float32)
        weights: SparseVector | None = None
        if "sparse" in RANKINGS[mode]:
            weights = await self._weights(service, waiter, library, query.text)
        tokens: NDArray[np.float32] | None = None
        if query.maxsim:
            tokens = await self._tokens(service, waiter, library, query.text)
        found = query.k if ranker is None else max(query.k, query.candidates)

        def search() -> list[Hit]:
            index = library.index
            try:
                if "sparse" in RANKINGS[mode]:
                    index.store.manifest.token_model("sparse", library.name)
                if query.maxsim:
                    index.store.manifest.token_model("multi", library.name)
            except StoreMismatchError as error:  # it is the request that does not fit
                raise InputError(str(error)) from error
            return index.store.search(
                vector,
                text=query.text,
                k=found,
                mode=mode,
                filter=query.filter,
                sparse=index.encoders.sparse_query(query.text)
                if weights is None and "sparse" in RANKINGS[mode]
                else weights,
                multi=index.encoders.multi_query(query.text)
                if tokens is None and query.maxsim
                else tokens,
                candidates=query.candidates,
            )

        hits = await self.run(waiter, search)
        if ranker is not None and hits:
            texts = [embedded_text(hit.heading, hit.text) for hit in hits]
            scores = await service.score(waiter, query.text, texts, model=ranker.name)
            order = scores.order[: query.k].tolist()
            hits = [replace(hits[i], score=float(scores.values[i])) for i in order]
        least = query.min_score
        return [hit for hit in hits if least is None or hit.score >= least]

    async def _weights(
        self, service: Service, waiter: Waiter, library: Library, text: str
    ) -> SparseVector | None:
        """Weigh a question with a served model; None leaves that to the index, which loads one of its own."""
        model, loaded = await _served_of(service, waiter, library.manifest.sparse)
        if model is None or not isinstance(loaded, LoadedSparse):
            return None
        (row,) = await service.embed_sparse(waiter, [text], model=model.name, role="query")
        encoder = loaded.model
        weights = SparseVector(row["index"].copy(), row["value"].copy(), encoder.dimension)
        return stored_weights(weights, encoder)

    async def _tokens(
        self, service: Service, waiter: Waiter, library: Library, text: str
    ) -> NDArray[np.float32] | None:
        """Return a question's token vectors; None as of `_weights`."""
        model, loaded = await _served_of(service, waiter, library.manifest.multi)
        if model is None or not isinstance(loaded, LoadedMultiVector):
            return None
        (vectors,) = await service.embed_multi_vectors(waiter, [text], "query", model=model.name)
        return stored_query(vectors, loaded.model)

    async def models_of(
        self, service: Service, waiter: Waiter, library: Library
    ) -> AsyncGenerator[ServedModel, None]:
        """Load the models that a store was made with: the embedding model, then those of its tokens.

        Yields:
            each model once it is loaded; one that nobody holds may be unloaded before the next. A model of tokens
            that the server cannot load is left to the index.

        Raises:
            Refusal: the server does not have the embedding model, it cannot be loaded, or there is no room.
        """
        model = await self._model(service, waiter, library)
        await service.loaded(waiter, model)
        yield model
        for made in (library.manifest.sparse, library.manifest.multi):
            found, _ = await _served_of(service, waiter, made)
            if found is not None:
                yield found

    async def _model(self, service: Service, waiter: Waiter, library: Library) -> ServedModel:
        """Return the served model that the store was made with, loaded."""
        manifest = library.manifest
        models = service.models
        for model in models.all:
            if _fits(model, manifest):
                return model
        for model in models.all:
            if model.loaded is None and _is_model_of(model.settings, manifest):
                await service.loaded(waiter, model)
                if _fits(model, manifest):
                    return model
        raise Refusal(
            Reason.UNAVAILABLE,
            f"the store {library.name} was made with {_shown(manifest.model)}, and no model of this server has "
            "the same files and settings: name it with --model, or search by words",
            detail=f"the store at {library.location} was made with {manifest.model}",
        )

    async def ask(
        self, service: Service, waiter: Waiter, library: Library, query: Query
    ) -> AsyncGenerator[Event, None]:
        """Answer a question: passages, the prompt, pieces of text, the answer.

        Args:
            service: the server's models.
            waiter: waits for the request, not for the language model.
            library: the store.
            query: the question and how its passages are found.

        Yields:
            events; the last one is "answer" or "error".

        Raises:
            Refusal: an argument is outside its rule, too many ask, or the store or a model is not to
                be had.
            HungUp: the client went away.
        """
        if not self._asking.acquire(blocking=False):
            raise Refusal(
                Reason.OVERLOADED, "too many questions wait for the language model", retry_after=5
            )
        begun = False
        try:
            hits = await self.search(service, waiter, library, query)
            yield Event("passages", hits)
            begun = True
            async with aclosing(self._answered(query.text, hits)) as events:
                async for event in events:
                    yield event
        finally:
            if not begun:
                self._asking.release()

    async def _answered(self, question: str, hits: Sequence[Hit]) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        ready: asyncio.Queue[Event] = asyncio.Queue()
        stopped = threading.Event()
        length = 0

        def put(event: Event) -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(ready.put_nowait, event)

        def on_prompt(messages: Sequence[Message]) -> None:
            put(Event("prompt", messages))

        def on_text(piece: str) -> None:
            nonlocal length
            length += len(piece)
            if stopped.is_set():
                raise _StoppedError
            if length > _LONGEST_ANSWER:
                raise LanguageModelError(
                    f"the answer has more than {_LONGEST_ANSWER} characters: it was broken off"
                )
            if piece:
                put(Event("text", piece))

        def answer() -> None:
            try:
                made = answer_from(
                    question, hits, llm=self._chat, on_prompt=on_prompt, on_text=on_text
                )
            except _StoppedError:
                return
            except QuaverError as error:
                put(Event("error", refusal_of(error)))
            except BaseException:
                put(Event("error", Refusal(Reason.FAILED, "the server failed; its log says where")))
                raise
            else:
                put(Event("answer", made))
            finally:
                self._asking.release()

        # Not in a pool, which the process would wait for at its end: an endpoint may hang for minutes.
        threading.Thread(target=answer, name="quaver-ask", daemon=True).start()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(ready.get(), _BEAT_SECONDS)
                except asyncio.TimeoutError:
                    event = Event("beat")
                if event.name == "text":
                    # A reader slower than the model gets what has come meanwhile in one piece.
                    await asyncio.sleep(_PIECE_SECONDS)
                    pieces = [event.value]
                    while not ready.empty():
                        event = ready.get_nowait()
                        if event.name != "text":
                            break
                        pieces.append(event.value)
                    yield Event("text", "".join(pieces))
                    if event.name == "text":
                        continue
                yield event
                if event.name in ("answer", "error"):
                    return
        finally:
            stopped.set()

    def close(self) -> None:
        """Close the stores and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for library in self.all:
            library.close()


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""


def with_store_models(settings: Settings) -> Settings:
    """Add the models that the stores were made with, unless the settings name them.

    Those of sparse and token vectors are loaded when a search first needs them.

    Args:
        settings: the configuration.

    Returns:
        the same with more models.

    Raises:
        InputError: two stores have the same name.
        StoreError: a store cannot be opened; the subclass says why.
    """
    models = list(settings.model)
    libraries = _opened(settings.store)
    for library in libraries:
        manifest = library.manifest
        library.close()
        wanted: list[ModelSettings] = []
        if not any(_is_model_of(model, manifest) for model in models):
            wanted.append(ModelSettings(source=manifest.model, **manifest.settings))
        made: dict[Task, TokenModel | None] = {
            "sparse": manifest.sparse,
            "multi-vector": manifest.multi,
        }
        for task, tokens in made.items():
            # A served model has no max_active_dims: the index loads such an encoder itself.
            if tokens is None or "max_active_dims" in tokens.settings:
                continue
            longest = tokens.settings.get("max_seq_length")
            if not any(
                _is_named(each, tokens) and each.max_seq_length == longest for each in models
            ):
                wanted.append(
                    ModelSettings(source=tokens.model, task=task, on_demand=True, **tokens.settings)
                )
        for own in wanted:
            if Path(own.source).is_absolute() and not Path(own.source).exists() and models:
                continue  # it has moved, and one of the models may be it
            names = {name for model in models for name in (model.name, *model.aliases)}
            if own.name in names:
                own = msgspec.structs.replace(own, name=f"{own.name} of {library.name}")
            models.append(own)
    return msgspec.structs.replace(settings, model=tuple(models))


def refusal_of(error: Exception) -> Refusal:
    """Return the refusal for an error of the library; folders of this machine are only for the log."""
    if isinstance(error, InputError):
        return Refusal(Reason.INVALID, str(error))
    if isinstance(error, (StoreUnavailableError, StoreClosedError)):
        message = "the store cannot be reached: try again in 5 s"
        return Refusal(Reason.UNAVAILABLE, message, retry_after=5, detail=str(error))
    if isinstance(error, asyncio.TimeoutError):
        return Refusal(Reason.TIMEOUT, "the store took too long", retry_after=1)
    if isinstance(error, LanguageModelError):
        return Refusal(Reason.UPSTREAM, str(error))
    assert isinstance(error, QuaverError)
    failed = "model of the store" if isinstance(error, ModelError) else "store"
    message = f"the {failed} cannot be read: the server's log says why"
    return Refusal(Reason.FAILED, message, detail=str(error))


def _shown(model: str) -> str:
    """Return what clients may know of a model's source: its hub id, or the last part of its folder."""
    return Path(model).name if Path(model).is_absolute() else model


def _opened(stores: Sequence[StoreSettings]) -> list[Library]:
    names = [each.name for each in stores]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"names of stores must differ: {twice!r} is given twice; name one with NAME=LOCATION"
        )
    opened: list[Library] = []
    try:
        for each in stores:
            opened.append(Library(each.location, name=each.name))
    except BaseException:
        for library in opened:
            library.close()
        raise
    return opened


def _check(query: Query) -> None:
    if not query.text.strip():
        raise Refusal(
            Reason.EMPTY, "a question must not be empty: got only white space", field="query"
        )
    if len(query.text) > LONGEST_QUERY:
        raise Refusal(
            Reason.INVALID,
            f"a question may have at most {LONGEST_QUERY} characters: got {len(query.text)}",
            field="query",
        )
    try:
        query.text.encode()
    except UnicodeEncodeError as error:
        raise Refusal(
            Reason.INVALID,
            "a question must be valid Unicode: it has half of a surrogate pair",
            field="query",
        ) from error
    if query.maxsim and query.rerank is not None:
        raise Refusal(
            Reason.INVALID, "hits are reranked once: give either maxsim or rerank", field="maxsim"
        )
    for name in ("k", "candidates"):
        if not 1 <= getattr(query, name) <= MOST_HITS:
            raise Refusal(
                Reason.INVALID,
                f"{name} must be from 1 to {MOST_HITS}: got {getattr(query, name)}",
                field=name,
            )


def _fits(model: ServedModel, manifest: Manifest) -> bool:
    loaded = model.loaded
    return (
        isinstance(loaded, LoadedEmbedder)
        and not model.reranks
        and loaded.model.fingerprint == manifest.fingerprint
    )


async def _served_of(
    service: Service, waiter: Waiter, made: TokenModel | None
) -> tuple[ServedModel | None, Loaded | None]:
    """Return the served model that made a store's sparse or token vectors, loaded, if there is one.

    Raises:
        Refusal: it has no room beside others.
    """
    if made is None:
        return None, None
    for model in service.models.all:
        if model.reranks or not (model.loaded is not None or _is_named(model.settings, made)):
            continue
        try:
            loaded = await service.loaded(waiter, model)
        except DoesNotFit:  # nor would one of the index's own
            raise
        except Refusal:  # it cannot be loaded: the index says why, or has one of its own
            continue
        if isinstance(loaded, (LoadedSparse, LoadedMultiVector)):
            own = token_model(loaded.model)
            if replace(own, model=made.model) == made:
                return model, loaded
    return None, None


def _is_named(model: ModelSettings, made: Manifest | TokenModel | None) -> bool:
    """Return whether settings have the source of a model that a store names."""
    return made is not None and (
        model.source == made.model
        or (Path(model.source).exists() and str(Path(model.source).resolve()) == made.model)
    )


def _is_model_of(model: ModelSettings, manifest: Manifest) -> bool:
    """Return whether settings name the model of a store, as far as they tell without loading it."""
    if model.task != "embed" or model.prompts is not None:
        return False
    made = manifest.settings
    return (
        _is_named(model, manifest)
        and model.truncate_dim == made.get("truncate_dim")
        and model.pooling in (None, made.get("pooling"))
        and model.normalize in (None, made.get("normalize"))
    )
