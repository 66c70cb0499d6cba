"""How long a request keeps the event loop of `quaver serve` busy: in its longest step, and in all of them.

    python benchmarks/loop.py --model FOLDER [--out FILE]

Other requests wait for the longest step, in which a body is read, say. The application runs in this process without
a network. A step is a callback of asyncio's loop, and counts by the CPU time of the loop's thread, so other load on
the machine changes little. Each request is asked three times; figures are medians. Before that it measures how long
JSON that is read or written on a thread of its own keeps the other threads waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from quaver import Embedder, info
from quaver.serve import ModelSettings, Settings, create_app
from quaver.serve.app import Log
from quaver_bench.record import describe_run

WORDS = "the quick brown fox jumps over the lazy dog and runs away "
ROUNDS = 3


def bodies(ids: list[int]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the requests: path and body by name."""
    query, passage = WORDS, WORDS * 9
    return {
        "a query": ("/v1/embeddings", {"input": query}),
        "64 passages": ("/v1/embeddings", {"input": [f"{i} {passage}" for i in range(64)]}),
        "64 passages, Cohere": ("/v2/embed", {"texts": [f"{i} {passage}" for i in range(64)]}),
        "2,048 queries": ("/v1/embeddings", {"input": [f"{i} {query}" for i in range(2048)]}),
        "2,048 queries, Cohere": ("/v2/embed", {"texts": [f"{i} {query}" for i in range(2048)]}),
        "2,048 queries, Ollama": (
            "/api/embed",
            {"model": "model", "input": [f"{i} {query}" for i in range(2048)]},
        ),
        "2,048 equal lists of 256 ids": ("/v1/embeddings", {"input": [ids] * 2048}),
    }


class Steps:
    """The CPU seconds of each callback that the loop runs."""

    def __init__(self) -> None:
        """Measure from now on."""
        self.seconds: list[float] = []
        inner: Callable[[asyncio.Handle], None] = asyncio.Handle._run
        seconds = self.seconds

        def run(handle: asyncio.Handle) -> None:
            begin = time.thread_time()
            inner(handle)
            seconds.append(time.thread_time() - begin)

        asyncio.Handle._run = run  # type: ignore[method-assign]


async def ask(app: Any, path: str, body: bytes) -> int:
    """Send a request to the application; return the bytes of its answer."""
    sent = [{"type": "http.request", "body": body, "more_body": False}]
    received = 0

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await asyncio.sleep(3600)
        raise AssertionError("the client stays")

    async def send(message: dict[str, Any]) -> None:
        nonlocal received
        assert message.get("status", 200) == 200
        received += len(message.get("body", b""))

    headers = [(b"host", b"x"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return received


async def measured(model: str) -> dict[str, Any]:
    """Ask for everything."""
    settings = Settings(
        model=(ModelSettings(source=model, name="model"),), timeout=600.0, queue_time=600.0
    )
    app = create_app(settings, log=Log(io.StringIO()))
    ids = Embedder.from_pretrained(model).tokenizer.encode([WORDS * 60], longest=256).ids.tolist()
    steps = Steps()
    found: dict[str, Any] = {}
    async with app.router.lifespan_context(app):
        while app.state.server.loading:
            await asyncio.sleep(0.05)
        for name, (path, given) in bodies(ids).items():
            body = json.dumps(given).encode()
            longest, all_of_them, size = [], [], 0
            for _ in range(ROUNDS):
                await asyncio.sleep(0.1)
                steps.seconds.clear()
                size = await ask(app, path, body)
                await asyncio.sleep(0)  # ends the step that wrote the answer
                longest.append(max(steps.seconds))
                all_of_them.append(sum(steps.seconds))
            found[name] = {
                "body_bytes": len(body),
                "answer_bytes": size,
                "longest_ms": round(statistics.median(longest) * 1000, 2),
                "all_ms": round(statistics.median(all_of_them) * 1000, 2),
            }
            print(f"{name:32} {found[name]}", flush=True)
    return found


def gap(work: Callable[[], object]) -> float:
    """Return the longest time in milliseconds in which a thread that does some work lets no other one run."""
    gaps: list[float] = []
    over = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not over.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
            time.sleep(0)

    ticking, working = threading.Thread(target=tick), threading.Thread(target=work)
    ticking.start()
    time.sleep(0.05)
    gaps.clear()
    working.start()
    working.join()
    over.set()
    ticking.join()
    return max(gaps) * 1000


def threads() -> dict[str, float]:
    """Return how long reading and writing JSON on a thread of its own keeps the others waiting, in milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # as the server does
    body = json.dumps([list(range(1000, 1512))] * 2048).encode()
    decoder = msgspec.json.Decoder(list[list[int]])
    vectors = np.random.default_rng(0).standard_normal((2048, 384)).astype(np.float32)
    works: dict[str, Callable[[], object]] = {
        "nothing": lambda: time.sleep(0.05),
        "read 2,048 lists of 512 ids": lambda: decoder.decode(body),
        "write 2,048 vectors": lambda: orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY),
    }
    found = {
        name: statistics.median(gap(work) for _ in range(ROUNDS)) for name, work in works.items()
    }
    sys.setswitchinterval(interval)
    return {name: round(milliseconds, 2) for name, milliseconds in found.items()}


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    gaps = threads()
    print(gaps)
    requests = asyncio.run(measured(options.model))
    result = {
        "kind": "loop",
        "run": describe_run(info()["threads"], sys.argv),
        "requests": requests,
        "gap_of_other_threads_ms": gaps,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
