"""`quaver serve` under ten times the load it can serve: right answers or 429, bounded waiting, flat memory.

    python benchmarks/overload.py --model MINILM_FOLDER [--seconds 600] [--idle 10000] [--out FILE]

Starts a server, measures what it serves from a few connections, then asks for ten times as much,
with clients that hang up, send half a body, drip a head, or send 100 MB. Every answer's vectors are
compared with the library's bits. Linux only; give the process enough files (ulimit -n) for --idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from quaver import Embedder, info
from quaver_bench.record import describe_run

TEXTS = 2000
INPUTS = 16
"""Inputs of a request, and tokens of each as a mean."""
WORDS = 24


class Client:
    """One connection that asks again and again, and opens a new one if it is closed."""

    def __init__(self, port: int) -> None:
        """Ask a server on this port of 127.0.0.1."""
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request; return its status and its answer's body."""
        kept = self.writer is not None
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            self.writer.write(head.encode() + body)
            answer = await self.reader.readuntil(b"\r\n\r\n")
            lines = answer.decode().lower().split("\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
            return int(lines[0].split()[1]), await self.reader.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.close()
            if kept:  # the server closed it while nothing was asked
                return await self.post(path, body)
            return 0, b""

    async def close(self) -> None:
        """Hang up."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Load:
    """Requests with known answers, and what became of them."""

    def __init__(self, model: str, seed: int) -> None:
        """Draw the texts, and compute their vectors with the library."""
        draw = random.Random(seed)
        embedder = Embedder.from_pretrained(model)
        words = [
            "the",
            "file",
            "list",
            "value",
            "function",
            "class",
            "module",
            "return",
            "error",
            "import",
        ]
        self.texts = [
            " ".join(draw.choices(words, k=draw.randint(1, 2 * WORDS))) for _ in range(TEXTS)
        ]
        self.expected = embedder.encode(self.texts)
        self.draw = draw
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.wrong = 0

    def request(self) -> tuple[list[int], bytes]:
        """Return the rows of a request's texts, and its body."""
        rows = self.draw.choices(range(TEXTS), k=INPUTS)
        return rows, json.dumps({"inputs": [self.texts[row] for row in rows]}).encode()

    async def ask(self, client: Client) -> int:
        """Ask once, and check the answer."""
        rows, body = self.request()
        begin = time.perf_counter()
        status, answer = await client.post("/embed", body)
        self.statuses[status] += 1
        if status == 200:
            self.seconds.append(time.perf_counter() - begin)
            self.wrong += not np.array_equal(np.float32(json.loads(answer)), self.expected[rows])
        return status


async def steady(load: Load, port: int, connections: int, seconds: float) -> float:
    """Ask from connections that wait for their answers; return answers a second."""
    end = time.monotonic() + seconds
    before = load.statuses[200]

    async def run() -> None:
        client = Client(port)
        while time.monotonic() < end:
            await load.ask(client)
        await client.close()

    await asyncio.gather(*(run() for _ in range(connections)))
    return (load.statuses[200] - before) / seconds


async def overload(
    load: Load, port: int, pid: int, rate: float, seconds: float
) -> list[dict[str, Any]]:
    """Ask `rate` times a second whatever comes back, with some bad clients; return memory over time."""
    begin = time.monotonic()
    end = begin + seconds
    free = [Client(port) for _ in range(2000)]
    running: set[asyncio.Task[Any]] = set()
    memory = []
    sent, noted = 0, begin
    while (now := time.monotonic()) < end:
        due = int((now - begin) * rate) - sent
        for _ in range(min(due, len(free))):
            task = asyncio.create_task(_once(load, free.pop(), free))
            running.add(task)
            task.add_done_callback(running.discard)
        sent += max(due, 0)
        if now - noted > max(1.0, seconds / 60):
            noted = now
            memory.append({"second": round(now - begin), "rss_mb": _rss(pid)})
            for bad in (_half_a_body, _endless_head, _large_body, _hang_up):
                task = asyncio.create_task(bad(load, port))
                running.add(task)
                task.add_done_callback(running.discard)
        await asyncio.sleep(0.005)
    await asyncio.gather(*running, return_exceptions=True)
    for client in free:
        await client.close()
    return memory


async def _once(load: Load, client: Client, free: list[Client]) -> None:
    try:
        await load.ask(client)
    finally:
        free.append(client)


async def _half_a_body(load: Load, port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"inputs"')
    await asyncio.sleep(5)
    writer.close()


async def _endless_head(load: Load, port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /embed HTTP/1.1\r\n")
    for i in range(50):
        if writer.is_closing():
            break
        writer.write(b"X-Header-%d: x\r\n" % i)
        await asyncio.sleep(0.1)
    writer.close()


async def _large_body(load: Load, port: int) -> None:
    client = Client(port)
    status, _ = await client.post("/embed", b"x" * 100_000_000)
    assert status in (0, 413), status
    await client.close()


async def _hang_up(load: Load, port: int) -> None:
    _, body = load.request()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await writer.drain()
    writer.close()


async def idle(load: Load, port: int, pid: int, count: int) -> dict[str, Any]:
    """Open many connections that say nothing, and ask from one more."""
    writers = []
    for _ in range(count):
        try:
            writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
        except OSError as error:
            print(f"{len(writers)} idle connections: {error}", file=sys.stderr)
            break
    load.seconds.clear()
    client = Client(port)
    for _ in range(20):
        await load.ask(client)
    found = {
        "connections": len(writers),
        "rss_mb": _rss(pid),
        "p50_ms": _ms(load.seconds, 50),
    }
    for writer in writers:
        writer.close()
    await client.close()
    return found


def _rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


def _ms(seconds: list[float], percent: float) -> float:
    return round(float(np.percentile(seconds, percent)) * 1000, 1) if seconds else float("nan")


async def measure(load: Load, port: int, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure steady load, overload, and what is left after it."""
    warm = max(2.0, min(10.0, options.seconds / 10))
    capacity = await steady(load, port, 4, warm)
    unloaded = {"p50_ms": _ms(load.seconds, 50), "p99_ms": _ms(load.seconds, 99)}
    await steady(load, port, 64, warm)
    before = _rss(pid)
    load.seconds.clear()
    load.statuses.clear()
    memory = await overload(load, port, pid, 10 * capacity, options.seconds)
    during = {
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "wrong_answers": load.wrong,
        "p50_ms": _ms(load.seconds, 50),
        "p99_ms": _ms(load.seconds, 99),
    }
    await asyncio.sleep(2)
    return {
        "capacity_requests_per_second": round(capacity, 1),
        "four_connections": unloaded,
        "overload": during,
        "rss_before_mb": before,
        "rss_during_mb": memory,
        "rss_after_mb": _rss(pid),
        "idle": await idle(load, port, pid, options.idle),
        "wrong_answers": load.wrong,
    }


def main() -> None:
    """Run a server and load it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--queue-requests", default="64")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = Load(options.model, 1)
    command = [sys.executable, "-m", "quaver", "serve", "-m", options.model, "--port", "0"]
    command += ["--queue-requests", options.queue_requests, "--no-access-log"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                port = event["address"][1]
            if event["event"] == "ready":
                break
        result = {"kind": "overload", "run": describe_run(info()["threads"], sys.argv)}
        result |= asyncio.run(measure(load, port, server.pid, options))
        server.send_signal(signal.SIGTERM)
        result["exit_code"] = server.wait()
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    assert result["wrong_answers"] == 0
    assert set(result["overload"]["statuses"]) <= {"0", "200", "429"}


if __name__ == "__main__":
    main()
