"""Small tasks in BEIR layout, written for a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

CORPUS = {
    "d1": ("", "the list of files"),
    "d2": ("Dict", "a dict has keys and a value for each key"),
    "d3": ("", "they return an error"),
    "d4": ("", "python code and data"),
}
QUERIES = {"q1": "which list is it", "q2": "key and value", "q3": "an error of the function"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d4": 1}, "q3": {"d3": 1}}
POOLS = {"q1": {"d1": 1, "d3": 0}, "q2": {"d2": 2, "d4": 1, "d1": 0}, "q3": {"d3": 2, "d4": 0}}


def write_task(
    folder: Path,
    *,
    qrels: Mapping[str, Mapping[str, int]] = QRELS,
    corpus: Mapping[str, tuple[str, str]] = CORPUS,
    queries: Mapping[str, str] = QUERIES,
    name: str = "test",
) -> Path:
    """Write a task and return its folder.

    Args:
        folder: where to; made.
        qrels: query to document to score.
        corpus: document to title and text.
        queries: query to text.
        name: of the file of judgments.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [{"_id": k, "title": t, "text": x} for k, (t, x) in corpus.items()]
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "queries.jsonl", [{"_id": k, "text": x} for k, x in queries.items()])
    rows = [f"{q}\t{d}\t{s}" for q, row in qrels.items() for d, s in row.items()]
    lines = "\n".join(["query-id\tcorpus-id\tscore", *rows])
    (folder / "qrels" / f"{name}.tsv").write_text(f"{lines}\n", encoding="utf-8")
    return folder


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
