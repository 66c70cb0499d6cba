"""Micro-batches: requests that wait at the same moment go through the engine together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_ITEMS = 256
"""Items of one batch, unless a single request has more: bounds how long a newcomer waits."""


@dataclass
class _Request(Generic[Key, Item, Result]):
    key: Key
    items: Sequence[Item]
    future: Future[Sequence[Result]] = field(default_factory=Future)


class MicroBatcher(Generic[Key, Item, Result]):
    """Joins the requests of concurrent tasks into batches.

    A request that finds the engine idle starts at once. Those that come while it works wait for it
    and then go together, as many as have the same key, up to ``MOST_ITEMS`` items. So nobody waits
    for a timer, one request alone costs one thread's start, and a hundred at once cost two batches.

    Tasks may belong to different event loops. The thread that serves them ends when nobody waits.
    """

    def __init__(self, run: Callable[[Key, list[Item]], Sequence[Result]]) -> None:
        """Set up an idle batcher.

        Args:
            run: takes a key and items, gives one result for each item, in order.
        """
        self._run = run
        self._waiting: deque[_Request[Key, Item, Result]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

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
        request: _Request[Key, Item, Result] = _Request(key, items)
        with self._lock:
            self._waiting.append(request)
            # After a fork the thread is gone, whatever it was doing.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._serve_all, name="quaver-micro-batches", daemon=True
                )
                self._thread.start()
        return await asyncio.wrap_future(request.future)

    def _serve_all(self) -> None:
        while batch := self._next_batch():
            live = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if live:
                self._serve(live)

    def _next_batch(self) -> list[_Request[Key, Item, Result]]:
        """Take the longest waiting request and those that fit with it; empty ends the thread."""
        with self._lock:
            batch: list[_Request[Key, Item, Result]] = []
            rest: deque[_Request[Key, Item, Result]] = deque()
            size = 0
            for request in self._waiting:
                same = not batch or request.key == batch[0].key
                if same and (not batch or size + len(request.items) <= MOST_ITEMS):
                    size += len(request.items)
                    batch.append(request)
                else:
                    rest.append(request)
            self._waiting = rest
            if not batch:
                self._thread = None
            return batch

    def _serve(self, batch: list[_Request[Key, Item, Result]]) -> None:
        items = [item for request in batch for item in request.items]
        try:
            results = self._run(batch[0].key, items)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits, not to us
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for request in batch:  # each alone, so that only the one at fault fails
                self._serve([request])
            return
        start = 0
        for request in batch:
            request.future.set_result(results[start : start + len(request.items)])
            start += len(request.items)
