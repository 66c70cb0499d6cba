"""A task: queries, documents, and which documents people judged to be relevant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from quaver.errors import TaskError

Kind = Literal["retrieval", "reranking"]
KINDS: tuple[Kind, ...] = get_args(Kind)
METRICS: dict[Kind, str] = {"retrieval": "NDCG@10", "reranking": "MAP"}
"""The metric of each kind, as in published tables."""

Scores = dict[str, dict[str, float]]
"""Query id to document id to score, the higher the better."""


@dataclass(frozen=True)
class Task:
    """Queries with judged documents, checked against each other.

    Attributes:
        name: the task's name in the tables.
        kind: "retrieval" ranks the whole corpus, "reranking" only the documents in a query's judgments.
        corpus: document id to text, with the title before it.
        queries: query id to text, for queries with a relevant document.
        judgments: query id to document id to score, for these queries.
        relevance: the lowest score that counts as relevant in MAP; NDCG uses the scores themselves.
        source: where the task was read from, for the record.
    """

    name: str
    kind: Kind
    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]
    relevance: int = 1
    source: str = ""

    @property
    def metric(self) -> str:
        """The metric, "NDCG@10" or "MAP"."""
        return METRICS[self.kind]


def checked_task(task: Task) -> Task:
    """Keep the queries that can be measured, and check the ids in the judgments.

    Args:
        task: queries, documents and judgments as they were read.

    Returns:
        the task without queries that have no judgment or no relevant document.

    Raises:
        TaskError: a judgment names an unknown document or query, or no query is left.
    """
    judged = [(query, document) for query, row in task.judgments.items() for document in row]
    _refuse_missing(task, "query", [query for query, _ in judged if query not in task.queries])
    _refuse_missing(
        task, "document", [document for _, document in judged if document not in task.corpus]
    )
    # NDCG counts every score above 0, MAP every score from the threshold on.
    lowest = 1 if task.kind == "retrieval" else task.relevance
    kept = {
        query: dict(row)
        for query, row in task.judgments.items()
        if any(score >= lowest for score in row.values())
    }
    if not kept:
        raise TaskError(
            f"{task.name}: a task needs a query with a relevant document: none of "
            f"{len(judged)} judgments has a score of {lowest} or more"
        )
    return Task(
        name=task.name,
        kind=task.kind,
        corpus=task.corpus,
        queries={query: task.queries[query] for query in kept},
        judgments=kept,
        relevance=task.relevance,
        source=task.source,
    )


def _refuse_missing(task: Task, what: str, missing: list[str]) -> None:
    if missing:
        file = "queries.jsonl" if what == "query" else "corpus.jsonl"
        raise TaskError(
            f"{task.name}: every judged {what} must be in {file}: {len(missing)} judgments name "
            f"{len(set(missing))} unknown ones, the first is {missing[0]!r}; complete the folder, or "
            "drop these judgments"
        )
