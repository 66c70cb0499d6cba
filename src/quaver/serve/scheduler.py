"""Requests of all clients flow through one tokenizer thread and one engine thread, in ragged batches.

A request becomes a `Job` with one `Unit` of work for each distinct input. The tokenizer thread turns
units into token ids, many at a time; the engine thread joins tokenized units of any requests into a
batch of at most `Limits.batch_tokens` tokens, or fewer if those would take longer than
`Limits.batch_seconds`. No request waits for a timer: what has arrived when the engine becomes free
is the next batch. A short request that finds nothing else to do is computed on the event loop at
once: waking another thread and being woken by it would cost a tenth of its time.

Small requests are interactive, large ones bulk. Interactive work goes first, except that bulk work
gets a fifth of the engine's time while both wait. Within a class requests are computed whole, in the
order in which they would finish if all that wait shared the engine evenly: a request of 2,000 inputs
does not hold up another one of 50, and none finishes later than if they did share it (E. Friedman and
S. Henderson, Fairness and efficiency in web server protocols, SIGMETRICS 2003).

An input that is in flight already is not computed again: the second request waits for the first
one's unit. The engine gives a text the same bits in any batch, so this changes no answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from quaver.errors import EngineError, InputError, QuaverError
from quaver.models import TokenBatch
from quaver.serve.refusal import HungUp, Reason, Refusal

INTERACTIVE_TOKENS = 512
"""Maximum number of tokens, as estimated, of a request that counts as interactive if it does not say itself."""

_READ = 8
"""The same for tokens before texts are cut: a tokenizer may read all of a text to keep its start."""

_TEXTS_AT_ONCE = 64
"""Maximum number of inputs the tokenizer thread takes at once; bounds how long an interactive one waits for it."""

_CHARACTERS_AT_ONCE = 2**18
"""Maximum number of characters of those inputs, unless one alone has more."""

_ON_LOOP_SECONDS = 0.005
"""Maximum time, as far as the last batches tell, of a request that is computed on the event loop."""

_BULK_SHARE = 0.2
"""Bulk work's share of the engine's time while interactive work waits, too."""

_KEPT_FREE = 8
"""One part in so many of each bound is for interactive requests alone."""

_CACHE_OVERHEAD = 250
"""Bytes of a cached row's key, its array object and its place in the cache, besides its numbers."""


Truncate = Literal["start", "end", "never"]
"""What is cut off an input that is too long; "never" refuses it."""


class Length(NamedTuple):
    """How many tokens an input may have, and what is done with one that has more.

    Attributes:
        most: maximum number of tokens, with special tokens in a text, of the document alone in a pair; None for
            as many as the model takes, which is never exceeded.
        truncate: what is cut off, or "never" to refuse the input with `TooLong`.
    """

    most: int | None = None
    truncate: Truncate = "end"


class Pair(NamedTuple):
    """A query with a document, to be read together.

    Attributes:
        query: the first text; it is never cut.
        document: the second text.
        length: how long the document may be.
    """

    query: str
    document: str
    length: Length = Length()


class Cut(NamedTuple):
    """A text that is cut otherwise than by default.

    Attributes:
        text: the text.
        length: how long it may be.
    """

    text: str
    length: Length


class TooLong(Exception):  # noqa: N818 - the client's mistake
    """An input that may not be cut has too many tokens.

    Attributes:
        most: the maximum number of tokens.
        row: its place among the job's inputs.
    """

    def __init__(self, most: int, row: int = 0) -> None:
        """Refuse an input of more than `most` tokens."""
        super().__init__(f"more than {most} tokens")
        self.most = most
        self.row = row


class Spans(NamedTuple):
    """The token ids of a text, of which only parts get a vector.

    Attributes:
        ids: int32 (n,), as bytes.
        spans: int32 (s, 2), the first token of each part and the one after its last, as bytes.
    """

    ids: bytes
    spans: bytes


Item = str | Cut | Pair | Spans | bytes
"""What can be computed: a text, a pair, or the token ids of a text as the bytes of an int32 array.

No two kinds are ever equal, so an item is a key.
"""


