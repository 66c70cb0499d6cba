"""Compare stores of passages and vectors: writing, searching and filtering.

    python benchmarks/index/alternatives.py ENGINE MODEL CORPUS.jsonl ... --cache vectors.npz

ENGINE is quaver, edge (Qdrant Edge with a search graph), lancedb or usearch; install the last three
yourself (qdrant-edge-py, lancedb, usearch). A passage is 90 words of a corpus. If there are too few, more
are made by mixing two passages and their vectors. Vectors are computed once and cached, so all engines
get the same ones. Times are wall times of a call, as median and minimum, because no machine is completely
quiet.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver import Embedder, Passage
from quaver.store import Compare, Manifest
from quaver.store.folder import FolderStore
from quaver.store.terms import TermAnalyzer

K = 10
BATCH = 64
FLUSH = 10
"""Batches between two flushes: about a second of indexing."""

Vectors = NDArray[np.float32]


class Engine(Protocol):
    """An engine to compare; methods that it lacks are not measured."""

    def write(self, first: int, texts: list[str], vectors: Vectors, flush: bool) -> None:
        """Store passages, numbered from ``first``."""
        ...

    def finish(self) -> None:
        """Build the search structures."""
        ...

    def dense(self, vector: Vectors) -> list[int]:
        """Return the numbers of the nearest passages."""
        ...


class Quaver:
    """Quaver's own store."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Make a store."""
        self._store = FolderStore.create(folder / "kb", Manifest("m", "f", dimension, 100, ""))

    def write(self, first: int, texts: list[str], vectors: Vectors, flush: bool) -> None:
        """Store passages."""
        self._store.upsert(
            [
                Passage(identity(i), text, f"{i // 20}.txt", "", i, i, "/r", {"page": i % 50})
                for i, text in enumerate(texts, start=first)
            ],
            vectors,
        )
        if flush:
            self._store.flush()

    def finish(self) -> None:
        """Merge words."""
        self._store.flush()
        self._store.optimize()

    def dense(self, vector: Vectors) -> list[int]:
        """Find by vector."""
        return [hit.start for hit in self._store.search(vector, k=K)]

    def words(self, text: str) -> object:
        """Find by words."""
        return self._store.search(text=text, k=K)

    def hybrid(self, vector: Vectors, text: str) -> object:
        """Find by both."""
        return self._store.search(vector, text=text, k=K)

    def number(self, value: int) -> object:
        """Count by a number in the metadata."""
        return self._store.count(Compare("page", ">=", value))

    def source(self, value: int) -> object:
        """Count by the source."""
        return self._store.count(Compare("source", "==", f"{value}.txt"))


