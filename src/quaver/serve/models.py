"""The models of a server: named, loaded on demand within a bound of memory, unloaded when idle."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from quaver.embedder import Embedder
from quaver.engine import bytes_of_folder
from quaver.errors import (
    InputError,
    ModelError,
    PoolingError,
    QuaverError,
    UnsupportedArchitectureError,
)
from quaver.models import ModelFolder, find_folder, is_hub_id, kind_of_model
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.reranker import BiEncoderRanker, CrossEncoder, Ranker
from quaver.serve.loaded import (
    Loaded,
    LoadedCrossEncoder,
    LoadedEmbedder,
    LoadedMultiVector,
    LoadedSparse,
)
from quaver.serve.refusal import Reason, Refusal
from quaver.serve.settings import ModelSettings, Settings, Task
from quaver.sparse_encoder import SparseEncoder

T = TypeVar("T")

Status = Literal["unloaded", "loading", "ready", "failed"]

_RETRY_SECONDS = 30.0
"""How long a model that failed to load is not tried again."""

_RETRY_ROOM = 5
"""Seconds after which a client may ask again for a model that has no room besides those in use."""

_LOADS_AT_ONCE = 4
"""How many models are loaded at the same time, so that a slow download holds up no other one."""


class ServedModel:
    """A model that the server offers, loaded or not.

    Attributes:
        settings: where it comes from and what it is called.
        task: what it does.
        unknown: whether a folder that was given to embed has not been loaded yet: it may turn out to be
            of another task, "sparse" or "multi-vector".
        status: "unloaded", "loading", "ready" or "failed".
        error: why it could not be loaded, or None.
        loaded: the model while it is ready.
        load_seconds: how long the last load took.
        created: Unix time of the start of the server, which OpenAI's list of models shows.
        holds: requests and other work that use it or wait for it; it is not unloaded meanwhile.
        used: when one of them last began or ended, by `time.monotonic`.
        nbytes: bytes that it holds; while it is being loaded, those that are reserved for it.
        needed: bytes that it was estimated to need when it was loaded last, where there is a bound.
        on_change: called with this model whenever it was loaded, could not be, or was unloaded.
    """

    def __init__(self, settings: ModelSettings, *, max_characters: int | None = None) -> None:
        """Offer a model; `max_characters` is that of its tokenizer."""
        self._max_characters = max_characters
        self.settings = settings
        self.name = settings.name
        self.task: Task = settings.task
        self.unknown = settings.task == "embed"
        self.status: Status = "unloaded"
        self.error: str | None = None
        self.loaded: Loaded | None = None
        self.load_seconds = 0.0
        self.created = int(time.time())
        self.holds = 0
        self.used = time.monotonic()
        self.nbytes = 0
        self.needed = 0
        self.on_change: Callable[[ServedModel], None] = lambda model: None
        self._began: float | None = None
        self._early: Future[Loaded] | None = None
        self._failed_at = -_RETRY_SECONDS
        self._never_fits: str | None = None
        self._loading: asyncio.Future[Loaded] | None = None

    @property
    def reranks(self) -> bool:
        """Whether it was given for reranking."""
        return self.task == "rerank"

    def begin_to_load(self, loader: _Loader) -> asyncio.Future[Loaded]:
        """Load the model on a thread of its own, unless that has begun already.

        Args:
            loader: loads it.

        Returns:
            the loaded model, or the Refusal of one that cannot be loaded. It goes on whoever gives up
            waiting for it; do not cancel it.

        Raises:
            Refusal: it could not be loaded less than half a minute ago.
        """
        if self._loading is None:
            waited = time.monotonic() - self._failed_at
            if waited < _RETRY_SECONDS:
                if self._never_fits is not None:
                    raise DoesNotFit(self._never_fits, ever=True)
                raise self._unavailable(math.ceil(_RETRY_SECONDS - waited))
            self.status = "loading"
            self._loading = asyncio.ensure_future(self._load(loader))
            # If nobody waits for it any more, `error` says why it failed.
            self._loading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return self._loading

    def begin_early(self, loader: _Loader) -> None:
        """Begin to read the model from disk before there is an event loop, which takes it over."""
        self._began = time.perf_counter()
        self._early = loader.begin(self.settings)

    def stop_loading(self) -> None:
        """Wait no longer for a load."""
        if self._loading is not None:
            self._loading.cancel()

    async def _load(self, loader: _Loader) -> Loaded:
        begin, early = self._began or time.perf_counter(), self._early
        self._began = self._early = self._never_fits = None
        try:
            loaded = await loader.load(self, early)
        except DoesNotFit as refusal:
            # A model that never fits is not measured with each request.
            self.status, self.error = "failed" if refusal.ever else "unloaded", refusal.message
            if refusal.ever:
                self._never_fits, self._failed_at = refusal.message, time.monotonic()
            self.on_change(self)
            raise
        except Exception as error:
            # Whatever a folder made fail, the other models are served.
            known = isinstance(error, (QuaverError, OSError))
            self.status = "failed"
            self.error = str(error) if known else f"{type(error).__name__}: {error}"
            self._failed_at = time.monotonic()
            self.on_change(self)
            raise self._unavailable(math.ceil(_RETRY_SECONDS)) from error
        finally:
            self._loading = None
        loaded.model.name = (
            self.name
        )  # errors call it as its clients do, not as its folder is called
        self.load_seconds = time.perf_counter() - begin
        for tokenizer in loaded.tokenizers:
            tokenizer.max_characters = self._max_characters
        self.loaded, self.status, self.error = loaded, "ready", None
        if self.settings.task == "embed":
            self.task, self.unknown = _task_of(loaded), False
        self.used = time.monotonic()
        self.on_change(self)
        return loaded

    def _unavailable(self, seconds: int) -> Refusal:
        # Why is for the log: it may name folders of this machine.
        return Refusal(
            Reason.UNAVAILABLE,
            f"the model {self.name} could not be loaded: the server's log says why; try again in {seconds} s",
            retry_after=seconds,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model loaded while a request uses it or waits for it."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """Keep the model loaded until `release`."""
        self.holds += 1
        self.used = time.monotonic()

    def release(self) -> None:
        """End what `hold` began."""
        self.holds -= 1
        self.used = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether it is loaded, and nothing uses it."""
        return (
            self.loaded is not None
            and not self.holds
            and not any(lane.jobs for lane in self.loaded.lanes)
        )

    def unload(self) -> None:
        """Unload the model, which is idle."""
        assert self.idle
        self.loaded, self.status, self.nbytes = None, "unloaded", 0
        gc.collect()  # the engine's memory goes with the last reference
        self.on_change(self)


