"""Measure the overhead of framework components, and the gain from batching concurrent queries.

    python benchmarks/integrations.py --model MINILM_FOLDER [--out FILE] [--seconds 6] [--only FRAMEWORK]

Run it where the frameworks are installed (`make test-integrations` makes .envs/frameworks and
.envs/sentence-transformers); the others are left out. Bare engine and component take turns,
block by block, with the same texts and the same engine. The bare calls return arrays; the components return
what their framework expects, lists of floats in copies of documents. "The framework alone" uses the
framework's mock embedding model: no component can be faster. The cross-encoder is the model
with a random head, which is as fast as a trained one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from quaver import CrossEncoder, Embedder
from quaver.integrations.shared_models import shared_cross_encoder, shared_embedder
from quaver_bench.corpus import read_corpus
from quaver_bench.record import describe_run
from quaver_bench.timing import alternate, take_turns

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = REPOSITORY / "examples" / "python-docs"
CACHE = REPOSITORY / "build" / "bench-models"
BATCH = 256
QUERIES = 64
IN_TURN = 16
PAIRS = 32
Call = Callable[[], object]
Component = dict[str, Any]


def main() -> None:
    """Measure every framework that is installed here."""
    options = _options()
    model, cross = str(options.model), str(_cross_encoder(options.model))
    embedder = shared_embedder(model).model
    ranker = shared_cross_encoder(cross).model
    texts = list(read_corpus(DOCUMENTS, embedder.tokenizer, 10 * BATCH).texts)
    queries = [" ".join(text.split()[:8]) for text in texts]
    rows = []
    for framework, make in FRAMEWORKS.items():
        if options.only not in (None, framework):
            continue
        if find_spec(framework) is None:
            print(f"{framework} is not installed here: left out", file=sys.stderr)
            continue
        component = make(model, cross)
        rows += _overheads(framework, component, embedder, ranker, texts, queries, options.seconds)
        if "query_async" in component:
            rows.append(_concurrent(framework, component, queries[:QUERIES], options.seconds))
    result = {"kind": "integrations", "run": describe_run(embedder.threads, sys.argv), "rows": rows}
    print("\n".join(json.dumps(row) for row in rows))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--seconds", type=float, default=6.0, help="time for each row")
    add("--only", choices=list(FRAMEWORKS), help="one framework instead of all that are installed")
    add("--out", type=Path, help="results, JSON")
    return parser.parse_args()


# --- Overhead -------------------------------------------------------------------------------------
def _overheads(
    framework: str,
    component: Component,
    embedder: Embedder,
    ranker: CrossEncoder,
    texts: Sequence[str],
    queries: Sequence[str],
    seconds: float,
) -> list[dict[str, Any]]:
    batches = [list(texts[i : i + BATCH]) for i in range(0, len(texts) - BATCH + 1, BATCH)]
    pairs = [[(queries[i], text) for text in batches[i][:PAIRS]] for i in range(len(batches))]
    given = [component["documents_of"](batch) for batch in batches]
    cases: dict[str, tuple[Callable[[int], object], Callable[[int], object], int]] = {
        "query": (
            lambda i: embedder.encode_query(queries[i]),
            lambda i: component["query"](queries[i]),
            QUERIES,
        ),
        f"{BATCH} texts": (
            lambda i: embedder.encode_document(batches[i]),
            lambda i: component["documents"](given[i]),
            len(batches),
        ),
        f"{PAIRS} pairs": (
            lambda i: ranker.predict(pairs[i]),
            lambda i: component["rank"](queries[i], given[i][:PAIRS]),
            len(batches),
        ),
    }
    turns = [queries[i : i + IN_TURN] for i in range(0, QUERIES, IN_TURN)]
    loop = asyncio.new_event_loop()
    if "query_async" in component:
        cases["query, awaited"] = (
            lambda i: [embedder.encode_query(query) for query in turns[i]],
            lambda i: loop.run_until_complete(_in_turn(component["query_async"], turns[i])),
            len(turns),
        )
    if "alone" in component:
        # Directly after the engine, whose weights have displaced everything else from the caches.
        cases["query, the framework alone"] = (
            cases["query"][0],
            lambda i: (embedder.encode_query(queries[i]), component["alone"](queries[i])),
            QUERIES,
        )
    rows = []
    for case, (bare, ours, count) in cases.items():
        timing = alternate(
            {
                "bare": [lambda i=i, call=bare: call(i) for i in range(count)],
                "component": [lambda i=i, call=ours: call(i) for i in range(count)],
            },
            seconds=seconds,
            least=3,
        )
        each = 1e3 / (IN_TURN if case == "query, awaited" else 1)
        bare_ms, component_ms = (each * timing.median(name) for name in ("bare", "component"))
        slower = [
            each * (theirs - mine)
            for mine, theirs in zip(timing.rounds("bare"), timing.rounds("component"), strict=True)
        ]
        rows.append(
            {
                "framework": framework,
                "case": case,
                "bare_ms": round(bare_ms, 4),
                "component_ms": round(component_ms, 4),
                "overhead_ms": round(statistics.median(slower), 4),
                "overhead_percent": round(100 * statistics.median(slower) / bare_ms, 2),
                "rounds": len(slower),
                "disturbed": timing.disturbed,
            }
        )
    return rows


async def _in_turn(query: Callable[[str], Any], queries: Sequence[str]) -> None:
    """Await calls one after another in a running loop, like a server."""
    for text in queries:
        await query(text)


# --- Concurrent queries ---------------------------------------------------------------------------
def _concurrent(
    framework: str, component: Component, queries: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Answer concurrent queries: each in a thread, as without Quaver's async methods, or batched."""

    async def threads() -> None:
        await asyncio.gather(*(asyncio.to_thread(component["query"], q) for q in queries))

    async def joined() -> None:
        await asyncio.gather(*(component["query_async"](q) for q in queries))

    def took(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        asyncio.run(call())
        return time.perf_counter() - start

    turns = take_turns(
        {"threads": lambda: took(threads), "joined": lambda: took(joined)}, seconds=seconds, least=5
    )
    ratios = [given["threads"] / given["joined"] for given in turns.rounds]
    return {
        "framework": framework,
        "case": f"{len(queries)} queries at once",
        "threads_ms": round(1e3 * statistics.median(g["threads"] for g in turns.rounds), 2),
        "joined_ms": round(1e3 * statistics.median(g["joined"] for g in turns.rounds), 2),
        "gain": round(statistics.median(ratios), 2),
        "rounds": len(ratios),
        "disturbed": turns.disturbed,
    }


# --- Frameworks -----------------------------------------------------------------------------------
def _haystack(model: str, cross: str) -> Component:
    from haystack import Document

    from haystack_integrations.components.embedders.quaver import (
        QuaverDocumentEmbedder,
        QuaverTextEmbedder,
    )
    from haystack_integrations.components.rankers.quaver import QuaverRanker

    text, documents = QuaverTextEmbedder(model=model), QuaverDocumentEmbedder(model=model)
    ranker = QuaverRanker(model=cross)
    for component in (text, documents, ranker):
        component.warm_up()
    return {
        "documents_of": lambda texts: [Document(content=text) for text in texts],
        "query": text.run,
        "query_async": text.run_async,
        "documents": documents.run,
        "rank": lambda query, found: ranker.run(query=query, documents=found),
    }


def _langchain(model: str, cross: str) -> Component:
    from langchain_core.documents import Document

    from quaver.integrations.langchain import QuaverEmbeddings, QuaverReranker

    embeddings, reranker = QuaverEmbeddings(model=model), QuaverReranker(model=cross)
    return {
        "documents_of": lambda texts: [Document(text) for text in texts],
        "query": embeddings.embed_query,
        "query_async": embeddings.aembed_query,
        "documents": lambda found: embeddings.embed_documents([d.page_content for d in found]),
        "rank": lambda query, found: reranker.compress_documents(found, query),
    }


def _llamaindex(model: str, cross: str) -> Component:
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    from quaver.integrations.llamaindex import QuaverEmbedding, QuaverRerank

    embedding, rerank = QuaverEmbedding(model_name=model), QuaverRerank(model=cross)
    return {
        "documents_of": lambda texts: [NodeWithScore(node=TextNode(text=text)) for text in texts],
        "query": embedding.get_query_embedding,
        "query_async": embedding.aget_query_embedding,
        "alone": MockEmbedding(embed_dim=embedding._shared.model.dimension).get_query_embedding,
        "documents": lambda found: embedding.get_text_embedding_batch([n.text for n in found]),
        "rank": lambda query, found: rerank.postprocess_nodes(found, QueryBundle(query)),
    }


def _sentence_transformers(model: str, cross: str) -> Component:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from quaver.integrations.sentence_transformers import QuaverModule

    embedder = SentenceTransformer(modules=[QuaverModule(model)], device="cpu")
    ranker = CrossEncoder(modules=[QuaverModule(cross, task="rank")], device="cpu")
    return {
        "documents_of": list,
        "query": embedder.encode_query,
        "documents": lambda texts: embedder.encode_document(texts, batch_size=BATCH),
        "rank": lambda query, texts: ranker.predict([(query, t) for t in texts], batch_size=BATCH),
    }


FRAMEWORKS: dict[str, Callable[[str, str], Component]] = {
    "haystack": _haystack,
    "langchain_core": _langchain,
    "llama_index": _llamaindex,
    "sentence_transformers": _sentence_transformers,
}


def _cross_encoder(model: Path) -> Path:
    """Write the model with a random head with one score."""
    folder = CACHE / f"{model.parent.name}-cross"
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    hidden, rng = config["hidden_size"], np.random.default_rng(0)
    tensors = load_file(model / "model.safetensors")
    tensors = {f"bert.{name.removeprefix('bert.')}": array for name, array in tensors.items()}
    tensors["bert.pooler.dense.weight"] = rng.normal(0, 0.05, (hidden, hidden)).astype(np.float32)
    tensors["bert.pooler.dense.bias"] = np.zeros(hidden, np.float32)
    tensors["classifier.weight"] = rng.normal(0, 0.05, (1, hidden)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


if __name__ == "__main__":
    main()
