"""Measure each search mode of an index: quality, bytes, and the CPU time of a search.

    python benchmarks/index/modes.py MODEL --sparse MODEL --multi MODEL --sets SET ... --out FILE.json

A set is a folder in BEIR's layout. The times are CPU time of this process with one thread, which depends less
on what else the machine computes than the clock does; what one compares with another are their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from quality import JudgedSet, ndcg, read_set
from quaver import Embedder, Hit, Index, MultiVectorEncoder, Passage, SparseEncoder

DEPTH = 100
CANDIDATES = 50
TIMED = 30
"""Questions of a set whose searches are timed."""

WAYS: dict[str, dict[str, Any]] = {
    "dense": {"mode": "dense"},
    "bm25": {"mode": "bm25"},
    "sparse": {"mode": "sparse"},
    "hybrid": {"mode": "hybrid"},
    "dense+sparse": {"mode": "dense+sparse"},
    "dense+bm25+sparse": {"mode": "dense+bm25+sparse"},
    "dense, maxsim": {"mode": "dense", "maxsim": True},
    "hybrid, maxsim": {"mode": "hybrid", "maxsim": True},
    "dense+sparse, maxsim": {"mode": "dense+sparse", "maxsim": True},
}
PARTS = {
    "dense": ("vectors", "sketches"),
    "bm25": ("words",),
    "sparse": ("weights", "sparse"),
    "maxsim": ("multi",),
}
"""The files that each kind of search reads, besides those of all."""


def measure(
    judged: JudgedSet,
    embedder: Embedder,
    sparse: SparseEncoder,
    multi: MultiVectorEncoder,
    folder: Path,
) -> dict[str, Any]:
    """Index a set and search for its questions in every way.

    Args:
        judged: The set.
        embedder: The model of dense vectors.
        sparse: The model of sparse vectors.
        multi: The model of token vectors.
        folder: Folder for the store.

    Returns:
        Quality of each way and CPU milliseconds of its search without models; bytes and CPU milliseconds of
        a passage by kind, and CPU milliseconds of a question's models.
    """
    texts = list(judged.documents.values())
    some = texts[:: max(1, len(texts) // 16)]
    encoding = {
        kind: _cpu(lambda encode=encode: encode(some)) / len(some)
        for kind, encode in (
            ("dense", embedder.encode_document),
            ("sparse", sparse.encode_document),
            ("maxsim", multi.encode_document),
        )
    }
    asking: dict[str, list[float]] = defaultdict(list)
    asked = {}
    found: dict[str, Any] = {}
    with Index.create(folder, embedder, sparse=sparse, multi=multi) as index:
        index.add(
            [
                Passage(identity, text, judged.name, "", 0, len(text))
                for identity, text in judged.documents.items()
            ]
        )
        index.store.optimize()
        sizes: dict[str, int] = defaultdict(int)
        for file in folder.iterdir():
            sizes[file.name.partition(".")[0]] += file.stat().st_size
        for question, text in judged.questions.items():
            encoded: dict[str, Any] = {"text": text}
            for kind, name, encode in (
                ("dense", "vector", embedder.encode_query),
                ("sparse", "sparse", index.encoders.sparse_query),
                ("maxsim", "multi", index.encoders.multi_query),
            ):
                begin = time.process_time()
                encoded[name] = encode(text)
                asking[kind].append(1000 * (time.process_time() - begin))
            asked[question] = encoded
        for way, options in WAYS.items():
            scores, recalls = [], []

            def search(question: str, k: int, candidates: int, o: Any = options) -> list[Hit]:
                given = asked[question]
                return index.store.search(
                    given["vector"],
                    text=given["text"],
                    sparse=given["sparse"],
                    multi=given["multi"] if o.get("maxsim") else None,
                    mode=o["mode"],
                    k=k,
                    candidates=candidates,
                )

            for question in judged.questions:
                hits = search(question, DEPTH, DEPTH)
                ids = [hit.id for hit in hits]
                wanted = judged.relevant[question]
                scores.append(ndcg(ids, wanted))
                recalls.append(len(wanted.keys() & set(ids[:10])) / len(wanted))
            timed = [
                _cpu(lambda q=question, s=search: s(q, 10, CANDIDATES))
                for question in list(judged.questions)[:TIMED]
            ]
            found[way] = {
                "ndcg@10": statistics.fmean(scores),
                "recall@10": statistics.fmean(recalls),
                "cpu_ms": statistics.median(timed),
            }
    return {
        "documents": len(texts),
        "questions": len(judged.questions),
        "ways": found,
        "bytes_of_a_passage": {
            kind: sum(sizes[name] for name in names) / len(texts) for kind, names in PARTS.items()
        },
        "cpu_ms_of_a_passage": encoding,
        "cpu_ms_of_a_question": {kind: statistics.median(ms) for kind, ms in asking.items()},
    }


def _cpu(call: Any) -> float:
    """Return the CPU milliseconds of a call."""
    begin = time.process_time()
    call()
    return 1000 * (time.process_time() - begin)


def table(sets: dict[str, Any]) -> str:
    """Return the means over the sets as a Markdown table."""
    lines = [
        "| search | NDCG@10 | recall@10 | bytes of a passage | search, dense = 1 | question and search, dense = 1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]

    def mean(read: Any) -> float:
        return statistics.fmean(read(one) for one in sets.values())

    for way, options in WAYS.items():
        names = options["mode"].replace("hybrid", "dense+bm25").split("+")
        kinds = [*names, *(["maxsim"] if options.get("maxsim") else [])]
        size = mean(lambda one, kinds=kinds: sum(one["bytes_of_a_passage"][k] for k in kinds))
        quality = mean(lambda one, way=way: one["ways"][way]["ndcg@10"])
        recall = mean(lambda one, way=way: one["ways"][way]["recall@10"])
        ratio = mean(
            lambda one, way=way: one["ways"][way]["cpu_ms"] / one["ways"]["dense"]["cpu_ms"]
        )
        models = [kind for kind in kinds if kind != "bm25"]

        def whole(one: Any, way: str = way, models: Any = models) -> float:
            question = one["cpu_ms_of_a_question"]
            mine = one["ways"][way]["cpu_ms"] + sum(question[kind] for kind in models)
            return float(mine / (one["ways"]["dense"]["cpu_ms"] + question["dense"]))

        lines.append(
            f"| {way} | {quality:.4f} | {recall:.4f} | {size:,.0f} | {ratio:.2f} | {mean(whole):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the sets of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--sparse", required=True)
    parser.add_argument("--multi", required=True)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--questions", type=int, help="the first so many of each set; default: all")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    embedder = Embedder.from_pretrained(asked.model, threads=1)
    sparse = SparseEncoder.from_pretrained(asked.sparse, threads=1)
    multi = MultiVectorEncoder.from_pretrained(asked.multi, threads=1)
    sets = {}
    for folder in asked.sets:
        judged = read_set(folder)
        if asked.questions is not None:
            some = dict(list(judged.questions.items())[: asked.questions])
            judged = replace(judged, questions=some)
        with tempfile.TemporaryDirectory() as place:
            sets[judged.name] = measure(judged, embedder, sparse, multi, Path(place) / "kb")
        print(judged.name, json.dumps(sets[judged.name]["ways"]), flush=True)
        if (
            asked.out is not None
        ):  # after each set, so that an interrupted run has something to show
            result = {
                "models": {"dense": embedder.name, "sparse": sparse.name, "multi": multi.name},
                "precision": "int8",
                "depth": DEPTH,
                "candidates_timed": CANDIDATES,
                "load_average": os.getloadavg()[0],
                "sets": sets,
            }
            asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(sets), flush=True)


if __name__ == "__main__":
    main()
