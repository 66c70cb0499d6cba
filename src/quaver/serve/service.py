"""What every dialect asks for: vectors, scores, token counts. Nothing here knows HTTP or JSON."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder, finish_vectors, windows_of_texts
from quaver.engine import Matrix, Output, ShortMatrix, similarity
from quaver.errors import InputError
from quaver.models import (
    EncoderSpec,
    choose_prompt,
    document_prompt,
    query_prompt,
    with_prompt,
)
from quaver.multi_vector_encoder import Side, TokenVectors
from quaver.reranker import CrossEncoder, ScoreActivation, activated
from quaver.serve.loaded import (
    Loaded,
    LoadedCrossEncoder,
    LoadedEmbedder,
    LoadedMultiVector,
    LoadedSparse,
)
from quaver.serve.models import Models, ServedModel
from quaver.serve.refusal import Reason, Refusal
from quaver.serve.scheduler import (
    Cut,
    Item,
    Job,
    Lane,
    Length,
    Limits,
    Pair,
    Scheduler,
    Spans,
    TooLong,
    Truncate,
    about_tokens,
    about_tokens_of_text,
)
from quaver.serve.settings import Settings, Task
from quaver.sparse_encoder import SparseEncoder

Form = TypeVar("Form")

Input = str | Sequence[int]
"""A text, or the ids of its tokens, special tokens included."""

_MOST_NUMBERS = 2**24
"""Maximum number of numbers that a request with a vector for each token asks for, about 200 MB of JSON."""

_BYTES_OF_NUMBER = 16
"""Bytes of a number of an answer: four in its row, about twelve in JSON."""

_BYTES_OF_WORD, _WORDS_OF_TEXT = 40, 200
"""Bytes of a word with its weight in JSON, and about how many words a sparse vector has."""

_BYTES_OF_PIECE, _BYTES_OF_ID = 80, 8
"""Bytes of a token in JSON, and of a token id as text."""

_IDS_AT_ONCE, _IDS_OF_TEXT = 2**16, 2**8
"""Token ids that are checked without letting other requests in between, a millisecond; and what a text counts."""

_RETRY_LOADING = 5
"""Seconds after which a client may ask again for a model that is being loaded."""

_WITHOUT_TOKENS = frozenset[str]({"rerank", "sparse"})
"""Tasks whose models have no vectors of tokens."""

_MOST_CHARACTERS = 2**20
"""Maximum number of characters in a document whose parts are embedded together."""


class Bodies:
    """The bodies of all requests that are not yet answered: they are in memory, whatever a model keeps of them.

    Attributes:
        held: their bytes, as far as they have arrived.
        refused: requests refused because there was no room.
    """

    def __init__(self, most: int) -> None:
        """Hold at most this many bytes; a single request may always have more."""
        self.held = 0
        self.refused = 0
        self._most = most

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Hold a request's bytes until the block ends.

        Yields:
            a function that holds more bytes; it raises Refusal if there is no room for them.
        """
        own = 0

        def hold(count: int) -> None:
            nonlocal own
            if self.held + count > self._most and self.held > own:
                self.refused += 1
                raise Refusal(
                    Reason.OVERLOADED,
                    f"the bodies of all waiting requests may have {self._most} bytes together, and "
                    "others have them; try again in 1 s",
                    retry_after=1,
                )
            own += count
            self.held += count

        try:
            yield hold
        finally:
            self.held -= own


class Answers:
    """The answers that clients have not read: they are in memory, however slowly a client reads.

    Attributes:
        held: their bytes; of one that is not written yet, about as many as it will have.
        refused: requests refused because there was no room.
        freed: bytes of all answers that are gone.
    """

    def __init__(self, most: int) -> None:
        """Hold at most this many bytes; a single answer may always have more."""
        self.held = 0
        self.refused = 0
        self.freed = 0
        self._most = most
        # Large answers leave room for small ones.
        self._for_large = most - most // 8
        self._small = most // 256
        self._large = 0

    @property
    def busy(self) -> bool:
        """Whether more than a small part of the room is taken."""
        return self.held > self._most // 8

    def _part_of_large(self, size: int) -> int:
        return size if size > self._small else 0

    def check(self, before: int, size: int) -> None:
        """Check that an answer of `before` bytes may have `size`.

        Raises:
            Refusal: there is no room.
        """
        others = self.held - before
        large = self._large - self._part_of_large(before)
        if self._part_of_large(size):
            fits = large + size <= self._for_large and others + size <= self._most
        else:
            fits = others - large + min(large, self._for_large) + size <= self._most
        if others and not fits:
            self.refused += 1
            raise Refusal(
                Reason.OVERLOADED,
                f"the answers that clients have not read may have {self._most} bytes together, and "
                "others have them; try again in 1 s",
                retry_after=1,
            )

    def count(self, before: int, size: int) -> None:
        """Count that an answer of `before` bytes has `size`."""
        self.held += size - before
        self._large += self._part_of_large(size) - self._part_of_large(before)
        self.freed += max(0, before - size)


