"""The study: the same loads on each server, answers checked, memory read, and the library alongside its server."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver import CrossEncoder, Embedder
from quaver.errors import EngineError
from quaver_bench.corpus import read_corpus
from quaver_bench.engines import CannotRunError
from quaver_bench.inputs import TextSource
from quaver_bench.models import Model
from quaver_bench.servers.load import Load, Measured, run_loads
from quaver_bench.servers.process import HOST, Running, ask, free_port, running
from quaver_bench.servers.registry import OURS, Offer, Server, versions

QUERY_TOKENS = 16
BULK_TEXTS, BULK_TOKENS = 64, 128
PASSAGES, PASSAGE_TOKENS = 50, 100
_QUERIES, _BULKS, _RANKINGS = 2048, 16, 16
_CHECKED = 16
"""Answers of a load that are compared with float32."""
BULK_CONNECTIONS = 2
"""Connections that send bulk requests in a mix."""


@dataclass(frozen=True)
class Case:
    """One measurement of a server.

    Attributes:
        name: such as "query", "bulk", "mix" or "rerank".
        connections: connections of the load that the case is about.
        loads: name of a load to its connections.
    """

    name: str
    connections: int
    loads: Mapping[str, int]


def cases_of(connections: Sequence[int], *, quick: bool, rerank: bool) -> Iterator[Case]:
    """Yield the cases.

    Args:
        connections: numbers of connections, such as 1, 8, 64.
        quick: leave out what takes long: many connections with large requests.
        rerank: whether there is a cross-encoder.
    """
    for count in connections:
        yield Case("query", count, {"query": count})
    large = [count for count in connections if count <= 8]
    for count in large[:1] if quick else large:
        yield Case("bulk", count, {"bulk": count})
    for count in large if quick else connections:
        yield Case("mix", count, {"query": count, "bulk": BULK_CONNECTIONS})
    for count in large if rerank else ():
        yield Case("rerank", count, {"rerank": count})


@dataclass(frozen=True)
class Inputs:
    """What is sent, and what float32 answers.

    Attributes:
        queries: texts of 16 tokens.
        bulks: lists of 64 texts of 128 tokens.
        rankings: queries with 50 passages each.
        query_vectors: float32 (16, D), of the first queries.
        bulk_vectors: float32 (64, D), of the first bulk request.
        scores: float32 (2, 50), of the first rankings.
    """

    queries: Sequence[str]
    bulks: Sequence[Sequence[str]]
    rankings: Sequence[tuple[str, Sequence[str]]]
    query_vectors: NDArray[np.float32]
    bulk_vectors: NDArray[np.float32]
    scores: NDArray[np.float32]

    def loads(self, server: Server) -> dict[str, tuple[str, list[bytes]]]:
        """Return the path and the bodies of each load."""
        embed = [_embedding([query]) for query in self.queries]
        bulk = [_embedding(texts) for texts in self.bulks]
        rank = [_body(model="rerank", query=q, documents=list(d)) for q, d in self.rankings]
        return {
            "query": (server.embed_path, embed),
            "bulk": (server.embed_path, bulk),
            "rerank": (server.rerank_path, rank),
        }


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _embedding(texts: Sequence[str]) -> bytes:
    return _body(model="embed", input=list(texts))


def make_inputs(embed: Model, rerank: Model | None, *, corpus: Path | None, threads: int) -> Inputs:
    """Cut the texts, and compute what float32 answers to the first ones.

    Args:
        embed: the embedding model.
        rerank: the cross-encoder, or None.
        corpus: text to cut from; see `read_corpus`.
        threads: threads of Quaver in float32.
    """
    options: dict[str, Any] = {"precision": "float32", "threads": threads}
    embedder = Embedder.from_pretrained(embed.folder.path, **options)
    text = read_corpus(corpus, embedder.tokenizer, 4096).texts
    source = TextSource(embed.tokenizer_file(), text)

    def cut(count: int, tokens: int, seed: int) -> list[str]:
        texts = source.request([tokens] * count, seed=seed, batch=count).texts or ()
        return [text for text in texts if isinstance(text, str)]

    queries = cut(_QUERIES, QUERY_TOKENS, 1)
    bulks = [cut(BULK_TEXTS, BULK_TOKENS, 100 + i) for i in range(_BULKS)]
    rankings, scores = [], np.zeros((0, PASSAGES), np.float32)
    if rerank is not None:
        asked = cut(_RANKINGS, QUERY_TOKENS, 2)
        rankings = [(q, cut(PASSAGES, PASSAGE_TOKENS, 200 + i)) for i, q in enumerate(asked)]
        model = CrossEncoder.from_pretrained(rerank.folder.path, **options)
        scores = np.array(
            [model.predict([(q, d) for d in documents]) for q, documents in rankings[:2]],
            np.float32,
        ).reshape(2, PASSAGES)
    return Inputs(
        queries,
        bulks,
        rankings,
        embedder.encode(queries[:_CHECKED], normalize=True),
        embedder.encode(bulks[0], normalize=True),
        scores,
    )


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        seconds: of a case.
        warm_up: seconds before, which do not count.
        longest: most seconds of a case.
        threads: threads of every server.
        environments: folder of the servers' environments.
    """

    seconds: float
    warm_up: float
    longest: float
    threads: int
    environments: Path