class Tokens(NamedTuple):
    """One input's tokens.

    Attributes:
        ids: int32 (n,).
        types: int32 (n,), or None if all are 0.
        spans: int32 (s, 2), the parts that get a vector, or None for the whole.
        attended: how many of the tokens others attend to, as `TokenBatch.keys`; None for all.
        split: how many of them depend on a query alone, as `TokenBatch.splits`; None where texts share nothing.
        unpooled: how many tokens at the start are read and not pooled.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None
    spans: NDArray[np.int32] | None = None
    attended: int | None = None
    split: int | None = None
    unpooled: int = 0


@dataclass(frozen=True, kw_only=True)
class SpanBatch(TokenBatch):
    """The tokens of N texts, of which only parts get a vector.

    Attributes:
        spans: int32 (S, 2), the first token of each part and the one after its last, text by text,
            counted as `ids` is.
        counts: how many parts each text has.
    """

    spans: NDArray[np.int32]
    counts: Sequence[int]


@dataclass(frozen=True)
class Limits:
    """What the scheduler accepts, and how it cuts the work.

    Attributes:
        requests: maximum number of requests accepted and not yet answered.
        inputs: maximum number of inputs of those requests.
        tokens: maximum number of tokens of those requests, as estimated from their characters.
        seconds: longest time that what goes before a request may take, as far as the last batches tell.
        batch_tokens: maximum number of tokens in a batch.
        batch_seconds: how long a batch may take, as far as the last ones tell.
        cache_bytes: size of the cache of results, 0 for none.
    """

    requests: int = 512
    inputs: int = 16384
    tokens: int = 2_000_000
    seconds: float = 30.0
    batch_tokens: int = 16384
    batch_seconds: float = 0.04
    cache_bytes: int = 0


class Lane:
    """One model's way through the scheduler.

    Attributes:
        key: says which results are the same; no two models share one.
        tokenize: turns inputs into tokens, in their order; raises InputError for a bad input.
        compute: turns a batch into rows, float32 (N, width); or into N results of any kind.
        width: numbers in a row; None where results differ in size.
        longest: maximum number of tokens in an input.
        cached: whether results go into the cache.
        rate: tokens a second, as the last batches tell; 0 before the first.
        jobs: requests in flight; the model must not be unloaded while there are any.
    """

    def __init__(
        self,
        key: str,
        tokenize: Callable[[Sequence[Item]], list[Tokens]],
        compute: Callable[[TokenBatch], Any],
        *,
        width: int | None,
        longest: int,
        cached: bool = True,
    ) -> None:
        """Describe a model; see the class."""
        self.key = key
        self.tokenize = tokenize
        self.compute = compute
        self.width = width
        self.longest = longest
        self.cached = cached
        self.rate = 0.0
        self.jobs = 0


class _State(Enum):
    NEW = 0
    TOKENIZING = 1
    TOKENIZED = 2
    COMPUTING = 3
    DONE = 4


class Unit:
    """One distinct input in flight.

    Attributes:
        item: the input.
        state: how far it is.
        tokens: its tokens, once tokenized.
        waiters: who needs the row: jobs, and the row's place in their results.
        owners: the jobs in whose turn it may be taken.
    """

    __slots__ = ("item", "owners", "state", "tokens", "waiters")

    def __init__(self, item: Item) -> None:
        """Wait for the tokenizer."""
        self.item = item
        self.state = _State.NEW
        self.tokens: Tokens | None = None
        self.waiters: list[tuple[Job, int]] = []
        self.owners: list[Job] = []

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return any(not job.over for job, _ in self.waiters)


class Job:
    """One accepted request.

    Attributes:
        lane: the model it asked for.
        rows: float32 (N, width), the results, complete once `future` is done; a list of N where the
            lane has no width.
        interactive: whether it goes before bulk work.
        future: done with None, or with the request's error.
        over: whether nobody waits for it any more: answered, failed or canceled.
        left: tokens of its inputs that have no result yet, as estimated.
        progressed: when the last of its results came, by `time.monotonic`; long ago before the first.
        lengths: int32 (N,), the tokens of each input.
        due: the tokens that each job of its class would have got when this one finished, if all shared
            the engine evenly.
        arrived: when it was accepted, by `time.perf_counter`.
        tokenize_seconds: time of the tokenizer thread in which its inputs took part.
        compute_seconds: the same of the engine thread.
    """

    __slots__ = (
        "arrived",
        "compute_seconds",
        "due",
        "future",
        "interactive",
        "lane",
        "left",
        "lengths",
        "loop",
        "missing",
        "over",
        "progressed",
        "queued",
        "rows",
        "tokenize_seconds",
        "units",
    )

    def __init__(
        self, lane: Lane, count: int, *, interactive: bool, estimate: int, due: float
    ) -> None:
        """Accept a request of `count` inputs, of about `estimate` tokens."""
        self.lane = lane
        sized = lane.width is not None
        self.rows: Any = np.empty((count, lane.width), np.float32) if sized else [None] * count
        self.lengths = np.zeros(count, np.int32)
        self.interactive = interactive
        self.left = estimate
        self.progressed = -math.inf
        self.due = due
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.missing = count
        self.over = False
        self.arrived = time.perf_counter()
        self.tokenize_seconds = 0.0
        self.compute_seconds = 0.0
        # For each stage the units to take in this job's turn, and whether it is in the stage's line.
        self.units: tuple[deque[Unit], deque[Unit]] = (deque(), deque())
        self.queued = [False, False]


_TOKENIZE, _COMPUTE = 0, 1
# Of each stage the state of a unit before and while it is in it.
_STATES = ((_State.NEW, _State.TOKENIZING), (_State.TOKENIZED, _State.COMPUTING))


class _Line:
    """Jobs with units for one stage, the next to finish first; one line for each class of work.

    Jobs of one lane share a batch, so each lane has its own order, and the lanes take turns.
    """

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.lanes: deque[Lane] = deque()
        self.jobs: dict[Lane, list[tuple[float, int, Job]]] = {}  # heaps, by when they are due
        self.added = 0

    def __bool__(self) -> bool:
        return bool(self.lanes)

    def __len__(self) -> int:
        return sum(map(len, self.jobs.values()))

    def add(self, job: Job) -> None:
        if job.queued[self.stage]:
            return
        job.queued[self.stage] = True
        if job.lane not in self.jobs:
            self.jobs[job.lane] = []
            self.lanes.append(job.lane)
        self.added += 1
        heapq.heappush(self.jobs[job.lane], (job.due, self.added, job))

    def take(
        self, fits: Callable[[Unit], bool], drop: Callable[[Lane, Unit], None]
    ) -> tuple[Lane, list[Unit]] | None:
        """Take units of one lane, all of one job after another, while they fit."""
        state, taken_state = _STATES[self.stage]
        while self.lanes:
            lane = self.lanes[0]
            taken: list[Unit] = []
            jobs, full = self.jobs[lane], False
            while jobs and not full:
                job = jobs[0][2]
                units = job.units[self.stage]
                while units and not full:
                    unit = units[0]
                    if unit.state is not state:
                        units.popleft()  # taken in another job's turn
                    elif not unit.wanted:
                        units.popleft()
                        drop(lane, unit)
                    elif fits(unit):
                        units.popleft()
                        unit.state = taken_state  # another job may have it in its turn, too
                        taken.append(unit)
                    else:
                        full = True
                if not units:
                    heapq.heappop(jobs)
                    job.queued[self.stage] = False
            if jobs:
                self.lanes.rotate(-1)
            else:
                self.lanes.popleft()
                del self.jobs[lane]
            if taken:
                return lane, taken
        return None


@dataclass
class Counts:
    """What the scheduler has done, for metrics.

    Attributes:
        batches: batches computed.
        tokens: tokens computed.
        inputs: inputs computed.
        shared: inputs that waited for one in flight.
        cached: inputs that came from the cache.
        refused: requests refused because the queue was full.
        abandoned: requests whose client went away.
        last_batch_tokens: tokens of the last batch.
        last_batch_inputs: inputs of the last batch.
    """

    batches: int = 0
    tokens: int = 0
    inputs: int = 0
    shared: int = 0
    cached: int = 0
    refused: int = 0
    abandoned: int = 0
    last_batch_tokens: int = 0
    last_batch_inputs: int = 0


@dataclass
class _Waiting:
    """Accepted and not yet answered."""

    requests: int = 0
    inputs: int = 0
    tokens: int = 0


@dataclass
class _Backlog:
    """Tokens of one lane that wait, as estimated."""

    interactive: int = 0
    bulk: int = 0


class Scheduler:
    """Three threads, and the queues between them and the event loop; see the module."""

    def __init__(self, limits: Limits) -> None:
        """Start the threads.

        Args:
            limits: the bounds.
        """
        self.limits = limits
        self.counts = Counts()
        self.waiting = _Waiting()
        # The part of it that is bulk, and what waits for each lane.
        self._waiting_bulk = _Waiting()
        self._bulk: set[Job] = set()
        self._backlogs: dict[Lane, _Backlog] = {}
        self._lock = threading.Lock()
        self._to_tokenize = threading.Condition(self._lock)
        self._to_compute = threading.Condition(self._lock)
        # For each stage: interactive, bulk.
        self._lines = [(_Line(stage), _Line(stage)) for stage in (_TOKENIZE, _COMPUTE)]
        self._in_flight: dict[tuple[str, Item], Unit] = {}
        self._to_run_aside = threading.Condition(self._lock)
        self._aside: deque[tuple[Job, deque[Callable[[], Any]]]] = deque()
        # What is done aside, or waits for a model, has places in the queue as other requests have.
        self._aside_lane = Lane("aside", _no_tokens, _no_tokens, width=None, longest=2**31 - 1)
        # Rows, with the numbers of their tokens.
        self._cache: LRUCache[Hashable, tuple[NDArray[np.float32], int]] | None = None
        if limits.cache_bytes:
            self._cache = LRUCache(
                limits.cache_bytes, getsizeof=lambda kept: kept[0].nbytes + _CACHE_OVERHEAD
            )
        self._interactive_seconds = 0.0
        # Of each class the tokens that a job which always waited would have got by an even share.
        self._even_share = [0.0, 0.0]
        self._engine_idle = False
        self._closed = False
        self._threads = [
            threading.Thread(target=self._tokenize_all, name="quaver-serve-tokenizer", daemon=True),
            threading.Thread(target=self._compute_all, name="quaver-serve-engine", daemon=True),
            threading.Thread(target=self._run_all_aside, name="quaver-serve-aside", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether all threads run; if one died of a bug, no request is ever answered."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def cache_bytes(self) -> int:
        """The bytes of the cache of results."""
        return 0 if self._cache is None else int(self._cache.currsize)

    # --- On the event loop ------------------------------------------------------------------------
    def submit(
        self,
        lane: Lane,
        items: Sequence[Item],
        *,
        interactive: bool | None = None,
        alone: bool = False,
    ) -> Job:
        """Accept a request, or refuse it at once.

        Args:
            lane: the model.
            items: one or more inputs.
            interactive: whether the request goes before bulk work; None lets its size decide.
            alone: no other request is about to be submitted, so this one may be computed here and now
                if it is short and the engine is idle.

        Returns:
            the job; await `job.future`, then read `job.rows`.

        Raises:
            Refusal: the queue is full; `retry_after` says when it is likely to have room.
        """
        lengths = [_about(item) for item in items]
        estimate = sum(min(lane.longest, length) for length in lengths)
        if interactive is None:
            interactive = (
                estimate <= INTERACTIVE_TOKENS and sum(lengths) <= _READ * INTERACTIVE_TOKENS
            )
        job = self._accept(lane, len(items), estimate, interactive=interactive)
        on_loop = (
            alone
            and interactive
            and self._engine_idle
            and self.waiting.requests == 1
            and 0.0 < sum(lengths) <= lane.rate * _ON_LOOP_SECONDS
        )
        for start in range(0, len(items), 256):  # lets the threads in between
            with self._lock:
                self._enter(job, items[start : start + 256], start, wake=not on_loop)
        if job.missing == 0:  # all of it was in the cache
            self._settle([(job, None)], here=True)
        elif on_loop:
            self._compute_on_loop()
        return job

    def cancel(self, job: Job, error: BaseException | None = None) -> None:
        """Give up a job: its place is free at once, and what only it needed is not computed.

        Args:
            job: the job; one that is over is left alone.
            error: what `job.future` raises; None for `HungUp`.
        """
        if not job.over:
            self.counts.abandoned += error is None
            self._settle([(job, error or HungUp())])

    def submit_aside(self, steps: Sequence[Callable[[], Any]], *, tokens: int) -> Job:
        """Accept work for neither tokenizer nor engine, such as showing the tokens of texts.

        It has a place in the queue, and a thread of its own, which takes a step of each such request in
        turn. Once the job is over, no other step of it is taken.

        Args:
            steps: one or more calls; their results become `job.rows`.
            tokens: about how many tokens they read.

        Returns:
            the job.

        Raises:
            Refusal: the queue is full.
        """
        job = self._accept(self._aside_lane, len(steps), tokens, interactive=False)
        with self._lock:
            self._aside.append((job, deque(steps)))
            self._to_run_aside.notify()
        return job

    def submit_wait(self, awaited: asyncio.Future[Any]) -> Job:
        """Accept a request that waits for something else first, such as a model that loads.

        Args:
            awaited: what it waits for; giving up the job leaves it alone.

        Returns:
            a job without results that is over when `awaited` is, with its error.

        Raises:
            Refusal: the queue is full.
        """
        job = self._accept(self._aside_lane, 1, 0, interactive=False)

        def end(awaited: asyncio.Future[Any]) -> None:
            error = HungUp() if awaited.cancelled() else awaited.exception()
            self._settle([(job, error)], here=True)

        awaited.add_done_callback(end)
        return job

    def close(self) -> None:
        """End the threads; what is still queued is given up."""
        with self._lock:
            self._closed = True
            self._to_tokenize.notify_all()
            self._to_compute.notify_all()
            self._to_run_aside.notify_all()
        for thread in self._threads:
            thread.join()

    def _accept(self, lane: Lane, inputs: int, tokens: int, *, interactive: bool) -> Job:
        """Return a job that has a place in the queue.

        Raises:
            Refusal: the queue is full; the message names the bound that was met.
        """
        with self._lock:
            full = self._full(lane, inputs, tokens, interactive=interactive)
            if full is None:
                due = self._even_share[not interactive] + tokens
                job = Job(lane, inputs, interactive=interactive, estimate=tokens, due=due)
                lane.jobs += 1
                for waiting in self._waiting_of(job):
                    waiting.requests += 1
                    waiting.inputs += inputs
                self._backlogs.setdefault(lane, _Backlog())
                if not interactive:
                    self._bulk.add(job)
                self._count_tokens(job, tokens)
                return job
            self.counts.refused += 1
            if interactive:
                seconds = self._seconds_before(lane, tokens, interactive=True)
            else:  # until the queue is empty
                seconds = self._seconds(interactive=True) + self._seconds(interactive=False)
        again = max(1, min(60, math.ceil(seconds)))
        raise Refusal(
            Reason.OVERLOADED,
            f"the queue is full: {full}; try again in {again} s",
            retry_after=again,
        )

    def _full(self, lane: Lane, inputs: int, tokens: int, *, interactive: bool) -> str | None:
        """Say which bound a request would exceed; the lock is held."""
        waiting, bulk, limits = self.waiting, self._waiting_bulk, self.limits
        if not waiting.requests:  # an empty queue accepts whatever a single request may have
            return None
        for name, most, all_wait, bulk_waits, more in (
            ("requests", limits.requests, waiting.requests, bulk.requests, 1),
            ("inputs", limits.inputs, waiting.inputs, bulk.inputs, inputs),
            ("tokens", limits.tokens, waiting.tokens, bulk.tokens, tokens),
        ):
            # However much bulk work there is, it leaves room for queries.
            for_bulk = most - most // _KEPT_FREE
            if interactive:
                exceeded = all_wait - bulk_waits + min(bulk_waits, for_bulk) + more > most
                words = f"{most} {name} may wait"
            else:
                exceeded = bulk_waits + more > for_bulk or all_wait + more > most
                words = f"{most} {name} may wait, {for_bulk} of them of bulk requests"
            if exceeded:
                return f"{words}; {all_wait} do, and this request has {more}"
        seconds = self._seconds_before(lane, tokens, interactive=interactive)
        if seconds > limits.seconds:
            return (
                f"a request may wait about {limits.seconds:g} s for those before it, and this one "
                f"would wait {seconds:.0f} s"
            )
        return None

    def _seconds_before(self, lane: Lane, tokens: int, *, interactive: bool) -> float:
        """Estimate how long the engine computes what goes before a request; the lock is held.

        A lane whose rate is unknown counts nothing.
        """
        queries = self._seconds(interactive=True)
        if interactive:  # bulk work gets its share meanwhile, and the batch that is being computed
            bulk = self._seconds(interactive=False)
            share = queries * _BULK_SHARE / (1 - _BULK_SHARE)
            return queries + min(bulk, share + self.limits.batch_seconds)
        # Jobs are done in the order in which they would be if all shared evenly, so none gets more before
        # this one is done than this one.
        own = tokens / lane.rate if lane.rate else 0.0
        return queries + sum(
            min(own, job.left / job.lane.rate) for job in self._bulk if job.lane.rate
        )

    def _seconds(self, *, interactive: bool) -> float:
        """Estimate how long the engine computes what waits of a class; the lock is held."""
        return sum(
            (backlog.interactive if interactive else backlog.bulk) / lane.rate
            for lane, backlog in self._backlogs.items()
            if lane.rate
        )

    def _waiting_of(self, job: Job) -> tuple[_Waiting, ...]:
        return (self.waiting,) if job.interactive else (self.waiting, self._waiting_bulk)

    def _count_tokens(self, job: Job, tokens: int) -> None:
        """Count tokens that wait, or less than 0 that do not any more; the lock is held."""
        for waiting in self._waiting_of(job):
            waiting.tokens += tokens
        backlog = self._backlogs[job.lane]
        if job.interactive:
            backlog.interactive += tokens
        else:
            backlog.bulk += tokens

    def _have_row(self, job: Job, item: Item) -> None:
        """Count a result of a job that is not over; the lock is held."""
        tokens = min(job.lane.longest, _about(item))
        job.missing -= 1
        job.left -= tokens
        self._count_tokens(job, -tokens)

    def _compute_on_loop(self) -> None:
        """Do the work of both threads for a short request, while the engine thread sleeps."""
        with self._lock:
            self._engine_idle = False
            query = self._take_texts(self._lines[_TOKENIZE][0])
        if query is not None:
            self._tokenize(*query, wake=False)
        with self._lock:
            work, _ = self._take_batch(*self._lines[_COMPUTE])
        if work is not None:
            self._compute(*work, here=True)
        with self._lock:
            self._engine_idle = True
            if any(map(any, self._lines)):  # more than fitted into a batch
                self._to_compute.notify()

    def _enter(self, job: Job, items: Sequence[Item], start: int, *, wake: bool) -> None:
        """Find or make the unit of each item, and wake a thread for them; the lock is held."""
        lane = job.lane
        before = len(job.units[_TOKENIZE])
        for row, item in enumerate(items, start):
            if self._cache is not None and lane.cached:
                kept = self._cache.get(_digest(lane, item))
                if kept is not None:
                    job.rows[row], job.lengths[row] = kept
                    if not job.over:  # an input before this one may have failed
                        self._have_row(job, item)
                    self.counts.cached += 1
                    continue
            unit = self._in_flight.get((lane.key, item))
            if unit is None:
                unit = self._in_flight[lane.key, item] = Unit(item)
                unit.owners.append(job)
                job.units[_TOKENIZE].append(unit)
            else:
                self.counts.shared += 1
                self._join(job, unit)
            unit.waiters.append((job, row))
            if unit.tokens is not None:
                job.lengths[row] = len(unit.tokens.ids)
        if len(job.units[_TOKENIZE]) > before:
            self._lines[_TOKENIZE][not job.interactive].add(job)
            if not wake:
                return
            if job.interactive and self._engine_idle:
                self._to_compute.notify()
            else:
                self._to_tokenize.notify()

    def _join(self, job: Job, unit: Unit) -> None:
        """Let a unit be taken in this job's turn, too: its first owner may be bulk or gone."""
        if job in unit.owners:
            return
        unit.owners.append(job)
        if unit.state is _State.NEW:
            job.units[_TOKENIZE].append(unit)
        elif unit.state is _State.TOKENIZED:
            assert unit.tokens is not None
            job.units[_COMPUTE].append(unit)
            self._lines[_COMPUTE][not job.interactive].add(job)

    # --- The tokenizer thread -----------------------------------------------------------------------
    def _tokenize_all(self) -> None:
        while True:
            with self._lock:
                interactive, bulk = self._lines[_TOKENIZE]
                while not (self._closed or interactive or bulk):
                    self._to_tokenize.wait()
                if self._closed:
                    return
                work = self._take_texts(interactive) or self._take_texts(bulk)
            if work is not None:
                self._tokenize(*work)
            del work  # nothing of a request is kept while this thread waits for the next

    def _take_texts(self, line: _Line) -> tuple[Lane, list[Unit]] | None:
        room, characters = _TEXTS_AT_ONCE, 0

        def fits(unit: Unit) -> bool:
            nonlocal room, characters
            size = sum(map(len, _texts(unit.item)))
            if room == 0 or (characters and characters + size > _CHARACTERS_AT_ONCE):
                return False
            room, characters = room - 1, characters + size
            return True

        return line.take(fits, self._drop)

    def _tokenize(self, lane: Lane, units: list[Unit], *, wake: bool = True) -> None:
        begin = time.perf_counter()
        try:
            tokens = lane.tokenize([unit.item for unit in units])
        except Exception as error:  # noqa: BLE001 - whatever a hostile text made fail is its request's alone
            if len(units) > 1:
                # Each alone, so only the faulty one fails; requests that ended meanwhile want none of them.
                for unit in units:
                    if self._still_wanted(lane, unit):
                        self._tokenize(lane, [unit], wake=wake)
            else:
                self._fail(lane, units, error)
            return
        seconds = time.perf_counter() - begin
        with self._lock:
            for unit, found in zip(units, tokens, strict=True):
                unit.tokens, unit.state = found, _State.TOKENIZED
                for job, row in unit.waiters:
                    job.lengths[row] = len(found.ids)
                for job in unit.owners:  # every waiter is an owner, too
                    if not job.over:
                        job.units[_COMPUTE].append(unit)
                        self._lines[_COMPUTE][not job.interactive].add(job)
                if not unit.wanted:
                    self._drop(lane, unit)
            for job in {job for unit in units for job in unit.owners}:
                job.tokenize_seconds += seconds
            if wake:
                self._to_compute.notify()

    # --- The engine thread ------------------------------------------------------------------------
    def _compute_all(self) -> None:
        while True:
            with self._lock:
                interactive, bulk = self._lines[_COMPUTE]
                texts, _ = self._lines[_TOKENIZE]
                while not (self._closed or interactive or bulk or texts):
                    self._engine_idle = True
                    self._to_compute.wait()
                self._engine_idle = False
                if self._closed:
                    return
                work, was_interactive = self._take_batch(interactive, bulk)
                # An idle engine tokenizes a query itself, which saves waking another thread.
                query = self._take_texts(texts) if work is None else None
            if query is not None:
                self._tokenize(*query)
                del query
            if work is None:
                continue
            begin = time.perf_counter()
            self._compute(*work)
            seconds = time.perf_counter() - begin
            if was_interactive and bulk:
                self._interactive_seconds += seconds
            elif not was_interactive:
                # Bulk work has had its turn; it is owed the next after this much of the other.
                self._interactive_seconds = -seconds * (1 / _BULK_SHARE - 1)
            del work

    def _take_batch(
        self, interactive: _Line, bulk: _Line
    ) -> tuple[tuple[Lane, list[Unit]] | None, bool]:
        first = [(interactive, True), (bulk, False)]
        if self._interactive_seconds > 0 and bulk:
            first.reverse()
        for line, kind in first:
            waiting = len(line)
            work = self._take_units(line)
            if work is not None:
                self._even_share[not kind] += sum(_size(unit) for unit in work[1]) / waiting
                return work, kind
        return None, False

    def _take_units(self, line: _Line) -> tuple[Lane, list[Unit]] | None:
        if not line:
            return None
        rate = line.lanes[0].rate
        budget = self.limits.batch_tokens
        # Before the first batch of a model nothing tells how fast it is.
        budget = min(budget, max(256, int(rate * self.limits.batch_seconds))) if rate else 1024
        room = max(1, budget)
        empty = True

        def fits(unit: Unit) -> bool:
            nonlocal room, empty
            size = _size(unit)
            if not empty and size > room:
                return False
            empty = False
            room -= size
            return True

        return line.take(fits, self._drop)

    def _compute(self, lane: Lane, units: list[Unit], *, here: bool = False) -> None:
        begin = time.perf_counter()
        batch = _joined(units)
        try:
            rows = lane.compute(batch)
        except Exception as error:  # noqa: BLE001 - the thread serves every client and must go on
            if len(units) > 1:
                for unit in units:  # as in `_tokenize`
                    if self._still_wanted(lane, unit):
                        self._compute(lane, [unit], here=here)
            else:
                self._fail(lane, units, error)
            return
        seconds = time.perf_counter() - begin
        counts = self.counts
        counts.batches += 1
        counts.tokens += batch.tokens
        counts.inputs += len(units)
        counts.last_batch_tokens, counts.last_batch_inputs = batch.tokens, len(units)
        rate = batch.tokens / seconds
        # A small batch says only how fast the model is at least.
        if batch.tokens >= 256 or rate > lane.rate:
            lane.rate = rate if not lane.rate else 0.7 * lane.rate + 0.3 * rate
        finished: list[tuple[Job, BaseException | None]] = []
        now = time.monotonic()
        with self._lock:
            for unit, row in zip(units, rows, strict=True):
                unit.state = _State.DONE
                del self._in_flight[lane.key, unit.item]
                if self._cache is not None and lane.cached:
                    assert unit.tokens is not None
                    self._keep(_digest(lane, unit.item), row, len(unit.tokens.ids))
                for job, at in unit.waiters:
                    if job.over:
                        continue
                    job.rows[at] = row
                    job.progressed = now
                    self._have_row(job, unit.item)
                    if job.missing == 0:
                        finished.append((job, None))
            for job in {job for unit in units for job, _ in unit.waiters}:
                job.compute_seconds += seconds
        self._settle(finished, here=here)

    def _keep(self, key: Hashable, row: NDArray[np.float32], length: int) -> None:
        assert self._cache is not None
        if row.nbytes + _CACHE_OVERHEAD <= self._cache.maxsize:
            self._cache[key] = row.copy(), length

    # --- The thread for what is done aside ------------------------------------------------------------
    def _run_all_aside(self) -> None:
        while True:
            with self._lock:
                while not (self._closed or self._aside):
                    self._to_run_aside.wait()
                if self._closed:
                    return
                job, steps = self._aside.popleft()
            self._run_step(job, steps)
            del job, steps  # nothing of a request is kept while this thread waits for the next

    def _run_step(self, job: Job, steps: deque[Callable[[], Any]]) -> None:
        if job.over:
            return
        begin = time.perf_counter()
        try:
            job.rows[len(job.rows) - job.missing] = steps.popleft()()
        except Exception as error:  # noqa: BLE001 - the thread serves every client and must go on
            self._settle([(job, _refusal(error))])
            return
        job.tokenize_seconds += time.perf_counter() - begin
        job.missing -= 1
        job.progressed = time.monotonic()
        if job.missing:
            with self._lock:
                self._aside.append((job, steps))
        else:
            self._settle([(job, None)])

    # --- The end of a job -------------------------------------------------------------------------
    def _drop(self, lane: Lane, unit: Unit) -> None:
        """Forget a unit that nobody needs; the lock is held."""
        unit.state = _State.DONE
        self._in_flight.pop((lane.key, unit.item), None)

    def _still_wanted(self, lane: Lane, unit: Unit) -> bool:
        """Return whether anybody waits for a unit, and forget it if nobody does."""
        with self._lock:
            if unit.wanted:
                return True
            self._drop(lane, unit)
        return False

    def _fail(self, lane: Lane, units: Iterable[Unit], error: Exception) -> None:
        failed: list[tuple[Job, BaseException | None]] = []
        with self._lock:
            for unit in units:
                self._drop(lane, unit)
                for job, row in unit.waiters:
                    if job.over:
                        continue
                    if isinstance(error, TooLong):
                        failed.append((job, TooLong(error.most, row)))
                    else:
                        failed.append((job, _refusal(error)))
        self._settle(failed)

    def _settle(
        self, ended: Sequence[tuple[Job, BaseException | None]], *, here: bool = False
    ) -> None:
        """Free the places of jobs that ended, and wake who waits for them; `here` if this is their event loop."""
        if not ended:
            return
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, BaseException | None]]] = {}
        with self._lock:
            for job, error in ended:
                if job.over:
                    continue
                job.over = True
                job.lane.jobs -= 1
                self._count_tokens(job, -job.left)
                job.left = 0
                for waiting in self._waiting_of(job):
                    waiting.requests -= 1
                    waiting.inputs -= len(job.rows)
                self._bulk.discard(job)
                if not job.lane.jobs:
                    del self._backlogs[job.lane]
                by_loop.setdefault(job.loop, []).append((job, error))
        for loop, jobs in by_loop.items():
            if here:
                _wake(jobs)
                continue
            try:
                loop.call_soon_threadsafe(_wake, jobs)
            except RuntimeError:  # the loop was closed: nobody waits
                continue