class Answer:
    """The bytes of one answer, from before it is computed until its client has read it.

    Attributes:
        size: how many are held.
    """

    def __init__(self, answers: Answers) -> None:
        """Hold none."""
        self.size = 0
        self._answers = answers

    def hold(self, size: int) -> None:
        """Hold so many bytes, if it is more than before.

        Raises:
            Refusal: there is no room for them.
        """
        if size > self.size:
            self._answers.check(self.size, size)
            self.resize(size)

    def resize(self, size: int) -> None:
        """Hold as many bytes as there are."""
        self._answers.count(self.size, size)
        self.size = size

    def free(self, size: int) -> None:
        """Hold so many bytes less, since the client has read them."""
        self.resize(max(0, self.size - size))


class Waiter:
    """Waits for a request's job as long as its client does.

    Attributes:
        interactive: the client's own word on its priority, or None.
        tokens: tokens of the request so far.
        inputs: inputs of the request so far.
        model: the name of the model that answered.
        tokenize_seconds: time in the tokenizer.
        compute_seconds: time in the engine.
        queue_seconds: time spent waiting for them.
        detail: what the log says of a refusal, and the client is not shown; or None.
    """

    def __init__(
        self,
        *,
        timeout: float,
        interactive: bool | None = None,
        hung_up: Callable[[], Any] | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Wait for one request.

        Args:
            timeout: seconds until the request is given up, counted again from each result of its inputs.
            interactive: the client's own word on its priority.
            hung_up: coroutine function that returns when the client goes away.
            answer: holds the bytes of the answer; None holds none.
        """
        self.interactive = interactive
        self.tokens = 0
        self.inputs = 0
        self.model = ""
        self.tokenize_seconds = 0.0
        self.compute_seconds = 0.0
        self.queue_seconds = 0.0
        self.detail: str | None = None
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._hung_up = hung_up
        self._answer = answer

    def hold(self, size: int) -> None:
        """Hold about as many bytes as the answer will have, before it is computed.

        Raises:
            Refusal: there is no room for them.
        """
        if self._answer is not None:
            self._answer.hold(size)

    @property
    def seconds_left(self) -> float:
        """Seconds until the request is given up, unless there is a result before."""
        return max(0.0, self._deadline - time.monotonic())

    async def wait(self, scheduler: Scheduler, job: Job) -> None:
        """Wait until a job is done, and count it; give it up if the client goes away or the time is over.

        A request of many inputs may take longer than the time, as long as it gets on.

        Raises:
            Refusal: the time was over, or the inputs failed.
            TooLong: an input that may not be cut is too long.
            HungUp: the client went away.
        """
        if job.future.done():  # computed on the event loop, or from the cache
            job.future.result()
        else:
            await self.await_job(scheduler, job)
        self.tokens += int(job.lengths.sum())
        self.inputs += len(job.rows)
        self.tokenize_seconds += job.tokenize_seconds
        self.compute_seconds += job.compute_seconds
        spent = time.perf_counter() - job.arrived
        self.queue_seconds += max(0.0, spent - job.tokenize_seconds - job.compute_seconds)

    async def await_job(self, scheduler: Scheduler, job: Job, late: Refusal | None = None) -> None:
        """Wait as `wait` does, without counting the job's inputs.

        Args:
            scheduler: the scheduler that accepted the job.
            job: the job.
            late: what to raise once the time is over; None says so.
        """
        loop = asyncio.get_running_loop()
        watcher: asyncio.Task[None] | None = None
        timer: asyncio.TimerHandle

        async def watch() -> None:
            assert self._hung_up is not None
            await self._hung_up()
            scheduler.cancel(job)

        def begin_watching() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        def expire() -> None:
            nonlocal timer
            self._allow_more(job)
            if self.seconds_left > 0.0:
                timer = loop.call_later(self.seconds_left, expire)
                return
            message = f"the answer took longer than {self._timeout:g} s"
            if math.isfinite(job.progressed):
                message = (
                    f"for {self._timeout:g} s none of the request's inputs was computed: others went "
                    "before; send fewer in a request"
                )
            scheduler.cancel(job, late or Refusal(Reason.TIMEOUT, message, retry_after=1))

        # Most answers are there before it is worth asking whether the client still is.
        soon = None if self._hung_up is None else loop.call_later(0.02, begin_watching)
        timer = loop.call_later(self.seconds_left, expire)
        try:
            await job.future
        except asyncio.CancelledError:
            scheduler.cancel(job)
            raise
        finally:
            self._allow_more(job)  # what follows in the same request
            timer.cancel()
            if soon is not None:
                soon.cancel()
            if watcher is not None:
                watcher.cancel()

    def _allow_more(self, job: Job) -> None:
        """Let the time count from the last result of a job."""
        self._deadline = max(self._deadline, job.progressed + self._timeout)


class Scores(NamedTuple):
    """The scores of a request's documents.

    Attributes:
        model: the model that scored.
        values: float32 (N,), higher means more relevant.
        order: int (N,), the places of the documents, best first; ties keep their order.
    """

    model: ServedModel
    values: NDArray[np.float32]
    order: NDArray[np.intp]


class Service:
    """The models and the scheduler of a server.

    Attributes:
        settings: the configuration.
        models: the models.
        scheduler: the scheduler.
        bodies: the bodies of requests that are not yet answered.
        answers: the answers that are not yet read.
    """

    def __init__(self, settings: Settings, models: Models) -> None:
        """Offer models.

        Args:
            settings: the configuration.
            models: the models.
        """
        self.settings = settings
        self.models = models
        self._arriving = 0
        self.bodies = Bodies(settings.queue_bytes)
        self.answers = Answers(settings.answer_bytes)
        self.scheduler = Scheduler(
            Limits(
                requests=settings.queue_requests,
                inputs=settings.queue_inputs,
                tokens=settings.queue_tokens,
                seconds=settings.queue_time,
                batch_tokens=settings.batch_tokens,
                batch_seconds=settings.batch_time,
                cache_bytes=settings.cache,
            )
        )

    def close(self) -> None:
        """End the threads."""
        self.models.close()
        self.scheduler.close()

    def check_count(self, count: int, field: str) -> None:
        """Check the number of a request's inputs.

        Raises:
            Refusal: there are none, or more than the server takes.
        """
        if count < 1:
            raise Refusal(
                Reason.EMPTY, f"{field} must have at least one entry: got none", field=field
            )
        most = self.settings.max_inputs
        if count > most:
            raise Refusal(
                Reason.INVALID,
                f"{field} may have at most {most} entries: got {count}; send several requests",
                field=field,
            )

    async def loaded(self, waiter: Waiter, model: ServedModel) -> Loaded:
        """Return a model ready to run, loading it if needed.

        A request that waits for it has a place in the queue, and ends with its client or its time; loading
        goes on for the next one.

        Raises:
            Refusal: it cannot be loaded, or not in time, or the queue is full.
            HungUp: the client went away.
        """
        if model.loaded is not None:
            return model.loaded
        loading = self.models.begin_to_load(model)
        late = Refusal(
            Reason.UNAVAILABLE,
            f"the model {model.name} is still being loaded; try again in {_RETRY_LOADING} s",
            retry_after=_RETRY_LOADING,
        )
        # Until the caller holds it, too: another model may need the room as soon as this one is loaded.
        with model.held():
            await waiter.await_job(self.scheduler, self.scheduler.submit_wait(loading), late)
        return loading.result()

    async def embedder(
        self, waiter: Waiter, name: str | None
    ) -> tuple[ServedModel, LoadedEmbedder]:
        """Return an embedding model by name, loaded.

        Raises:
            Refusal: there is no such model, or it cannot be loaded.
        """
        model, loaded = await self._model(waiter, name, "embed")
        assert isinstance(loaded, LoadedEmbedder)
        return model, loaded

    async def _model(
        self, waiter: Waiter, name: str | None, task: Task
    ) -> tuple[ServedModel, Loaded]:
        while True:
            model = self.models.find(name, task)
            loaded = await self.loaded(waiter, model)
            if model.task == task:  # loading tells what an unknown folder is
                return model, loaded

    async def reranker(self, waiter: Waiter, name: str | None) -> tuple[ServedModel, Loaded]:
        """Return a reranking model by name, loaded.

        Raises:
            Refusal: there is no such model, or it cannot be loaded.
        """
        return await self._model(waiter, name, "rerank")

    async def embed(
        self,
        waiter: Waiter,
        inputs: Sequence[Input],
        *,
        model: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        role: Literal["query", "document"] | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        output: Output = "float32",
        truncate: Truncate = "end",
        field: str = "input",
    ) -> Matrix | ShortMatrix:
        """Turn a request's inputs into vectors, the same bits as `Embedder.encode`.

        Args:
            waiter: waits for the request.
            inputs: N texts or lists of token ids. Ids get no prompt and no special tokens.
            model: name of the model, or None for the default.
            prompt: words before every text, as of `Embedder.encode`.
            prompt_name: name of one of the model's prompts, as of `Embedder.encode`.
            role: "query" or "document" for the words before every text of `Embedder.encode_query` or
                `Embedder.encode_document`.
            normalize: as of `Embedder.encode`.
            dimensions: as `truncate_dim` of `Embedder.encode`.
            output: as of `Embedder.encode`.
            truncate: what to do with a text that is too long.
            field: the body's name for the inputs, for messages.

        Returns:
            (N, D), of the dtype that `output` names.

        Raises:
            Refusal: an argument is outside its rule, the queue is full, or the model is not to be had.
            HungUp: the client went away.
        """
        _, loaded = await self.embedder(waiter, model)
        job = await self.pool(
            waiter,
            inputs,
            model=model,
            prompt=prompt,
            prompt_name=prompt_name,
            role=role,
            dimensions=dimensions,
            truncate=truncate,
            field=field,
        )
        return finish_vectors(
            loaded.model, job, normalize=normalize, truncate_dim=dimensions, output=output
        )

    async def pool(
        self,
        waiter: Waiter,
        inputs: Sequence[Input],
        *,
        model: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        role: Literal["query", "document"] | None = None,
        dimensions: int | None = None,
        truncate: Truncate = "end",
        longest: int | None = None,
        field: str = "input",
        dimensions_field: str = "dimensions",
    ) -> NDArray[np.float32]:
        """Turn a request's inputs into pooled vectors, for `quaver.embedder.finish_vectors`.

        Arguments and errors are those of `embed`; `longest` is the maximum number of tokens in a text, and
        `dimensions_field` the body's name for the dimensions.

        Returns:
            float32 (N, O).
        """
        self.check_count(len(inputs), field)
        served, loaded = await self.embedder(waiter, model)
        embedder = loaded.model
        waiter.model = served.name
        _check_dimensions(served.name, embedder, dimensions, dimensions_field)
        least = loaded.tokenizer.special_tokens + 1
        if longest is not None and longest < least:
            raise Refusal(
                Reason.INVALID,
                f"max_tokens must be at least {least}: got {longest}",
                field="max_tokens",
            )
        before = _words_before(embedder, prompt=prompt, prompt_name=prompt_name, role=role)
        length = Length(longest, truncate)
        with served.held():
            items = await _items(embedder, inputs, before, length, field, served.name)
            job = await self._run(waiter, loaded.lane, items, field=field)
        rows: NDArray[np.float32] = job.rows
        return rows

    async def embed_tokens(
        self,
        waiter: Waiter,
        inputs: Sequence[Input],
        *,
        prompt_name: str | None = None,
        truncate: Truncate = "end",
        field: str = "inputs",
    ) -> list[NDArray[np.float32]]:
        """Return a vector for each token of a request's inputs, special tokens included; not normalized.

        Arguments and errors are those of `embed`; the first model that is not given to rerank answers.
        A multi-vector model gives the vectors that it compares, see `embed_multi_vectors`.

        Returns:
            for each input float32 (n, H), of its n tokens.
        """
        self.check_count(len(inputs), field)
        several = await self._first_of_tokens(waiter)
        if several is not None:
            if prompt_name not in (None, "query", "document"):
                raise _unknown_prompt(prompt_name, ("query", "document"))
            side: Side = "query" if prompt_name == "query" else "document"
            return await self.embed_multi_vectors(
                waiter, inputs, side, model=several.name, truncate=truncate, field=field
            )
        served, loaded = await self.embedder(waiter, None)
        embedder = loaded.model
        waiter.model = served.name
        if isinstance(embedder.spec, EncoderSpec) and embedder.spec.head:
            raise Refusal(
                Reason.WRONG_MODEL,
                f"{served.name} has Dense modules after its pooling, so its tokens have no vectors "
                "that could be compared with those of texts",
            )
        before = _words_before(embedder, prompt=None, prompt_name=prompt_name)
        width = embedder.spec.outputs // len(embedder.spec.pooling.split("+"))
        with served.held():
            items = await _items(
                embedder, inputs, before, Length(truncate=truncate), field, served.name
            )
            _check_numbers(waiter, loaded.parts, items, width, field)
            job = await self._run(waiter, loaded.parts, items, field=field)
        rows: list[NDArray[np.float32]] = job.rows
        # With several poolings one token's vector is there once for each.
        return [np.ascontiguousarray(each[:, :width]) for each in rows]

    async def _first_of_tokens(self, waiter: Waiter) -> ServedModel | None:
        """Return the first model with vectors of tokens if it is a multi-vector model."""
        for model in self.models.all:
            if model.task in _WITHOUT_TOKENS:
                continue
            await self.loaded(waiter, model)
            if model.task == "multi-vector":
                return model
            if model.task == "embed":
                return None
        return None

    async def embed_multi_vectors(
        self,
        waiter: Waiter,
        inputs: Sequence[Input],
        side: Side,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate = "end",
        field: str = "input",
    ) -> list[NDArray[np.float32]]:
        """Turn queries or documents into the vectors that a multi-vector model compares.

        Arguments and errors are those of `embed`; see `MultiVectorEncoder.encode_query` and
        `encode_document`.

        Args:
            waiter: waits for the request.
            inputs: N texts.
            side: "query" or "document".
            model: name of the model, or None for the first of its kind.
            dimensions: the size of the vectors, which cannot be shortened.
            truncate: what to do with a text that is too long.
            field: the body's name for the inputs, for messages.

        Returns:
            for each input float32 (n, D).
        """
        self.check_count(len(inputs), field)
        served, loaded = await self._model(waiter, model, "multi-vector")
        assert isinstance(loaded, LoadedMultiVector)
        waiter.model = served.name
        own = loaded.model.dimension
        if dimensions not in (None, own):
            raise Refusal(
                Reason.INVALID,
                f"vectors of {served.name} have {own} dimensions and cannot be shortened: got {dimensions}",
                field="dimensions",
            )
        with served.held():
            return await self._multi_vectors(
                waiter, loaded, inputs, side, Length(truncate=truncate), field
            )

    async def _multi_vectors(
        self,
        waiter: Waiter,
        loaded: LoadedMultiVector,
        inputs: Sequence[Input],
        side: Side,
        length: Length,
        field: str,
    ) -> list[NDArray[np.float32]]:
        encoder = loaded.model
        if side == "query":
            lane, before = loaded.queries, query_prompt(encoder.prompts)
        else:
            lane, before = loaded.documents, document_prompt(encoder.prompts)
        items: list[Item] = []
        for i, each in enumerate(inputs):
            if not isinstance(each, str):
                raise Refusal(
                    Reason.INVALID,
                    f"{waiter.model} puts tokens of its own before texts, so it takes texts: {field}[{i}] "
                    "has token ids",
                    field=field,
                )
            items.append(_cut(with_prompt(before, each), length))
        _check_numbers(waiter, lane, items, encoder.dimension, field)
        rows: list[NDArray[np.float32]] = (await self._run(waiter, lane, items, field=field)).rows
        return rows

    async def embed_sparse(
        self,
        waiter: Waiter,
        inputs: Sequence[Input],
        *,
        model: str | None = None,
        prompt_name: str | None = None,
        role: Literal["query"] | None = None,
        truncate: Truncate = "end",
        field: str = "inputs",
    ) -> list[NDArray[Any]]:
        """Turn a request's inputs into sparse vectors, the same bits as `SparseEncoder.encode`.

        Arguments and errors are those of `embed`. With the name "query" a model whose queries are
        weighed by a table uses it, as `SparseEncoder.encode_query` does; with the role "query" every
        model does what that does.

        Returns:
            for each input the words with a weight, of the dtype `quaver.serve.loaded.ENTRY`.
        """
        self.check_count(len(inputs), field)
        served, loaded = await self._model(waiter, model, "sparse")
        assert isinstance(loaded, LoadedSparse)
        encoder, lane = loaded.model, loaded.lane
        waiter.model = served.name
        if "query" in (prompt_name, role) and encoder.queries_without_model:
            lane = loaded.queries
            before = query_prompt(encoder.prompts)
        else:
            before = _words_before(encoder, prompt=None, prompt_name=prompt_name, role=role)
        with served.held():
            items = await _items(
                encoder, inputs, before, Length(truncate=truncate), field, served.name
            )
            waiter.hold(len(items) * _WORDS_OF_TEXT * _BYTES_OF_WORD)
            rows: list[NDArray[Any]] = (await self._run(waiter, lane, items, field=field)).rows
        numbers = sum(map(len, rows))
        if numbers > _MOST_NUMBERS:
            raise _too_many_numbers(f"{len(inputs)} inputs have {numbers}", field)
        waiter.hold(numbers * _BYTES_OF_WORD)
        return rows

    async def pool_together(
        self,
        waiter: Waiter,
        texts: Sequence[str],
        *,
        model: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        role: Literal["query", "document"] | None = None,
        dimensions: int | None = None,
        truncate: Truncate = "end",
        field: str = "input",
    ) -> NDArray[np.float32]:
        """Turn texts that follow each other in a document into pooled vectors that know the others.

        Arguments and errors are those of `embed`; see `Embedder.encode_spans`.

        Returns:
            float32 (N, O), for `quaver.embedder.finish_vectors`.
        """
        self.check_count(len(texts), field)
        served, loaded = await self.embedder(waiter, model)
        embedder = loaded.model
        waiter.model = served.name
        _check_dimensions(served.name, embedder, dimensions)
        characters = sum(map(len, texts))
        if characters > _MOST_CHARACTERS:
            raise Refusal(
                Reason.INVALID,
                f"a document may have {_MOST_CHARACTERS} characters: got {characters}",
                field=field,
            )
        before = _words_before(embedder, prompt=prompt, prompt_name=prompt_name, role=role)
        waiter.hold(len(texts) * embedder.spec.outputs * _BYTES_OF_NUMBER)
        with served.held():
            try:
                ((windows, cut),) = await self._aside(
                    waiter,
                    [partial(windows_of_texts, embedder, texts, before)],
                    sum(map(about_tokens_of_text, texts)),
                )
            except Refusal as refusal:
                raise Refusal(refusal.reason, refusal.message, field=field) from refusal
            if cut and truncate == "never":
                raise Refusal(
                    Reason.INVALID,
                    f"`{field}` must have at most {embedder.max_seq_length} tokens in an entry when "
                    f"truncate is off: {cut} have more",
                    field=field,
                )
            items = [Spans(each.ids.tobytes(), each.parts.tobytes()) for each in windows]
            rows = (await self._run(waiter, loaded.parts, items, field=field)).rows
        pooled = np.empty((len(texts), embedder.spec.outputs), np.float32)
        pooled[[place for each in windows for place in each.places]] = np.concatenate(rows)
        return pooled

    async def score(
        self,
        waiter: Waiter,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        activation: ScoreActivation | None = None,
        truncate: Truncate = "end",
        longest: int | None = None,
        field: str = "documents",
    ) -> Scores:
        """Score documents for a query, as `Ranker.rank` does.

        Args:
            waiter: waits for the request.
            query: the query.
            documents: N documents.
            model: name of the model, or None for the default.
            activation: what a cross-encoder applies to its logits: "sigmoid", "identity", or None for the
                model's own. Similarities stay as they are.
            truncate: what to do with a document that is too long.
            longest: maximum number of tokens in a document, special tokens and the query's not counted.
            field: the body's name for the documents, for messages.

        Returns:
            the model, the scores, and their order.

        Raises:
            Refusal: an argument is outside its rule, the queue is full, or the model is not to be had.
            HungUp: the client went away.
        """
        self.check_count(len(documents), field)
        served, loaded = await self.reranker(waiter, model)
        waiter.model = served.name
        with served.held():
            if isinstance(loaded, LoadedCrossEncoder):
                length = Length(longest, truncate)
                plain = await self._pair_logits(waiter, loaded, query, documents, length, field)
                scores = activated(loaded.model, plain, activation)
            else:  # a document is a text of its own, with special tokens
                most = None if longest is None else longest + loaded.tokenizer.special_tokens
                length = Length(most, truncate)
                if isinstance(loaded, LoadedMultiVector):
                    plain = await self._interact(waiter, loaded, query, documents, length, field)
                else:
                    assert isinstance(loaded, LoadedEmbedder)
                    plain = await self._compare(waiter, loaded, query, documents, length, field)
                scores = plain
        # Sorted before the sigmoid, which rounds large scores to the same number.
        return Scores(served, scores, np.argsort(-plain, kind="stable"))

    async def _pair_logits(
        self,
        waiter: Waiter,
        loaded: LoadedCrossEncoder,
        query: str,
        documents: Sequence[str],
        length: Length,
        field: str,
    ) -> NDArray[np.float32]:
        """Return the logits of the query with each document, as `CrossEncoder.rank` sorts by."""
        if loaded.model.labels != 1:
            raise Refusal(
                Reason.WRONG_MODEL,
                f"{waiter.model} has {loaded.model.labels} labels: ask for /predict",
            )
        query = with_prompt(_words_before(loaded.model, prompt=None, prompt_name=None), query)
        pairs = [Pair(query, document, length) for document in documents]
        job = await self._run(waiter, loaded.lane, pairs, field=field)
        logits: NDArray[np.float32] = job.rows[:, 0]
        return logits

    async def _compare(
        self,
        waiter: Waiter,
        loaded: LoadedEmbedder,
        query: str,
        documents: Sequence[str],
        length: Length,
        field: str,
    ) -> NDArray[np.float32]:
        """Return the similarities of vectors, as `BiEncoderRanker` does."""
        embedder = loaded.model
        before = embedder.document_prompt
        items: list[Item] = [with_prompt(query_prompt(embedder.prompts), query)]
        items += await _items(embedder, documents, before, length, field, waiter.model)
        job = await self._run(waiter, loaded.lane, items, field=field, first=1)
        vectors = finish_vectors(embedder, job.rows)
        return embedder.similarity(vectors[0], vectors[1:])

    async def _interact(
        self,
        waiter: Waiter,
        loaded: LoadedMultiVector,
        query: str,
        documents: Sequence[str],
        length: Length,
        field: str,
    ) -> NDArray[np.float32]:
        """Return the scores of MaxSim, as `MultiVectorEncoder.similarity` does."""
        encoder = loaded.model
        asked = await self._multi_vectors(waiter, loaded, [query], "query", Length(), "query")
        found = await self._multi_vectors(waiter, loaded, documents, "document", length, field)
        vectors = TokenVectors(np.concatenate(found), np.cumsum([0, *map(len, found)]))
        scores: NDArray[np.float32]
        (scores,) = await self._aside(
            waiter, [lambda: encoder.similarity(asked[0], vectors)], len(vectors.vectors)
        )
        return scores

    async def classify(
        self,
        waiter: Waiter,
        inputs: Sequence[str | tuple[str, str]],
        *,
        truncate: Truncate = "end",
    ) -> tuple[LoadedCrossEncoder, NDArray[np.float32]]:
        """Return the default classifier's logits, float32 (N, labels), for texts and pairs."""
        self.check_count(len(inputs), "inputs")
        served, loaded = await self.reranker(waiter, None)
        waiter.model = served.name
        if not isinstance(loaded, LoadedCrossEncoder):
            raise Refusal(
                Reason.WRONG_MODEL, f"{served.name} has no labels: it is an embedding model"
            )
        length = Length(truncate=truncate)
        items = [
            _cut(each, length) if isinstance(each, str) else Pair(*each, length) for each in inputs
        ]
        with served.held():
            job = await self._run(waiter, loaded.lane, items, field="inputs")
        return loaded, job.rows

    async def similarities(
        self,
        waiter: Waiter,
        source: str,
        sentences: Sequence[str],
        *,
        prompt_name: str | None,
        truncate: Truncate,
    ) -> NDArray[np.float32]:
        """Compare one text with others, float32 (N,)."""
        self.check_count(len(sentences), "sentences")
        found = await self.embed(
            waiter,
            [source, *sentences],
            prompt_name=prompt_name,
            truncate=truncate,
            field="inputs",
        )
        return similarity(found[0], found[1:], metric="cosine")

    async def pieces(
        self,
        waiter: Waiter,
        texts: Sequence[str],
        *,
        prompt_name: str | None,
        special_tokens: bool,
        form: Callable[[list[dict[str, Any]]], Form],
        field: str = "inputs",
    ) -> list[Form]:
        """Show the tokens of texts, as the default model's tokenizer makes them.

        Args:
            waiter: waits for the request.
            texts: the texts.
            prompt_name: name of the prompt to put before them.
            special_tokens: add the special tokens.
            form: turns the tokens of a text into what is returned of it, off the event loop.
            field: the body's name for the texts, for messages.

        Returns:
            what `form` makes of each text.
        """
        self.check_count(len(texts), field)
        self._check_size(sum(map(len, texts)), "characters", field)
        model = self.models.all[0]
        loaded = await self.loaded(waiter, model)
        before = ""
        if isinstance(loaded, (LoadedEmbedder, LoadedSparse)):
            before = _words_before(loaded.model, prompt=None, prompt_name=prompt_name)
        tokenizer = loaded.tokenizer

        def show(text: str) -> Form:
            found = tokenizer.pieces(with_prompt(before, text), special_tokens=special_tokens)
            return form(
                [
                    {
                        "id": piece.id,
                        "text": piece.token,
                        "special": piece.special,
                        "start": None if piece.special else piece.start,
                        "stop": None if piece.special else piece.stop,
                    }
                    for piece in found
                ]
            )

        steps = [partial(show, text) for text in texts]
        count = sum(map(about_tokens_of_text, texts))
        waiter.hold(count * _BYTES_OF_PIECE)
        with model.held():
            return await self._aside(waiter, steps, count)

    async def decode(
        self,
        waiter: Waiter,
        texts: Sequence[Sequence[int]],
        *,
        skip_special_tokens: bool,
        form: Callable[[str], Form],
        field: str = "ids",
    ) -> list[Form]:
        """Turn the token ids of texts into text, as the default model's tokenizer does.

        Args:
            waiter: waits for the request.
            texts: the ids of each text.
            skip_special_tokens: leave the special tokens out.
            form: turns a text into what is returned of it, off the event loop.
            field: the body's name for the ids, for messages.

        Returns:
            what `form` makes of each text.
        """
        self.check_count(len(texts), field)
        count = sum(map(len, texts))
        self._check_size(count, "token ids", field)
        model = self.models.all[0]
        tokenizer = (await self.loaded(waiter, model)).tokenizer

        def show(ids: Sequence[int]) -> Form:
            return form(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

        waiter.hold(count * _BYTES_OF_ID)
        with model.held():
            return await self._aside(waiter, [partial(show, ids) for ids in texts], count)

    def _check_size(self, count: int, what: str, field: str) -> None:
        most = self.settings.max_characters
        if count > most:
            raise Refusal(
                Reason.INVALID,
                f"`{field}` may have at most {most} {what} together: got {count}; send several requests",
                field=field,
            )

    async def _aside(
        self, waiter: Waiter, steps: Sequence[Callable[[], Any]], tokens: int
    ) -> list[Any]:
        """Compute what is for neither tokenizer nor engine; see `Scheduler.submit_aside`."""
        job = self.scheduler.submit_aside(steps, tokens=tokens)
        await waiter.await_job(self.scheduler, job)
        rows: list[Any] = job.rows
        return rows

    async def _run(
        self, waiter: Waiter, lane: Lane, items: Sequence[Item], *, field: str, first: int = 0
    ) -> Job:
        """Compute items, of which those from `first` on are the entries of a body's field."""
        if lane.width is not None:
            waiter.hold(len(items) * lane.width * _BYTES_OF_NUMBER)
        # Requests that arrived together get this far, too, before this one asks whether it is alone.
        self._arriving += 1
        await asyncio.sleep(0)
        alone = self._arriving == 1
        self._arriving -= 1
        job = self.scheduler.submit(lane, items, interactive=waiter.interactive, alone=alone)
        try:
            await waiter.wait(self.scheduler, job)
        except TooLong as error:
            raise Refusal(
                Reason.INVALID,
                f"`{field}` must have at most {error.most} tokens when truncate is off. "
                f"Given: more than {error.most} tokens in entry {error.row - first}",
                field=field,
            ) from error
        return job


def _words_before(
    model: Embedder | CrossEncoder | SparseEncoder,
    *,
    prompt: str | None,
    prompt_name: str | None,
    role: Literal["query", "document"] | None = None,
) -> str:
    if role == "query":
        return query_prompt(model.prompts)
    if role == "document":
        return document_prompt(model.prompts)
    try:
        return choose_prompt(
            model.prompts,
            prompt_name=prompt_name,
            prompt=prompt,
            default=model.default_prompt_name,
            model=model.name,
        )
    except InputError as error:
        raise _unknown_prompt(prompt_name, model.prompts) from error


def _unknown_prompt(name: str | None, prompts: Iterable[str]) -> Refusal:
    # A client of TEI reads the names from these words.
    listed = ", ".join(prompts)
    have = f"Available prompts: [{listed}]" if listed else "The model has no prompts."
    return Refusal(
        Reason.INVALID,
        f"no prompt is named {name!r:.64}. {have}",
        field="prompt_name",
    )


def _check_numbers(
    waiter: Waiter, lane: Lane, items: Sequence[Item], width: int, field: str
) -> None:
    """Refuse a request whose answer, with a vector for each token, would be too large; or hold its bytes."""
    numbers = about_tokens(lane, items) * width
    if numbers > _MOST_NUMBERS:
        raise _too_many_numbers(
            f"{width} for each token of {len(items)} inputs are about {numbers}", field
        )
    waiter.hold(numbers * _BYTES_OF_NUMBER)


def _too_many_numbers(found: str, field: str) -> Refusal:
    return Refusal(
        Reason.INVALID,
        f"a request may ask for about {_MOST_NUMBERS} numbers: {found}; send several requests",
        field=field,
    )


def _cut(text: str, length: Length) -> Item:
    return text if length == Length() else Cut(text, length)


async def _items(
    model: Embedder | SparseEncoder,
    inputs: Sequence[Input],
    before: str,
    length: Length,
    field: str,
    served: str,
) -> list[Item]:
    """Return the inputs of a request as they are computed; other requests go on in between."""
    items = []
    read = 0
    for i, each in enumerate(inputs):
        if read > _IDS_AT_ONCE:
            read = 0
            await asyncio.sleep(0)
        items.append(_item(model, each, before, length, f"{field}[{i}]", served=served))
        read += _IDS_OF_TEXT if isinstance(each, str) else len(each)
    return items


def _item(
    model: Embedder | SparseEncoder,
    given: Input,
    before: str,
    length: Length,
    name: str,
    *,
    served: str,
) -> Item:
    if isinstance(given, str):
        return _cut(with_prompt(before, given), length)
    if not given:
        raise Refusal(
            Reason.EMPTY, f"{name} must have at least one token id: got none", field="input"
        )
    words = model.dimension if isinstance(model, SparseEncoder) else model.spec.vocab_size
    highest = words - 1
    most = min(model.max_seq_length, length.most or model.max_seq_length)
    ids = np.frombuffer(array("i", given), np.int32)  # bodies have none of more bits
    if ids.min() < 0 or ids.max() > highest:
        raise Refusal(
            Reason.INVALID,
            f"token ids of {served} go from 0 to {highest}: {name} has others; were they made "
            "with another model's tokenizer?",
            field="input",
        )
    if len(ids) > most:
        if length.truncate == "never":
            raise Refusal(
                Reason.INVALID,
                f"{name} may have at most {most} token ids: got {len(given)}",
                field="input",
            )
        ids = ids[-most:] if length.truncate == "start" else ids[:most]
    return ids.tobytes()


def _check_dimensions(
    name: str, embedder: Embedder, dimensions: int | None, field: str = "dimensions"
) -> None:
    most = embedder.spec.outputs
    if dimensions is not None and not 1 <= dimensions <= most:
        raise Refusal(
            Reason.INVALID,
            f"{field} must be from 1 to {most}, the size of {name}'s vectors: got {dimensions}",
            field=field,
        )