class Edge:
    """Qdrant Edge, as Quaver used it until format version 2."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Make a shard."""
        import qdrant_edge as edge

        self._edge: Any = edge
        dense = edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)
        words = edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=edge.Memory.Cached)
        config = edge.EdgeConfig(vectors={"dense": dense}, sparse_vectors={"bm25": words})
        (folder / "shard").mkdir()
        self._shard = edge.EdgeShard.create(str(folder / "shard"), config)
        self._terms = TermAnalyzer("english")

    def write(self, first: int, texts: list[str], vectors: Vectors, flush: bool) -> None:
        """Store points."""
        points = []
        for i, (text, row) in enumerate(zip(texts, vectors.tolist(), strict=True), start=first):
            terms = self._terms.document(text)
            sparse = self._edge.SparseVector(terms.indices, terms.values)
            payload = {"number": i, "text": text, "source": f"{i // 20}.txt", "page": i % 50}
            named = {"dense": row, "bm25": sparse}
            points.append(self._edge.Point(id=identity(i), vector=named, payload=payload))
        self._shard.update(self._edge.UpdateOperation.upsert_points(points))
        if flush:
            self._shard.flush()

    def finish(self) -> None:
        """Build the graph."""
        self._shard.flush()
        self._shard.optimize()

    def _asked(self, *queries: Any) -> list[Any]:
        requests = [
            self._edge.QueryRequest(limit=limit, query=query, with_payload=limit == K)
            for query, limit in queries
        ]
        found = self._shard.query_batch(self._edge.QueryBatchRequest(requests))
        return list(found)

    def _nearest(self, vector: Vectors) -> Any:
        return self._edge.Query.Nearest(vector.tolist(), using="dense")

    def _worded(self, text: str) -> Any:
        terms = self._terms.query(text)
        sparse = self._edge.SparseVector(terms.indices, terms.values)
        return self._edge.Query.Nearest(sparse, using="bm25")

    def dense(self, vector: Vectors) -> list[int]:
        """Find by vector."""
        return [point.payload["number"] for point in self._asked((self._nearest(vector), K))[0]]

    def words(self, text: str) -> object:
        """Find by words."""
        return self._asked((self._worded(text), K))

    def hybrid(self, vector: Vectors, text: str) -> object:
        """Find by both, without fusing the rankings."""
        found = self._asked((self._nearest(vector), 100), (self._worded(text), 100))
        best = [point.id for ranking in found for point in ranking[: K // 2]]
        return self._shard.retrieve(best, with_payload=True, with_vector=False)

    def _counted(self, **condition: Any) -> object:
        field = self._edge.FieldCondition(**condition)
        wanted = self._edge.Filter(must=[field])
        return self._shard.count(self._edge.CountRequest(exact=True, filter=wanted))

    def number(self, value: int) -> object:
        """Count by a number in the payload."""
        return self._counted(key="page", range=self._edge.RangeFloat(gte=value))

    def source(self, value: int) -> object:
        """Count by the source."""
        return self._counted(key="source", match=self._edge.MatchValue(f"{value}.txt"))


class Lance:
    """LanceDB with a search graph and its own keyword search."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Make a table."""
        import lancedb
        import pyarrow as pa

        self._pa: Any = pa
        self._schema = pa.schema(
            [
                ("number", pa.int64()),
                ("text", pa.string()),
                ("source", pa.string()),
                ("page", pa.int64()),
                ("vector", pa.list_(pa.float32(), dimension)),
            ]
        )
        self._table: Any = lancedb.connect(folder / "lance").create_table("p", schema=self._schema)
        self._waiting: list[Any] = []

    def write(self, first: int, texts: list[str], vectors: Vectors, flush: bool) -> None:
        """Add rows; each flush is a version."""
        numbers = range(first, first + len(texts))
        columns = {
            "number": list(numbers),
            "text": texts,
            "source": [f"{i // 20}.txt" for i in numbers],
            "page": [i % 50 for i in numbers],
            "vector": list(vectors),
        }
        self._waiting.append(self._pa.table(columns, schema=self._schema))
        if flush:
            self._table.add(self._pa.concat_tables(self._waiting))
            self._waiting.clear()

    def finish(self) -> None:
        """Build both indexes."""
        from lancedb.index import FTS, HnswSq

        if self._waiting:
            self._table.add(self._pa.concat_tables(self._waiting))
        self._table.create_index("text", config=FTS())
        self._table.create_index("vector", config=HnswSq(distance_type="cosine", num_partitions=1))

    def dense(self, vector: Vectors) -> list[int]:
        """Find by vector."""
        found = self._table.search(vector).distance_type("cosine").limit(K).to_list()
        return [row["number"] for row in found]

    def words(self, text: str) -> object:
        """Find by words."""
        return self._table.search(text, query_type="fts").limit(K).to_list()

    def hybrid(self, vector: Vectors, text: str) -> object:
        """Find by both."""
        asked = self._table.search(query_type="hybrid").vector(vector).text(text)
        return asked.limit(K).to_list()

    def number(self, value: int) -> object:
        """Count by a number."""
        return self._table.count_rows(f"page >= {value}")

    def source(self, value: int) -> object:
        """Count by the source."""
        return self._table.count_rows(f"source = '{value}.txt'")


class USearch:
    """A search graph in a file, and nothing else."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Make an empty graph."""
        from usearch.index import Index as Graph

        self._path = folder / "graph"
        self._graph: Any = Graph(ndim=dimension, metric="cos", dtype="f32")

    def write(self, first: int, texts: list[str], vectors: Vectors, flush: bool) -> None:
        """Add vectors."""
        self._graph.add(np.arange(first, first + len(texts)), vectors)

    def finish(self) -> None:
        """Write the file."""
        self._graph.save(str(self._path))

    def dense(self, vector: Vectors) -> list[int]:
        """Find by vector."""
        return list(map(int, self._graph.search(vector, K).keys))


ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "quaver": Quaver,
    "edge": Edge,
    "lancedb": Lance,
    "usearch": USearch,
}


def identity(number: int) -> str:
    """Return a UUID for a passage's number."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))


def data(
    model: Path, corpora: list[Path], passages: int, cache: Path
) -> tuple[list[str], Vectors, list[str], Vectors]:
    """Return texts, their vectors, questions, and their vectors."""
    chance = np.random.default_rng(0)
    texts = []
    for corpus in corpora:
        for line in corpus.read_text(encoding="utf-8").splitlines():
            words = json.loads(line)["text"].split()
            texts += [" ".join(words[i : i + 90]) for i in range(0, len(words), 90)]
    chance.shuffle(texts)
    questions = [" ".join(text.split()[:8]) for text in texts[:300]]
    texts = texts[: min(20_000, passages)]
    if not cache.exists():
        embedder = Embedder.from_pretrained(model, max_seq_length=48)
        made = embedder.encode_document(texts)
        np.savez(cache, made=made, asked=embedder.encode_query(questions))
    kept = np.load(cache)
    made, asked = kept["made"], kept["asked"]
    rows = [made]
    while sum(map(len, rows)) < passages:
        share = chance.uniform(0.3, 1, (len(made), 1)).astype(np.float32)
        mixed = made + made[chance.permutation(len(made))] * share
        rows.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    for i in range(len(texts), passages):
        one, two = texts[i % len(made)].split(), texts[i * 7919 % len(made)].split()
        texts.append(" ".join(one[: len(one) // 2] + two[len(two) // 2 :]))
    return texts, np.concatenate(rows)[:passages], questions, asked


def show(name: str, call: Callable[[int], object], calls: int) -> None:
    """Print the time of a call."""
    times = []
    for i in range(calls):
        begin = time.perf_counter()
        call(i)
        times.append((time.perf_counter() - begin) * 1000)
    print(f"{name:12} p50 {np.median(times):8.2f} ms   fastest {min(times):8.2f} ms")


def main() -> None:
    """Read the arguments, write the passages, and search them."""
    parser = argparse.ArgumentParser(description="Compare stores of passages.")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpora", type=Path, nargs="+")
    parser.add_argument("--passages", type=int, default=52_000)
    parser.add_argument("--cache", type=Path, required=True, help="file for the vectors (.npz)")
    arguments = parser.parse_args()
    texts, vectors, questions, asked = data(
        arguments.model, arguments.corpora, arguments.passages, arguments.cache
    )
    with tempfile.TemporaryDirectory() as folder:
        engine: Any = ENGINES[arguments.engine](Path(folder), vectors.shape[1])
        begin, cpu = time.perf_counter(), time.process_time()
        for first in range(0, len(texts), BATCH):
            part = slice(first, first + BATCH)
            engine.write(first, texts[part], vectors[part], first // BATCH % FLUSH == FLUSH - 1)
        written = time.perf_counter() - begin
        engine.finish()
        print(f"written {written:.1f} s, ready {time.perf_counter() - begin:.1f} s")
        print(f"CPU {time.process_time() - cpu:.1f} s")
        exact = np.argsort(-(asked @ vectors.T), axis=1)[:, :K]
        found = [
            len(set(engine.dense(vector)) & set(row)) / K
            for vector, row in zip(asked, exact.tolist(), strict=True)
        ]
        print(f"recall {np.mean(found):.4f}")
        show("dense", lambda i: engine.dense(asked[i]), len(asked))
        if hasattr(engine, "words"):
            show("bm25", lambda i: engine.words(questions[i]), len(asked))
            show("hybrid", lambda i: engine.hybrid(asked[i], questions[i]), len(asked))
            show("number", lambda i: engine.number(i), 20)
            show("source", lambda i: engine.source(i), 20)


if __name__ == "__main__":
    main()
