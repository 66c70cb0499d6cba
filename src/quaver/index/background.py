"""Background threads for the engine: one reads ahead, one stores the results."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_END = object()


@contextmanager
def read_ahead(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """Compute items in a thread, so that the next is ready when it is needed.

    Args:
        items: the items; an error is raised in place of the item that failed.
        depth: maximum number of items that are ready, at least 1.

    Yields:
        the same items in the same order. Leaving the context ends the thread after its current item.
    """
    ready: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def draw() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # noqa: BLE001 - raised again where the item would have come
            put(_Failed(error))

    def drawn() -> Generator[T]:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=draw, name="quaver-read-ahead", daemon=True)
    thread.start()
    try:
        yield drawn()
    finally:
        stopped.set()
        thread.join()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class BackgroundJobs:
    """Runs jobs in a thread, one after the other, with a short queue.

    The error of a job is raised by the next call of `submit` or `finish`; later jobs do not run.
    """

    def __init__(self, depth: int) -> None:
        """Set the length of the queue; no thread starts yet.

        Args:
            depth: maximum number of unfinished jobs, at least 1.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quaver-store")
        self._pending: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._depth = depth
        self._broken = False

    def submit(self, job: Callable[[], None], done: Callable[[], None]) -> None:
        """Queue a job; wait while too many are unfinished.

        Args:
            job: runs in the background thread.
            done: runs in the calling thread, during a later call, once the job is done.
        """
        while len(self._pending) >= self._depth or (self._pending and self._pending[0][0].done()):
            self._settle()
        self._pending.append((self._pool.submit(self._do, job), done))

    def finish(self) -> None:
        """Wait until every job is done."""
        while self._pending:
            self._settle()

    def close(self) -> None:
        """Wait for the running job, drop the others and end the thread."""
        self._broken = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self) -> None:
        future, done = self._pending.popleft()
        future.result()
        done()

    def _do(self, job: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            job()
        except BaseException:
            self._broken = True
            raise
