"""Micro-batches: concurrent requests go through the engine together."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_ITEMS = 256
"""Maximum items in a batch, unless one request has more; limits how long a new request waits."""

LINGER = 0.2
"""Seconds the thread waits for another request before it ends.

If it ended at once, the next request would start a new thread, and `Thread.start` blocks the event
loop until that thread runs. If it never ended, it would keep the model in memory.
"""


@dataclass(eq=False)
class _Request(Generic[Key, Item, Result]):
    key: Key
    items: Sequence[Item]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Sequence[Result]]


class MicroBatcher(Generic[Key, Item, Result]):
    """Join the requests of concurrent tasks into batches.

    If the engine is idle, a request starts at once. Requests that arrive while it is busy wait, and
    those with the same key then form one batch of up to `MAX_ITEMS` items. No request waits for a
    timer, a single request costs one thread wake-up, and a hundred at once take two batches.

    Tasks may belong to different event loops. The thread ends after `LINGER` seconds without a
    request.
    """

    def __init__(self, run: Callable[[Key, list[Item]], Sequence[Result]]) -> None:
        """Set up an idle batcher.

        Args:
            run: takes a key and items; returns one result for each item, in order.
        """
        self._run = run
        self._begin()

    def _begin(self) -> None:
        self._arriving: SimpleQueue[_Request[Key, Item, Result]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    async def submit(self, key: Key, items: Sequence[Item]) -> Sequence[Result]:
        """Wait for the results of some items.

        Args:
            key: only requests with equal keys share a batch.
            items: the items; may be empty.

        Returns:
            one result for each item.

        Raises:
            Exception: what `run` raises for these items. An error of one request does not affect
                the others.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        request: _Request[Key, Item, Result] = _Request(key, items, loop, loop.create_future())
        if self._process != os.getpid():  # a fork copies neither the thread nor its tasks
            self._begin()
        self._arriving.put(request)
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._serve_all, name="quaver-micro-batches", daemon=True
                )
                self._thread.start()
        return await request.future

    def _serve_all(self) -> None:
        waiting: deque[_Request[Key, Item, Result]] = deque()
        while self._receive(waiting):
            batch = _next_batch(waiting)
            live = [request for request in batch if not request.future.done()]
            if live:
                self._serve(live)
            del batch, live  # release the requests while the thread waits for the next

    def _receive(self, waiting: deque[_Request[Key, Item, Result]]) -> bool:
        """Take the new requests, blocking if none are waiting; return False to end the thread."""
        try:
            if not waiting:
                waiting.append(self._arriving.get(timeout=LINGER))
            while True:
                waiting.append(self._arriving.get_nowait())
        except Empty:
            if waiting:
                return True
        with self._starting:  # submit adds a request before it checks for the thread
            if self._arriving.empty():
                self._thread = None
                return False
        return self._receive(waiting)

    def _serve(self, batch: list[_Request[Key, Item, Result]]) -> None:
        items = [item for request in batch for item in request.items]
        try:
            results = self._run(batch[0].key, items)
        except BaseException as error:  # noqa: BLE001 - passed on to the waiting task
            if len(batch) == 1:
                _deliver(batch, [error])
                return
            for request in batch:  # run each alone, so only the faulty request fails
                self._serve([request])
            return
        outcomes: list[Sequence[Result]] = []
        start = 0
        for request in batch:
            outcomes.append(results[start : start + len(request.items)])
            start += len(request.items)
        _deliver(batch, outcomes)


def _next_batch(
    waiting: deque[_Request[Key, Item, Result]],
) -> list[_Request[Key, Item, Result]]:
    """Take the oldest request and those that fit into its batch."""
    batch: list[_Request[Key, Item, Result]] = []
    later: list[_Request[Key, Item, Result]] = []
    size = 0
    for request in waiting:
        same = not batch or request.key == batch[0].key
        if same and (not batch or size + len(request.items) <= MAX_ITEMS):
            size += len(request.items)
            batch.append(request)
        else:
            later.append(request)
    waiting.clear()
    waiting.extend(later)
    return batch


def _deliver(
    batch: Iterable[_Request[Key, Item, Result]],
    outcomes: Iterable[Sequence[Result] | BaseException],
) -> None:
    """Pass each request its result or error, waking each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for request, outcome in zip(batch, outcomes, strict=True):
        by_loop.setdefault(request.loop, []).append((request.future, outcome))
    for loop, pairs in by_loop.items():
        with suppress(RuntimeError):  # a closed loop has no waiting task
            loop.call_soon_threadsafe(_settle, pairs)


def _settle(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in pairs:
        if future.done():  # canceled in the meantime
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
