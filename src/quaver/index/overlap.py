"""Work that goes on beside the engine: what is read ahead of it, and what is stored behind it."""

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
def ahead(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """Draw items in a thread of their own, so that the next is ready when it is asked for.

    Args:
        items: The items; an error of theirs is raised where the failed item would have come.
        depth: How many may be ready at most, at least 1.

    Yields:
        The same items in the same order. Leaving the context ends the thread after its current item.
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


class Behind:
    """Does jobs in a thread of its own, one after the other; a few may wait.

    An error of a job is raised by the next call of ``submit`` or ``finish``; the jobs after it are
    not done.
    """

    def __init__(self, depth: int) -> None:
        """Start no thread yet.

        Args:
            depth: How many jobs may be unfinished, at least 1.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quaver-store")
        self._pending: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._depth = depth
        self._broken = False

    def submit(self, job: Callable[[], None], done: Callable[[], None]) -> None:
        """Hand a job over; wait while too many are unfinished.

        Args:
            job: What to do in the thread.
            done: What to do in this thread, in a later call, once the job is done.
        """
        while len(self._pending) >= self._depth or (self._pending and self._pending[0][0].done()):
            self._settle()
        self._pending.append((self._pool.submit(self._do, job), done))

    def finish(self) -> None:
        """Return when every job is done."""
        while self._pending:
            self._settle()

    def close(self) -> None:
        """Wait for the job that runs, drop the others and end the thread."""
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