class DoesNotFit(Refusal):
    """A model has no room besides the others.

    Attributes:
        ever: whether it has none without the others either.
    """

    def __init__(self, message: str, *, ever: bool) -> None:
        """Refuse to load a model."""
        again = None if ever else _RETRY_ROOM
        super().__init__(Reason.UNAVAILABLE, message, retry_after=again)
        self.ever = ever


class Memory:
    """The bytes that all loaded models hold together, and their bound. It is used on the event loop alone.

    Attributes:
        bound: maximum number of bytes; 0 for any.
        starting: whether the models of the start are being loaded: none makes room for another.
    """

    def __init__(self, bound: int, models: Sequence[ServedModel]) -> None:
        """Bound what models hold."""
        self.bound = bound
        self.starting = False
        self._models = models

    @property
    def held(self) -> int:
        """The bytes of all models that are loaded or being loaded."""
        return sum(model.nbytes for model in self._models)

    def reserve(self, model: ServedModel, count: int) -> None:
        """Reserve bytes for a model; unload idle ones for them, the least recently used first.

        Args:
            model: the model, which holds no bytes or fewer.
            count: bytes.

        Raises:
            DoesNotFit: there is no room for them. Then nothing was unloaded, and the model holds none.
        """
        model.nbytes = 0
        lacking = self.held + count - self.bound
        if not self.bound or lacking <= 0:
            model.nbytes = count
            return
        needs = f"the model {model.name} needs {_megabytes(count)}"
        if count > self.bound:
            raise DoesNotFit(
                f"{needs}, and all models together may hold {_megabytes(self.bound)}: start the server with a "
                "larger --memory, or serve a smaller model",
                ever=True,
            )
        idle = [] if self.starting else [each for each in self._models if each.idle]
        chosen: list[ServedModel] = []
        for each in sorted(idle, key=lambda each: each.used):
            if lacking <= 0:
                break
            chosen.append(each)
            lacking -= each.nbytes
        if lacking > 0:
            kept = self.held - sum(each.nbytes for each in idle)
            raise DoesNotFit(
                f"{needs}, and all models together may hold {_megabytes(self.bound)}, of which models that are "
                f"in use hold {_megabytes(kept)}: try again in {_RETRY_ROOM} s, or start the server with a "
                "larger --memory",
                ever=False,
            )
        for each in chosen:
            each.unload()
        model.nbytes = count


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


