"""Ten times the load that Quaver's server can answer: every answer right or refused, and memory flat.

    python -m quaver_bench.servers.overload MODEL --minutes 10 [--out FILE]

First the server's rate is measured with few connections. Then requests arrive at ten times this rate,
whether or not earlier ones were answered. Each answer must have the bits of `Embedder`, or be a 429
with Retry-After. It ends with 1 if anything else was answered, or if memory drifted by more than 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from quaver.embedder import Embedder
from quaver.engine import available_threads
from quaver.errors import EngineError, QuaverError
from quaver_bench.corpus import read_corpus
from quaver_bench.inputs import TextSource
from quaver_bench.models import Model, open_model
from quaver_bench.record import describe_run
from quaver_bench.servers.load import Connection, Load, connect, run_loads, written
from quaver_bench.servers.process import HOST, Running, free_port, running
from quaver_bench.servers.registry import SERVERS, Offer

PATH = "/v1/embeddings"
SHAPES = ((1, 16), (1, 64), (8, 64), (64, 128))
"""Texts and tokens of the requests, in equal numbers."""
_BODIES = 64
_TIMES = 10.0
_DRIFT = 0.05
_MOST_CONNECTIONS = 4096
_SAMPLE_SECONDS = 1.0


@dataclass
class Tally:
    """How requests ended.

    Attributes:
        right: answers with the library's bits.
        refused: answers with 429.
        wrong: what else was answered, and how often.
        seconds: latency of each right answer.
        resident: the server's memory in MB, once a second.
        late: requests that were not sent because all connections were busy.
    """

    right: int = 0
    refused: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    late: int = 0

    def blame(self, what: str) -> None:
        """Count something that must not happen."""
        self.wrong[what] = self.wrong.get(what, 0) + 1


def main() -> None:
    """Measure, print, and end with 1 if a rule was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m quaver_bench.servers.overload", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("model", help="folder of an embedding model")
    add("--minutes", type=float, default=10.0)
    add("--threads", type=int, default=available_threads())
    add("--corpus", type=Path, help="text to send; default: Python's documentation")
    add("--cache", type=Path, default=Path("build/bench-models"))
    add("--out", type=Path, help="results, JSON")
    given = parser.parse_args()
    try:
        result = overload(
            open_model(given.model, given.cache),
            seconds=60 * given.minutes,
            threads=given.threads,
            corpus=given.corpus,
        )
    except QuaverError as error:
        sys.exit(f"quaver_bench.servers.overload: {error}")
    run = describe_run(given.threads, ["-m", "quaver_bench.servers.overload", *sys.argv[1:]])
    text = json.dumps({"kind": "overload", "run": run, **result}, indent=1)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(1 if result["broken"] else 0)


def overload(
    model: Model, *, seconds: float, threads: int, corpus: Path | None = None
) -> dict[str, Any]:
    """Start a server, overload it, and check what it did.

    Args:
        model: the embedding model.
        seconds: how long.
        threads: threads of the engine.
        corpus: text to send; see `read_corpus`.

    Returns:
        Figures; "broken" lists the rules that did not hold.
    """
    embedder = Embedder.from_pretrained(model.folder.path, threads=threads)
    source = TextSource(
        model.folder.transformer, read_corpus(corpus, embedder.tokenizer, 4096).texts
    )
    bodies, expected = [], []
    for i in range(_BODIES):
        count, tokens = SHAPES[i % len(SHAPES)]
        texts = source.request([tokens] * count, seed=i, batch=count).texts or ()
        bodies.append(
            json.dumps({"input": texts, "model": "embed", "encoding_format": "base64"}).encode()
        )
        rows = np.asarray(embedder.encode(list(texts)), "<f4")
        expected.append([base64.b64encode(row.tobytes()).decode() for row in rows])
    port = free_port()
    offer = Offer(model, None, threads, port, Path("none"))
    command = [sys.executable, *SERVERS["quaver"].command(offer, Path(sys.executable))]
    # A short queue: what is accepted is answered within seconds, and the bound is reached at once.
    command += ["--queue-requests", "128", "--queue-tokens", "200000"]
    with running(command, port, path=PATH, body=bodies[0], threads=threads) as run:
        load = Load("mixed", 16, PATH, bodies)
        capacity = run_loads(HOST, port, [load], seconds=5, warm_up=3, longest=60)[0]
        before = run.resident_mb()
        tally = uvloop.run(_overload(run, bodies, expected, _TIMES * capacity.rate, seconds))
        time.sleep(3)
        after = run.resident_mb()
    return _judged(tally, capacity.rate, before, after, seconds)


