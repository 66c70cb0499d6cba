"""Concurrency: single queries from many clients at once, from text to vector."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from quaver_bench.engines import Engine
from quaver_bench.engines.registry import FORMS, OURS
from quaver_bench.forecast import CLIENTS_BLOCK
from quaver_bench.inputs import Text
from quaver_bench.result import Row, rounded
from quaver_bench.stage import Stage
from quaver_bench.timing import Turns, take_turns

QUERY_TOKENS = (8, 12, 16, 16, 20, 24, 32)
"""Lengths of the queries in tokens, in turns: typical of search boxes."""
_QUERIES = 56


@dataclass(frozen=True)
class Block:
    """The queries of one block.

    Attributes:
        queries_per_second: of all clients together.
        seconds: latency of each query.
    """

    queries_per_second: float
    seconds: tuple[float, ...]


def run_clients(engine: Engine, queries: Sequence[Text], clients: int, seconds: float) -> Block:
    """Let clients send one query after another, each waiting for its answer.

    Args:
        engine: the engine; called from `clients` threads at once.
        queries: sent in turns; each client starts at another one.
        clients: number of clients.
        seconds: duration.

    Returns:
        the block.
    """
    latencies: list[list[float]] = [[] for _ in range(clients)]
    errors: list[BaseException] = []
    gate = threading.Barrier(clients + 1)
    begin = time.perf_counter()

    def client(index: int) -> None:
        chosen = itertools.cycle([*queries[index:], *queries[:index]])
        try:
            gate.wait()
            while time.perf_counter() - begin < seconds and not errors:
                start = time.perf_counter()
                engine.encode([next(chosen)])
                latencies[index].append(time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001 - handed to the caller, who names the engine
            errors.append(error)

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    gate.wait()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    done = [second for found in latencies for second in found]
    return Block(len(done) / (time.perf_counter() - begin), tuple(done))


def clients_title(clients: int) -> str:
    """Return the name of a case with a number of clients."""
    return f"{clients} clients" if clients > 1 else "1 client"


def measure_clients(stage: Stage, clients: int) -> list[Row]:
    """Measure queries per second and their latency with a number of clients.

    Args:
        stage: model and engines.
        clients: number of clients.

    Returns:
        a row for each engine.
    """
    lengths = [QUERY_TOKENS[i % len(QUERY_TOKENS)] for i in range(_QUERIES)]
    queries = stage.source.request(lengths, seed=clients, batch=1).texts
    name = clients_title(clients)
    if queries is None:
        stage.miss("concurrency", name, "it needs text, and this run measures random ids")
        return []
    blocks, vectors = {}, {}
    for engine_name, engine in stage.engines.items():
        if FORMS[engine_name].batches:
            continue
        stage.progress.say(f"{name}: {engine_name}")
        block = partial(run_clients, engine, queries, clients, CLIENTS_BLOCK)
        warm = partial(run_clients, engine, queries, clients, CLIENTS_BLOCK / 3)
        encoded = partial(engine.encode, queries)
        if (found := stage.attempt(engine_name, name, encoded)) is None:
            continue
        if stage.attempt(engine_name, name, warm) is not None:
            blocks[engine_name], vectors[engine_name] = block, found
    stage.progress.say(f"{name}: all in turns")
    turns = take_turns(
        blocks,
        seconds=stage.options.seconds,
        least=stage.options.least,
        own=stage.processes,
        on_round=stage.progress.refresh,
    )
    cosines = stage.fidelity(vectors)
    return [_row(stage, name, engine_name, turns, cosines[engine_name]) for engine_name in blocks]


def _row(stage: Stage, case: str, engine: str, turns: Turns[Block], cosine: float) -> Row:
    rounds = [blocks[engine] for blocks in turns.rounds]
    seconds = [second for block in rounds for second in block.seconds]
    values = {
        "queries_per_second": rounded(statistics.median(b.queries_per_second for b in rounds), 6),
        **{f"p{p}_ms": round(1000 * float(np.percentile(seconds, p)), 4) for p in (50, 95, 99)},
        "queries": len(seconds),
    }
    row = Row("concurrency", stage.model.name, case, engine, stage.run, values)
    row.cosine = cosine
    if engine != OURS and OURS in turns.rounds[0]:
        ratios = [g[OURS].queries_per_second / g[engine].queries_per_second for g in turns.rounds]
        row.compare(statistics.median(ratios), *np.percentile(ratios, (25, 75)))
    row.rounds, row.dropped, row.disturbed = len(rounds), turns.dropped, turns.disturbed
    row.settings = dict(stage.engines[engine].settings)
    return row