_TURNS = 8
"""Times that the server and the library are measured one after the other."""


def measure_beside_library(
    server: Server, embed: Model, inputs: Inputs, options: Options, *, connections: int
) -> list[dict[str, Any]]:
    """Measure Quaver's server and `Embedder` itself, in int8, on the same texts, in turns.

    The machine's speed drifts by more than the server costs, so each turn has both within a second or two.

    Args:
        server: Quaver's.
        embed: the embedding model.
        inputs: the texts.
        options: how; a turn takes an eighth of the seconds for each figure.
        connections: connections that reach the highest rate of queries.

    Returns:
        for each turn, of the library and of the server: the median of a query in milliseconds, queries a second
        (the library: all in one batch; the server: many connections), and texts a second of bulk requests.

    Raises:
        CannotRunError: the server cannot be started.
    """
    embedder = Embedder.from_pretrained(embed.folder.path, threads=options.threads)
    seconds = max(options.seconds / _TURNS, 0.1)
    queries, bulks = list(inputs.queries), [list(texts) for texts in inputs.bulks]
    batch = queries[:256]
    loads = inputs.loads(server)
    port = free_port()
    python = server.python(options.environments)
    arguments = server.command(
        Offer(embed, None, options.threads, port, options.environments), python
    )
    path, bodies = loads["query"]

    def loaded(name: str, count: int) -> Measured:
        sent = [Load(name, count, *loads[name])]
        (found,) = run_loads(
            HOST, port, sent, seconds=seconds, warm_up=seconds / 4, longest=options.longest
        )
        return found

    def of_server() -> dict[str, float]:
        return {
            "query_p50_ms": loaded("query", 1).percentile(50),
            "queries_per_second": loaded("query", connections).rate,
            "bulk_texts_per_second": BULK_TEXTS * loaded("bulk", 1).rate,
        }

    def of_library() -> dict[str, float]:
        query = _median_seconds(lambda i: embedder.encode(queries[i % len(queries)]), seconds)
        batched = _median_seconds(lambda _: embedder.encode(batch), seconds)
        bulk = _median_seconds(lambda i: embedder.encode(bulks[i % len(bulks)]), seconds)
        return {
            "query_p50_ms": 1000 * query,
            "queries_per_second": len(batch) / batched,
            "bulk_texts_per_second": BULK_TEXTS / bulk,
        }

    turns = []
    with running(
        [str(python), *arguments], port, path=path, body=bodies[-1], threads=options.threads
    ):
        for turn in range(_TURNS):
            sides = {"library": of_library, "server": of_server}
            order = sorted(sides, reverse=bool(turn % 2))
            found = {name: sides[name]() for name in order}
            turns.append(
                {
                    name: {what: round(value, 3) for what, value in found[name].items()}
                    for name in sides
                }
            )
    return turns


