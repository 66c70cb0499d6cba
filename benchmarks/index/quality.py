"""Measure the index's searches on retrieval sets with judgments: vectors, words, both, and reranked.

    python benchmarks/index/quality.py MODEL_FOLDER SETS_FOLDER --out benchmarks/results/index/quality.json

SETS_FOLDER holds one folder for each set in BEIR's layout: corpus.jsonl, queries.jsonl and
qrels/test.tsv. Sets without a test.tsv, and sets with given candidates (candidates.jsonl), are skipped.
All sets use the same settings.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quaver import BiEncoderRanker, Embedder, Index, Passage

K = 10
CANDIDATES = 100


@dataclass(frozen=True)
class JudgedSet:
    """A retrieval set: documents, questions, and which documents answer which question."""

    name: str
    documents: dict[str, str]
    questions: dict[str, str]
    relevant: dict[str, dict[str, int]]


def read_set(folder: Path) -> JudgedSet:
    """Read a set in BEIR's layout.

    Args:
        folder: Its folder.

    Returns:
        The set, with only those questions that have a judgment above 0.
    """
    documents = {
        row["_id"]: f"{row.get('title', '')}\n{row['text']}".strip()
        for row in _rows(folder / "corpus.jsonl")
    }
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, document, grade = line.split("\t")
        if int(grade) > 0:
            relevant[question][document] = int(grade)
    questions = {
        row["_id"]: row["text"]
        for row in _rows(folder / "queries.jsonl")
        if row["_id"] in relevant and row["text"].strip()
    }
    return JudgedSet(folder.name, documents, questions, dict(relevant))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def ndcg(found: Sequence[str], relevant: Mapping[str, int]) -> float:
    """Compute NDCG at K.

    Formula:
        sum over ranks i of grade / log2(i + 1), divided by its highest possible value

    Args:
        found: Ids, best first.
        relevant: The grade of each relevant document.

    Returns:
        0 to 1.

    Source:
        Jarvelin and Kekalainen, "Cumulated Gain-based Evaluation of IR Techniques", 2002.
    """

    def gain(grades: Sequence[int]) -> float:
        return sum(grade / math.log2(i + 2) for i, grade in enumerate(grades[:K]))

    best = gain(sorted(relevant.values(), reverse=True))
    return gain([relevant.get(document, 0) for document in found]) / best


def measure(judged: JudgedSet, embedder: Embedder, folder: Path) -> dict[str, float]:
    """Index a set and search for its questions in every mode.

    Args:
        judged: The set.
        embedder: The model.
        folder: Folder for the store.

    Returns:
        Mean NDCG at K by mode.
    """
    ranker = BiEncoderRanker(embedder)
    scores: dict[str, list[float]] = defaultdict(list)
    with Index.create(folder, embedder) as index:
        index.add(
            [
                Passage(identity, text, judged.name, "", 0, len(text))
                for identity, text in judged.documents.items()
            ]
        )
        index.store.optimize()
        for question, text in judged.questions.items():
            ways = {
                "dense": index.search(text, k=K, mode="dense"),
                "bm25": index.search(text, k=K, mode="bm25"),
                "hybrid": index.search(text, k=K, mode="hybrid"),
                "bm25, reranked": index.search(
                    text, k=K, mode="bm25", ranker=ranker, candidates=CANDIDATES
                ),
            }
            for way, hits in ways.items():
                scores[way].append(ndcg([hit.id for hit in hits], judged.relevant[question]))
    return {way: statistics.mean(values) for way, values in scores.items()}


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the results as a Markdown table, the mean over the sets last."""
    ways = list(next(iter(results.values())))
    lines = [f"| set | {' | '.join(ways)} |", f"|---|{'---:|' * len(ways)}"]
    lines += [
        f"| {name} | {' | '.join(f'{row[way]:.3f}' for way in ways)} |"
        for name, row in results.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, measure, and write the results."""
    parser = argparse.ArgumentParser(description="Measure the index's searches on judged sets.")
    parser.add_argument("model", help="model folder or hub id")
    parser.add_argument("sets", type=Path, help="folder of sets in BEIR's layout")
    parser.add_argument("--only", nargs="*", help="names of sets; default: all")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments = parser.parse_args()
    folders = sorted(path.parents[1] for path in arguments.sets.glob("*/qrels/test.tsv"))
    folders = [
        folder
        for folder in folders
        if (folder.name in arguments.only if arguments.only else True)
        and not (folder / "candidates.jsonl").exists()
    ]
    if not folders:
        sys.exit(f"quality: no sets in {arguments.sets}")
    embedder = Embedder.from_pretrained(arguments.model)
    results: dict[str, dict[str, float]] = {}
    for folder in folders:
        judged = read_set(folder)
        with tempfile.TemporaryDirectory() as store:
            results[folder.name] = measure(judged, embedder, Path(store) / "kb")
        print(folder.name, results[folder.name], file=sys.stderr, flush=True)
        mean = {
            way: statistics.mean(row[way] for row in results.values())
            for way in results[folder.name]
        }
        if arguments.out:  # after each set, so that an interrupted run has something to show
            content = {
                "measure": f"NDCG@{K}",
                "model": embedder.name,
                "precision": embedder.precision,
                "candidates": CANDIDATES,
                "sets": {**results, "mean": mean},
            }
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table({**results, "mean": mean}))


if __name__ == "__main__":
    main()