class Models:
    """All models of a server, by name and alias.

    Attributes:
        all: the models.
        memory: what they hold.
        overfull: why the models of the start do not fit together, or None.
    """

    def __init__(
        self,
        settings: Sequence[ModelSettings],
        *,
        threads: int | None = None,
        max_characters: int | None = None,
        memory: int = 0,
    ) -> None:
        """Offer models; none is loaded yet.

        Args:
            settings: the models; the first of a task is its default.
            threads: of the engine, for each model.
            max_characters: of their tokenizers, see `Tokenizer.max_characters`.
            memory: maximum number of bytes that all of them hold while they are loaded; 0 for any.

        Raises:
            InputError: two models have the same name or alias, or there is no model.
        """
        if not settings:
            raise InputError("a server needs a model: got none; give --model, --rerank or --store")
        self.all = [ServedModel(each, max_characters=max_characters) for each in settings]
        self.memory = Memory(memory, self.all)
        self._loader = _Loader(threads, self.memory)
        self.overfull: str | None = None
        self._by_name: dict[str, ServedModel] = {}
        for model in self.all:
            for name in (model.name, *model.settings.aliases):
                if self._by_name.setdefault(name, model) is not model:
                    raise InputError(
                        f"names and aliases of models must differ: {name!r} is given twice; name one "
                        "of them with NAME=MODEL"
                    )

    @classmethod
    def of(cls, settings: Settings) -> Models:
        """Offer the models of a server's settings; errors are those of the constructor."""
        return cls(
            settings.model,
            threads=settings.threads,
            max_characters=settings.max_characters,
            memory=settings.memory,
        )

    def begin_early(self) -> None:
        """Begin to read models of the start from disk, before there is an event loop.

        Not those that the hub may have to send, and none where there is a bound: they are measured first.
        """
        if self.memory.bound:
            return
        here = [each for each in self.all if Path(each.settings.source).is_dir()]
        for model in [each for each in here if not each.settings.on_demand][:_LOADS_AT_ONCE]:
            model.begin_early(self._loader)

    def find(self, name: str | None, task: Task) -> ServedModel:
        """Return the model that a request asks for.

        Args:
            name: the name or alias; None or "" for the default of the task.
            task: what it must do.

        Raises:
            Refusal: no model has this name, or it has another task.
        """
        if not name:
            return self.default(task)
        model = self.named(name)
        if model.task != task and not _may_have(model, task):
            raise Refusal(
                Reason.WRONG_MODEL,
                f"{model.name} does not {_DO[task]}: it {_IS[model.task]}",
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

    def default(self, task: Task) -> ServedModel:
        """Return the first model of a task, or one that may turn out to have it when it is loaded.

        Raises:
            Refusal: there is none.
        """
        for model in self.all:
            if model.task == task:
                return model
        for model in self.all:
            # Not one on demand: a wrong request would load it.
            if _may_have(model, task) and not model.settings.on_demand:
                return model
        option = "--rerank" if task == "rerank" else "--model"
        raise Refusal(
            Reason.WRONG_MODEL,
            f"this server has no model to {_DO[task]}: start it with {option}",
        )

    async def loaded(self, model: ServedModel) -> Loaded:
        """Return a model ready to run, loading it if needed, however long that takes.

        Raises:
            Refusal: it cannot be loaded.
        """
        if model.loaded is not None:
            return model.loaded
        return await asyncio.shield(self.begin_to_load(model))

    def begin_to_load(self, model: ServedModel) -> asyncio.Future[Loaded]:
        """Begin to load a model; see `ServedModel.begin_to_load`."""
        return model.begin_to_load(self._loader)

    async def load_all(self, report: Callable[[ServedModel], None]) -> None:
        """Load every model that is not marked to be loaded on demand; one that fails leaves the others.

        Args:
            report: called with each model whenever it was loaded, could not be, or was unloaded, also later.
        """
        for model in self.all:
            model.on_change = report
        too_large: list[ServedModel] = []

        async def load(model: ServedModel) -> None:
            try:
                await self.loaded(model)
            except DoesNotFit:
                too_large.append(model)
            except Refusal:  # model.error says why
                return

        self.memory.starting = True
        first = [each for each in self.all if not each.settings.on_demand]
        await asyncio.gather(*map(load, first))
        self.memory.starting = False
        if too_large:
            self.overfull = overfull(self.memory.bound, {each.name: each.needed for each in first})

    @property
    def usable(self) -> bool:
        """Whether any model is loaded, or may be loaded on demand."""
        return any(model.status != "failed" for model in self.all)

    def close(self) -> None:
        """Load no more; models that are being read from disk are read to their end, and dropped."""
        for model in self.all:
            model.stop_loading()
        self._loader.close()


_DO: dict[Task, str] = {
    "embed": "embed",
    "sparse": "give sparse vectors",
    "multi-vector": "give a vector for each token",
    "rerank": "rerank",
}
_IS: dict[Task, str] = {
    "embed": "was given to embed",
    "sparse": "is a sparse encoder",
    "multi-vector": "is a multi-vector model",
    "rerank": "was given to rerank",
}


def _may_have(model: ServedModel, task: Task) -> bool:
    return model.unknown and task in ("sparse", "multi-vector")


def _task_of(loaded: Loaded) -> Task:
    if isinstance(loaded, LoadedSparse):
        return "sparse"
    return "multi-vector" if isinstance(loaded, LoadedMultiVector) else "embed"


def check_source(settings: ModelSettings, *, measure: bool) -> int | None:
    """Check that a model's folder is there and can be read, as far as that needs no network.

    Args:
        settings: the model.
        measure: whether to estimate how many bytes it will hold.

    Returns:
        these, or None.

    Raises:
        ModelNotFoundError: it is neither a folder nor a hub id, or may only come from this machine, which
            does not have it.
        ModelFolderError: a file of the folder is missing or broken.
        UnsupportedArchitectureError: Quaver does not run its modules.
        PoolingError: it is a masked language model alone, and the settings do not say what for.
    """
    here = Path(settings.source).expanduser().exists()
    if not here and is_hub_id(settings.source) and not settings.local_files_only:
        return None  # the hub has it or not
    if settings.task == "embed" and _says_nothing(settings):
        raise _unstated(settings)
    if measure:
        return needed_bytes(settings)
    _folder(settings)
    return None


def _folder(settings: ModelSettings) -> ModelFolder:
    """Open a model's folder, without the network."""
    place: dict[str, Any] = {"revision": settings.revision, "local_files_only": True}
    if settings.task in ("sparse", "multi-vector"):
        return ModelFolder.open(settings.source, kind=settings.task, **place)
    return ModelFolder.open_any(settings.source, pooling=settings.pooling, **place)


def _says_nothing(settings: ModelSettings) -> bool:
    """Return whether a model is a masked language model alone, which may be used in several ways."""
    place: dict[str, Any] = {"revision": settings.revision, "local_files_only": True}
    if settings.pooling is not None or kind_of_model(settings.source, **place) is not None:
        return False
    try:
        ModelFolder.open(settings.source, kind="sparse", **place)
    except ModelError:
        return False
    return True


def _unstated(settings: ModelSettings) -> PoolingError:
    return PoolingError(
        f"{settings.name} is a masked language model without modules.json, which does not say what it is for: in a "
        'file of settings (--config) give it task = "sparse" if it is a sparse encoder, or a pooling if it makes '
        "one vector for a text"
    )


class _Loader:
    """Loads models, each on threads of its own, once there is room for them.

    A download does not hold up the end of the process, so the threads are daemons. Native code must not run
    while the process is taken down, so `close` waits for models that are read from disk.
    """

    def __init__(self, threads: int | None, memory: Memory) -> None:
        self._threads = threads
        self._memory = memory
        self._slots = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._changed = threading.Condition()
        self._reading = 0
        self._closed = False

    def begin(self, settings: ModelSettings) -> Future[Loaded]:
        """Begin to read a model that is on this machine."""
        return _on_a_thread(lambda: self._read(lambda: _open(settings, self._threads)))

    async def load(self, model: ServedModel, begun: Future[Loaded] | None) -> Loaded:
        """Load a model, or wait for what `begin` returned."""
        settings = model.settings
        async with self._slots:
            try:
                if begun is None:
                    await asyncio.wrap_future(_on_a_thread(lambda: _fetch(settings)))
                    if self._memory.bound:
                        measure = _on_a_thread(lambda: self._read(lambda: needed_bytes(settings)))
                        model.needed = await asyncio.wrap_future(measure)
                        self._memory.reserve(model, model.needed)
                    begun = self.begin(settings)
                loaded = await asyncio.wrap_future(begun)
                self._memory.reserve(model, loaded.nbytes)
            except BaseException:
                model.nbytes = 0
                raise
            return loaded

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._reading)

    def _read(self, call: Callable[[], T]) -> T:
        """Read a model from disk, which `close` waits for."""
        with self._changed:
            if self._closed:
                raise Refusal(Reason.UNAVAILABLE, "the server is stopping", retry_after=1)
            self._reading += 1
        try:
            return call()
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()