def _median_seconds(call: Callable[[int], Any], seconds: float) -> float:
    call(0)
    found: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(found) < 3:
        start = time.perf_counter()
        call(len(found))
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure_server(
    server: Server,
    embed: Model,
    rerank: Model | None,
    inputs: Inputs,
    cases: Sequence[Case],
    options: Options,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Start a server, and measure its cases.

    Args:
        server: the server.
        embed: the embedding model.
        rerank: the cross-encoder, or None.
        inputs: what is sent.
        cases: what to measure; those with reranking are left out if the server has none.
        options: how.

    Returns:
        facts about the server, and a row for each load of each case.

    Raises:
        CannotRunError: it cannot be started, or does not answer.
    """
    port = free_port()
    ranks = rerank if server.reranks else None
    offer = Offer(embed, ranks, options.threads, port, options.environments)
    python = server.python(options.environments)
    facts: dict[str, Any] = {"computes": server.describe, "versions": versions(server, python)}
    arguments = server.command(offer, python)
    loads = inputs.loads(server)
    path, bodies = loads["query"]
    rows: list[dict[str, Any]] = []
    with running(
        [str(python), *arguments], port, path=path, body=bodies[-1], threads=options.threads
    ) as run:
        facts["start_seconds"] = round(run.start_seconds, 2)
        facts["start_mb"] = round(run.resident_mb(), 1)
        for case in cases:
            if case.name == "rerank" and ranks is None:
                continue
            rows += _measure_case(server, case, run, loads, inputs, options)
    facts["largest_mb"] = max(row["resident_mb"] for row in rows)
    return facts, rows


def _measure_case(
    server: Server,
    case: Case,
    run: Running,
    loads: Mapping[str, tuple[str, list[bytes]]],
    inputs: Inputs,
    options: Options,
) -> Iterator[dict[str, Any]]:
    sent = [Load(name, count, *loads[name]) for name, count in case.loads.items()]
    path, bodies = loads["query"]
    ask(run.port, path, bodies[-1])  # answered when nothing of the last case is left
    used = run.cpu_seconds()
    begin = time.perf_counter()
    try:
        measured = run_loads(
            HOST,
            run.port,
            sent,
            seconds=options.seconds,
            warm_up=options.warm_up,
            longest=options.longest,
        )
    except (EngineError, OSError) as error:
        print(f"{server.name}: {case.name} x {case.connections}: {error}", file=sys.stderr)
        yield {
            "server": server.name,
            "case": case.name,
            "connections": case.connections,
            "load": case.name if case.name != "mix" else "query",
            "failed": str(error),
            "resident_mb": round(run.resident_mb(), 1),
        }
        return
    share = (run.cpu_seconds() - used) / (time.perf_counter() - begin)
    for load, found in zip(sent, measured, strict=True):
        row = {
            "server": server.name,
            "case": case.name,
            "connections": case.connections,
            "load": load.name,
            **_figures(load, found),
            "resident_mb": round(run.resident_mb(), 1),
            "server_cpus": round(share, 2),
            **_checked(load.name, found, inputs),
        }
        print(_line(row), file=sys.stderr, flush=True)
        yield row


def _figures(load: Load, found: Measured) -> dict[str, Any]:
    return {
        "requests": len(found.seconds),
        "requests_per_second": round(found.rate, 2),
        "p50_ms": round(found.percentile(50), 3),
        "p99_ms": round(found.percentile(99), 3),
        "statuses": {str(status): count for status, count in sorted(found.statuses.items())},
        "client_cpus": round(found.client_share, 3),
    }


def _checked(load: str, found: Measured, inputs: Inputs) -> dict[str, float]:
    """Compare the first answers with float32."""
    if load == "rerank":
        agree = [
            _rank_correlation(_scores(json.loads(body)), inputs.scores[index])
            for index, body in sorted(found.answers.items())
            if index < len(inputs.scores)
        ]
        return {"rank_correlation": round(float(np.mean(agree)), 5)} if agree else {}
    expected = inputs.query_vectors if load == "query" else inputs.bulk_vectors
    checked = []
    for index, body in found.answers.items():
        if index >= (len(expected) if load == "query" else 1):
            continue
        data = sorted(json.loads(body)["data"], key=lambda entry: entry["index"])
        vectors = np.array([entry["embedding"] for entry in data], np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        right = expected[index : index + 1] if load == "query" else expected
        checked += (vectors * right).sum(1).tolist()
    if not checked:
        return {}
    return {"cosine": round(float(np.mean(checked)), 5), "cosine_min": round(min(checked), 5)}


def _scores(body: Mapping[str, Any]) -> NDArray[np.float32]:
    found = np.zeros(len(body["results"]), np.float32)
    for entry in body["results"]:
        found[entry["index"]] = entry["relevance_score"]
    return found


def _rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation."""
    first, second = (np.argsort(np.argsort(scores)) for scores in (a, b))
    distance = float(((first - second) ** 2).sum())
    return 1 - 6 * distance / (len(a) * (len(a) ** 2 - 1))


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['server']:>22}  {row['case']:>6} x {row['connections']:<3} {row['load']:>6}  "
        f"{row['requests_per_second']:>9,.1f}/s  p50 {row['p50_ms']:>9,.2f}  p99 {row['p99_ms']:>9,.2f} ms  "
        f"{row['resident_mb']:>7,.0f} MB"
    )


def measure(
    servers: Sequence[Server],
    embed: Model,
    rerank: Model | None,
    cases: Sequence[Case],
    options: Options,
    *,
    rounds: int,
    corpus: Path | None,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measure servers in turns.

    Args:
        servers: the servers.
        embed: the embedding model.
        rerank: the cross-encoder, or None.
        cases: what to measure.
        options: how.
        rounds: turns; each starts every server again.
        corpus: text to send; see `read_corpus`.
        keep: called with the result so far, after each server.

    Raises:
        EngineError: Quaver's own server cannot run.
    """
    result: dict[str, Any] = {"servers": {}, "missing": {}, "rows": []}
    inputs = make_inputs(embed, rerank, corpus=corpus, threads=options.threads)
    for turn in range(rounds):
        for server in servers:
            if server.name in result["missing"]:
                continue
            print(f"{server.name} ...", file=sys.stderr, flush=True)
            try:
                facts, rows = measure_server(server, embed, rerank, inputs, cases, options)
            except CannotRunError as error:
                if server.name == OURS:
                    raise EngineError(f"Quaver's server cannot run: {error}") from error
                print(f"{server.name} is not measured: {error}", file=sys.stderr)
                result["missing"][server.name] = str(error)
                continue
            result["servers"][server.name] = facts
            result["rows"] += [{"round": turn, **row} for row in rows]
            keep(result)
    keep(result)
