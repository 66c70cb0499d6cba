"""Micro-batches: requests that wait at the same moment go through the engine together."""

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

MOST_ITEMS = 256
"""Items of one batch, unless a single request has more: bounds how long a newcomer waits."""

LINGER = 0.2
"""Seconds that the thread waits for another request before it ends.

Why not end at once: the next request starts a thread again, and ``Thread.start`` holds up the event
loop until the new thread runs. Why not stay: the thread holds the model.
"""


@dataclass(eq=False)
class _Request(Generic[Key, Item, Result]):
    key: Key
    items: Sequence[Item]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Sequence[Result]]


class MicroBatcher(Generic[Key, Item, Result]):
    """Joins the requests of concurrent tasks into batches.

    A request that finds the engine idle starts at once. Those that come while it works wait for it
    and then go together, as many as have the same key, up to ``MOST_ITEMS`` items. So nobody waits
    for a timer, one request alone costs waking a thread, and a hundred at once cost two batches.

    Tasks may belong to different event loops. The thread that serves them ends when nobody has
    waited for ``LINGER`` seconds.
    """

    def __init__(self, run: Callable[[Key, list[Item]], Sequence[Result]]) -> None:
        """Set up an idle batcher.

        Args:
            run: takes a key and items, gives one result for each item, in order.
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
            items: the items; none is valid.

        Returns:
            One result for each item.

        Raises:
            Exception: what ``run`` raises for these items; another request's error stays its own.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        request: _Request[Key, Item, Result] = _Request(key, items, loop, loop.create_future())
        if self._process != os.getpid():  # a fork took neither the thread nor whoever waited
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
            del batch, live  # nothing of a request is held while the thread waits for the next

    def _receive(self, waiting: deque[_Request[Key, Item, Result]]) -> bool:
        """Take what has arrived, waiting for it where nothing else waits; False ends the thread."""
        try:
            if not waiting:
                waiting.append(self._arriving.get(timeout=LINGER))
            while True:
                waiting.append(self._arriving.get_nowait())
        except Empty:
            if waiting:
                return True
        with self._starting:  # whoever puts a request looks for the thread afterwards
            if self._arriving.empty():
                self._thread = None
                return False
        return self._receive(waiting)

    def _serve(self, batch: list[_Request[Key, Item, Result]]) -> None:
        items = [item for request in batch for item in request.items]
        try:
            results = self._run(batch[0].key, items)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits, not to us
            if len(batch) == 1:
                _tell(batch, [error])
                return
            for request in batch:  # each alone, so that only the one at fault fails
                self._serve([request])
            return
        outcomes: list[Sequence[Result]] = []
        start = 0
        for request in batch:
            outcomes.append(results[start : start + len(request.items)])
            start += len(request.items)
        _tell(batch, outcomes)


def _next_batch(
    waiting: deque[_Request[Key, Item, Result]],
) -> list[_Request[Key, Item, Result]]:
    """Take the longest waiting request and those that fit with it."""
    batch: list[_Request[Key, Item, Result]] = []
    rest: list[_Request[Key, Item, Result]] = []
    size = 0
    for request in waiting:
        same = not batch or request.key == batch[0].key
        if same and (not batch or size + len(request.items) <= MOST_ITEMS):
            size += len(request.items)
            batch.append(request)
        else:
            rest.append(request)
    waiting.clear()
    waiting.extend(rest)
    return batch


def _tell(
    batch: Iterable[_Request[Key, Item, Result]],
    outcomes: Iterable[Sequence[Result] | BaseException],
) -> None:
    """Hand outcomes over; each event loop is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for request, outcome in zip(batch, outcomes, strict=True):
        by_loop.setdefault(request.loop, []).append((request.future, outcome))
    for loop, told in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed, so nobody waits any more
            loop.call_soon_threadsafe(_settle, told)


def _settle(told: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in told:
        if future.done():  # cancelled meanwhile
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
