"""What an engine's vectors are worth: cosine to float32, and ranking of judged texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.bench.engines import Engine, Vectors
from quaver.errors import InputError

K = 10


def mean_cosine(vectors: Vectors, truth: Vectors) -> float:
    """Return the mean cosine between unit rows (N, H) and those they should be."""
    return float((vectors * truth).sum(1, dtype=np.float64).mean())


@dataclass(frozen=True)
class Judgements:
    """Judged queries over a corpus.

    Attributes:
        name: of the set.
        documents: texts.
        queries: texts, all judged.
        relevance: for each query, index of a document to its grade, above 0.
    """

    name: str
    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevance: tuple[dict[int, float], ...]


def read_judgements(folder: Path) -> Judgements:
    """Read a set in BEIR layout: corpus.jsonl, queries.jsonl, qrels/test.tsv.

    Args:
        folder: the set.

    Returns:
        The judgements; documents as title and text, queries that have a relevant document.

    Raises:
        InputError: a file is missing or broken, or no query is judged.
    """
    try:
        documents = {
            d["_id"]: f"{d.get('title') or ''} {d['text']}".strip()
            for d in _lines(folder / "corpus.jsonl")
        }
        queries = {q["_id"]: q["text"] for q in _lines(folder / "queries.jsonl")}
        judged = (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
        places = {name: index for index, name in enumerate(documents)}
        relevance: dict[str, dict[int, float]] = {}
        for line in judged:
            query, document, grade = line.split("\t")
            if float(grade) > 0 and query in queries and document in places:
                relevance.setdefault(query, {})[places[document]] = float(grade)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"judgements must be a folder in BEIR layout (corpus.jsonl, queries.jsonl, "
            f"qrels/test.tsv): {folder}: {error}"
        ) from error
    if not relevance:
        raise InputError(f"judgements must name relevant documents: {folder} has none")
    texts = tuple(queries[name] for name in relevance)
    return Judgements(folder.name, tuple(documents.values()), texts, tuple(relevance.values()))


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def ndcg(engine: Engine, judgements: Judgements) -> float:
    """Return the mean NDCG@10 of an engine's vectors.

    Formula:
        DCG = sum over ranks r of grade(r) / log2(r + 1); NDCG = DCG / DCG of the best order

    Args:
        engine: encodes documents and queries, both without a prompt.
        judgements: what is judged.

    Returns:
        0 to 1.
    """
    documents = engine.encode(judgements.documents)
    queries = engine.encode(judgements.queries)
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :K]
    scores = []
    for found, grades in zip(order, judgements.relevance, strict=True):
        gained = np.array([grades.get(int(index), 0.0) for index in found])
        best = np.array(sorted(grades.values(), reverse=True)[:K])
        scores.append(_dcg(gained) / _dcg(best))
    return float(np.mean(scores))


def _dcg(grades: NDArray[np.float64]) -> float:
    return float((grades / np.log2(np.arange(2, len(grades) + 2))).sum())
