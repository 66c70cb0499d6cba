"""The client: connections that each send one request after another, and wait for its answer.

Requests are made before the clock starts, and httptools parses the answers' heads, so the client takes
some tens of microseconds a request. `Measured.client_share` says how much of a CPU that was.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools
import numpy as np
import uvloop

from quaver.errors import EngineError

_ANSWERS = 32
"""Answers kept of a load, to be checked."""

_LEAST = 3
"""Requests of every load that must be answered before a measurement ends."""


@dataclass(frozen=True)
class Load:
    """What some connections send.

    Attributes:
        name: such as "query".
        connections: connections that send it at the same time.
        path: of the requests.
        bodies: JSON bodies, sent in turns by all connections together.
    """

    name: str
    connections: int
    path: str
    bodies: Sequence[bytes]


@dataclass
class Measured:
    """The answers to one load.

    Attributes:
        seconds: latency of each request that was answered while it was measured.
        spans: begin and end of each answered request, by `time.perf_counter`.
        window: begin and end of the measurement, by the same clock.
        statuses: number of answers by HTTP status; 200 has the latencies.
        answers: index of a body to the first answer to it, for the first bodies.
        client_share: CPU time of this client, all loads together, per second.
    """

    seconds: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    window: tuple[float, float] = (0.0, 0.0)
    statuses: dict[int, int] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    client_share: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests a second.

        A request counts by the share of its time that lies within the measurement. So a server that answers many
        at once, and requests longer than the measurement, are rated right.
        """
        first, last = self.window
        whole = sum(
            max(0.0, min(end, last) - max(begin, first)) / (end - begin)
            for begin, end in self.spans
        )
        return whole / (last - first) if last > first else 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies, in milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1000 if self.seconds else float("nan")


def run_loads(
    host: str,
    port: int,
    loads: Sequence[Load],
    *,
    seconds: float,
    warm_up: float,
    longest: float,
) -> list[Measured]:
    """Send loads at the same time, and measure.

    Args:
        host: the server's address.
        port: the server's port.
        loads: the loads.
        seconds: time to measure.
        warm_up: time before, whose requests do not count.
        longest: most seconds to warm up until each connection has had an answer, to measure until a load has
            three answers and one for each connection, and to wait for the last answers.

    Returns:
        what was measured of each load.

    Raises:
        EngineError: the server closed a connection, or answered nothing in the longest time.
        OSError: there is no connection.
    """
    return uvloop.run(_run(host, port, loads, seconds, warm_up, longest))


class Connection(asyncio.Protocol):
    """A connection that is kept open, for one request at a time; httptools calls it, too."""

    def __init__(self) -> None:
        """Wait to be connected; see `connect`."""
        self._transport: Any
        self._parser: httptools.HttpResponseParser
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []
        self._closed = asyncio.Event()

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request.

        Args:
            request: head and body; see `written`.

        Returns:
            the status and the body of the answer, or an `EngineError` if the server closes the connection.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._body = []
        self._parser = httptools.HttpResponseParser(self)
        if self._closed.is_set():
            self._fail()
        else:
            self._transport.write(request)
        return self._answer

    async def close(self) -> None:
        """Close at once; a request that waits is given up."""
        self._answer = None
        self._transport.abort()
        await self._closed.wait()

    # --- Called by asyncio and httptools ------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self._closed.set()
        self._fail()

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Deliver the answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))

    def _fail(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EngineError("the server closed a connection"))


async def connect(host: str, port: int) -> Connection:
    """Open a connection.

    Raises:
        OSError: nothing listens there.
    """
    _, made = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return made


def written(path: str, body: bytes) -> bytes:
    """Return a request as it is sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


@dataclass
class _Clock:
    """Says from when answers count, when no more are asked for, and how many connections wait for their first."""

    begin: float = float("inf")
    over: bool = False
    unanswered: int = 0


async def _send(
    connection: Connection, requests: Iterator[tuple[int, bytes]], found: Measured, clock: _Clock
) -> None:
    """Send one request after another."""
    first = True
    while not clock.over:
        index, request = next(requests)
        start = time.perf_counter()
        status, body = await connection.ask(request)
        now = time.perf_counter()
        if status == 200 and len(found.answers) < _ANSWERS:
            found.answers.setdefault(index, body)
        clock.unanswered -= first
        first = False
        if now < clock.begin:
            continue
        if status == 200:
            found.spans.append((start, now))
        if not clock.over:
            found.statuses[status] = found.statuses.get(status, 0) + 1
            if status == 200:
                found.seconds.append(now - start)


async def _run(
    host: str, port: int, loads: Sequence[Load], seconds: float, warm_up: float, longest: float
) -> list[Measured]:
    measured = [Measured() for _ in loads]
    clock = _Clock()
    connections, tasks = [], set()
    for load, found in zip(loads, measured, strict=True):
        bodies = [written(load.path, body) for body in load.bodies]
        requests = itertools.cycle(list(enumerate(bodies)))
        for _ in range(load.connections):
            connections.append(await connect(host, port))
            tasks.add(asyncio.create_task(_send(connections[-1], requests, found, clock)))
    try:
        clock.unanswered = len(tasks)
        await _watch(tasks, warm_up)
        deadline = time.perf_counter() + longest
        while clock.unanswered and time.perf_counter() < deadline:
            await _watch(tasks, 0.05)
        clock.begin, used = time.perf_counter(), time.process_time()
        await _watch(tasks, seconds)
        deadline = clock.begin + longest
        while time.perf_counter() < deadline:
            if all(
                len(found.seconds) >= max(_LEAST, load.connections)
                for load, found in zip(loads, measured, strict=True)
            ):
                break
            await _watch(tasks, 0.05)
        clock.over, end = True, time.perf_counter()
        share = (time.process_time() - used) / (end - clock.begin)
        done, _ = await asyncio.wait(tasks, timeout=longest)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            await connection.close()
    for load, found in zip(loads, measured, strict=True):
        found.client_share, found.window = share, (clock.begin, end)
        if not found.seconds:
            raise EngineError(
                f"no request of the load {load.name} was answered in {longest:g} s: statuses "
                f"{found.statuses}"
            )
    return measured


async def _watch(tasks: set[asyncio.Task[None]], seconds: float) -> None:
    """Wait, or raise what ended a connection."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
