"""Micro-batches: which requests share a batch, and what each receives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from quaver.engine.micro_batches import MAX_ITEMS, MicroBatcher


class Recorder:
    """Doubles numbers and keeps every batch it was given; the first call waits to be let go."""

    def __init__(self) -> None:
        """Starts without batches."""
        self.batches: list[tuple[str, list[int]]] = []
        self.go = threading.Event()

    def __call__(self, key: str, items: list[int]) -> Sequence[int]:
        self.batches.append((key, items))
        assert self.go.wait(20)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


async def start(batcher: MicroBatcher[str, int, int], recorder: Recorder) -> asyncio.Task[object]:
    """Starts a first request, which keeps the engine busy until the recorder is let go."""
    task = asyncio.create_task(batcher.submit("a", [0]))
    while not recorder.batches:
        await asyncio.sleep(0.001)
    return task  # type: ignore[return-value]


def run_together(requests: list[tuple[str, list[int]]]) -> tuple[list[object], Recorder]:
    recorder = Recorder()

    async def main() -> list[object]:
        batcher = MicroBatcher(recorder)
        first = await start(batcher, recorder)
        others = [asyncio.create_task(batcher.submit(*request)) for request in requests]
        await asyncio.sleep(0)
        recorder.go.set()
        results = await asyncio.gather(*others, return_exceptions=True)
        await first
        return list(results)

    return asyncio.run(main()), recorder


def test_a_hundred_requests_at_once_are_two_batches() -> None:
    results, recorder = run_together([("a", [i]) for i in range(1, 101)])
    assert results == [[2 * i] for i in range(1, 101)]
    assert recorder.batches == [("a", [0]), ("a", list(range(1, 101)))]


def test_only_equal_keys_share_a_batch_and_nobody_starves() -> None:
    results, recorder = run_together([("b", [1]), ("a", [2, 3]), ("b", [4])])
    assert results == [[2], [4, 6], [8]]
    assert recorder.batches[1:] == [("b", [1, 4]), ("a", [2, 3])]


def test_a_batch_is_bounded() -> None:
    many = [("a", [i] * (MAX_ITEMS // 2)) for i in (1, 2, 3)]
    _, recorder = run_together([*many, ("a", [4] * (2 * MAX_ITEMS))])
    assert [len(items) for _, items in recorder.batches] == [
        1,
        MAX_ITEMS,
        MAX_ITEMS // 2,
        2 * MAX_ITEMS,
    ]


def test_only_the_request_at_fault_fails() -> None:
    results, _ = run_together([("a", [1]), ("a", [-1]), ("a", [2])])
    assert results[0] == [2]
    assert isinstance(results[1], ValueError)
    assert results[2] == [4]


def test_a_cancelled_request_is_not_computed() -> None:
    recorder = Recorder()

    async def main() -> None:
        batcher = MicroBatcher(recorder)
        first = await start(batcher, recorder)
        cancelled = asyncio.create_task(batcher.submit("a", [1]))
        kept = asyncio.create_task(batcher.submit("a", [2]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        recorder.go.set()
        assert await kept == [4]
        await first

    asyncio.run(main())
    assert recorder.batches[1:] == [("a", [2])]


def test_event_loops_in_several_threads_share_a_batcher() -> None:
    recorder = Recorder()
    recorder.go.set()
    batcher = MicroBatcher(recorder)
    sums: list[int] = []

    def loop(start: int) -> None:
        async def main() -> None:
            for i in range(start, start + 50):
                sums.extend(await batcher.submit("a", [i]))

        asyncio.run(main())

    threads = [threading.Thread(target=loop, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == sorted(2 * (1000 * n + i) for n in range(4) for i in range(50))