async def _overload(
    run: Running,
    bodies: Sequence[bytes],
    expected: Sequence[Sequence[str]],
    rate: float,
    seconds: float,
) -> Tally:
    """Send requests at a rate, for some time, and wait for the last answers."""
    tally, chance = Tally(), random.Random(0)
    requests = [written(PATH, body) for body in bodies]
    right: dict[int, bytes] = {}
    idle: list[Connection] = []
    opened: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(index: int) -> None:
        try:
            if idle:
                connection = idle.pop()
            else:
                connection = await connect(HOST, run.port)
                opened.append(connection)
            start = time.perf_counter()
            status, body = await connection.ask(requests[index])
        except (EngineError, OSError) as error:
            tally.blame(str(error))
            return
        idle.append(connection)
        if status == 429:
            tally.refused += 1
        elif status != 200:
            tally.blame(f"status {status}")
        elif body == right.get(index) or _is_right(body, expected[index]):
            right[index] = body
            tally.right += 1
            tally.seconds.append(time.perf_counter() - start)
        else:
            tally.blame("other bits")

    begin = last = time.perf_counter()
    sent = 0
    while (now := time.perf_counter()) - begin < seconds:
        while sent < (now - begin) * rate:
            sent += 1
            if len(tasks) >= _MOST_CONNECTIONS:
                tally.late += 1
                continue
            task = asyncio.create_task(one(chance.randrange(len(requests))))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if now - last >= _SAMPLE_SECONDS:
            last = now
            tally.resident.append(run.resident_mb())
        await asyncio.sleep(0.002)
    if tasks:
        await asyncio.wait(set(tasks), timeout=120)
    for _ in tasks:
        tally.blame("no answer")
    for connection in opened:
        await connection.close()
    return tally


def _is_right(body: bytes, expected: Sequence[str]) -> bool:
    data = sorted(json.loads(body)["data"], key=lambda entry: entry["index"])
    return [entry["embedding"] for entry in data] == list(expected)


def _judged(
    tally: Tally, capacity: float, before: float, after: float, seconds: float
) -> dict[str, Any]:
    # The first tenth fills caches and buffers.
    settled = tally.resident[len(tally.resident) // 10 :] or [before]
    drift = (max(settled) - min(settled)) / min(settled)
    latencies = tally.seconds or [float("nan")]
    broken = [f"{what}: {count}" for what, count in sorted(tally.wrong.items())]
    if not tally.right:
        broken.append("no request was answered")
    if not tally.refused:
        broken.append("no request was refused: that was no overload")
    if drift > _DRIFT:
        broken.append(f"memory drifted by {drift:.1%}")
    if after > before * (1 + _DRIFT) and after > max(settled[:1]) * (1 + _DRIFT):
        broken.append(f"memory stayed at {after:.0f} MB, {before:.0f} MB before")
    return {
        "seconds": seconds,
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round((tally.right + tally.refused) / seconds, 1),
        "not_sent": tally.late,
        "right": tally.right,
        "right_per_second": round(tally.right / seconds, 1),
        "refused": tally.refused,
        "wrong": tally.wrong,
        "accepted_p50_ms": round(1000 * float(np.percentile(latencies, 50)), 1),
        "accepted_p99_ms": round(1000 * float(np.percentile(latencies, 99)), 1),
        "accepted_max_ms": round(1000 * max(latencies), 1),
        "resident_mb": {
            "before": round(before, 1),
            "least": round(min(settled), 1),
            "most": round(max(settled), 1),
            "after": round(after, 1),
        },
        "drift": round(drift, 4),
        "broken": broken,
    }


if __name__ == "__main__":
    main()