def _on_a_thread(call: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must learn of it
            future.set_exception(error)

    threading.Thread(target=run, name="quaver-loader", daemon=True).start()
    return future


def needed_bytes(settings: ModelSettings) -> int:
    """Estimate the bytes that a model will hold, from its folder on this machine.

    Args:
        settings: the model.

    Returns:
        see `quaver.engine.bytes_of_folder`.

    Raises:
        ModelError: the folder is missing or broken; see the subclasses.
    """
    return bytes_of_folder(
        _folder(settings),
        precision=settings.precision,
        max_seq_length=settings.max_seq_length,
        pooling=settings.pooling,
    )


def overfull(bound: int, needed: Mapping[str, int]) -> str:
    """Say that the models of the start do not fit together.

    Args:
        bound: the bytes that they may hold.
        needed: the bytes that each of them needs, by name.
    """
    listed = ", ".join(f"{name} {_megabytes(count)}" for name, count in needed.items())
    return (
        f"the models of the start need {_megabytes(sum(needed.values()))} together ({listed}), and memory allows "
        f"{_megabytes(bound)}: allow more, serve fewer, or let some be loaded with the first request "
        "(on_demand = true in a file of settings)"
    )


def _fetch(settings: ModelSettings) -> None:
    """Download a model that is not on this machine."""
    find_folder(settings.source, settings.revision, settings.local_files_only, None)


def _open(settings: ModelSettings, threads: int | None) -> Loaded:
    options: dict[str, Any] = {
        "precision": settings.precision,
        "revision": settings.revision,
        "max_seq_length": settings.max_seq_length,
        "threads": threads,
        "local_files_only": settings.local_files_only,
    }
    task: str | None = settings.task
    if task in ("embed", "rerank"):
        kind = kind_of_model(
            settings.source,
            revision=settings.revision,
            local_files_only=settings.local_files_only,
        )
        if task == "embed" or kind == "multi-vector":
            task = kind
    if task == "sparse":
        _require_defaults(settings, "a sparse encoder")
        return LoadedSparse(SparseEncoder.from_pretrained(settings.source, **options))
    if task == "multi-vector":
        _require_defaults(settings, "a multi-vector model")
        return LoadedMultiVector(MultiVectorEncoder.from_pretrained(settings.source, **options))
    if task == "rerank":
        ranker = Ranker.from_pretrained(settings.source, **options)
        if isinstance(ranker, CrossEncoder):
            return LoadedCrossEncoder(ranker)
        assert isinstance(ranker, BiEncoderRanker)
        return LoadedEmbedder(ranker.embedder)
    try:
        embedder = Embedder.from_pretrained(
            settings.source,
            **options,
            pooling=settings.pooling,
            normalize=settings.normalize,
            truncate_dim=settings.truncate_dim,
            prompts=settings.prompts,
        )
    except (PoolingError, UnsupportedArchitectureError) as error:
        if _says_nothing(settings):
            raise _unstated(settings) from error
        raise
    return LoadedEmbedder(embedder)


def _require_defaults(settings: ModelSettings, kind: str) -> None:
    """Refuse settings that a kind of model does not have."""
    for name in ("pooling", "normalize", "truncate_dim", "prompts"):
        if getattr(settings, name) is not None:
            raise InputError(
                f"{name} has no effect on {settings.name}, which is {kind}: leave it out"
            )