def _wake(ended: Sequence[tuple[Job, BaseException | None]]) -> None:
    for job, error in ended:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(None)
        else:
            job.future.set_exception(error)


def _refusal(error: Exception) -> Refusal:
    """Say what failed: a bad input is the client's, everything else the server's."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal(Reason.INVALID, str(error))
    if isinstance(error, EngineError):
        return Refusal(Reason.FAILED, str(error))
    if isinstance(error, QuaverError):  # such as of an adapter that is read with the first query
        message = "the model failed: the server's log says why"
        return Refusal(Reason.FAILED, message, detail=str(error))
    return Refusal(Reason.FAILED, f"the engine failed: {type(error).__name__}")


def about_tokens(lane: Lane, items: Sequence[Item]) -> int:
    """Estimate the tokens of inputs without tokenizing them.

    Args:
        lane: the model.
        items: the inputs.

    Returns:
        their sum: four characters to a token, one of a text that is not ASCII.
    """
    return sum(min(lane.longest, _about(item)) for item in items)


def _about(item: Item) -> int:
    if isinstance(item, bytes):
        return len(item) // 4
    if isinstance(item, Spans):
        return len(item.ids) // 4
    return 3 + sum(map(about_tokens_of_text, _texts(item)))


def about_tokens_of_text(text: str) -> int:
    """Estimate the tokens of a text without tokenizing it."""
    return len(text) // (4 if text.isascii() else 1)


def _texts(item: Item) -> tuple[str, ...]:
    if isinstance(item, str):
        return (item,)
    if isinstance(item, Pair):
        return item.query, item.document
    return (item.text,) if isinstance(item, Cut) else ()


def _no_tokens(given: Any) -> Any:
    raise AssertionError("what is done aside goes through no lane")


def _size(unit: Unit) -> int:
    assert unit.tokens is not None
    return len(unit.tokens.ids)


def _digest(lane: Lane, item: Item) -> bytes:
    """Return a key of the cache; the text itself is not kept."""
    parts = (item,) if isinstance(item, (str, bytes)) else tuple(item)
    hashed = hashlib.blake2b(f"{lane.key}\0{type(item).__name__}".encode(), digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        hashed.update(len(content).to_bytes(8, "little"))
        hashed.update(content)
    return hashed.digest()


def _splits(tokens: Sequence[Tokens]) -> NDArray[np.int32] | None:
    if all(each.split is None for each in tokens):
        return None
    return np.array([each.split or 0 for each in tokens], np.int32)


def _joined(units: Sequence[Unit]) -> TokenBatch:
    """Concatenate the tokens of units."""
    tokens = [unit.tokens for unit in units if unit.tokens is not None]
    if len(tokens) == 1 and tokens[0].spans is None:  # a query alone
        (only,) = tokens
        keys = None if only.attended is None else np.array([only.attended], np.int32)
        offsets = np.array([0, len(only.ids)], np.int32)
        return TokenBatch(only.ids, offsets, only.types, 0, keys, _splits(tokens))
    offsets = np.zeros(len(tokens) + 1, np.int32)
    np.cumsum([len(each.ids) for each in tokens], out=offsets[1:])
    ids = np.concatenate([each.ids for each in tokens])
    types = None
    if any(each.types is not None for each in tokens):
        types = np.concatenate(
            [np.zeros_like(each.ids) if each.types is None else each.types for each in tokens]
        )
    keys = None
    if any(each.attended is not None for each in tokens):
        counts = [len(each.ids) if each.attended is None else each.attended for each in tokens]
        keys = np.array(counts, np.int32)
    if tokens[0].spans is None:
        unpooled = np.array([each.unpooled for each in tokens], np.int32)
        left = unpooled if unpooled.any() else None
        return TokenBatch(ids, offsets, types, 0, keys, _splits(tokens), left)
    spans = [each.spans for each in tokens if each.spans is not None]
    counts = [len(each) for each in spans]
    behind = np.repeat(offsets[:-1], counts)[:, None]
    parts = np.concatenate(spans) + behind
    return SpanBatch(ids, offsets, types, 0, spans=parts, counts=counts)
