"""Local folders in BEIR layout, read as tasks.

A task's folder holds corpus.jsonl (`_id`, `title`, `text`), queries.jsonl (`_id`, `text`) and
qrels/*.tsv (query-id, corpus-id, score; one header line). An optional file task.json next to them
holds options: {"kind": "reranking", "qrels": "test", "relevance": 2}.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from quaver.errors import TaskError
from quaver.evaluate.task import KINDS, Kind, Task, checked_task

CORPUS, QUERIES, QRELS, OPTIONS = "corpus.jsonl", "queries.jsonl", "qrels", "task.json"


@dataclass(frozen=True)
class TaskOptions:
    """Options of a task folder; None takes the value from task.json, or the default.

    Attributes:
        kind: "retrieval" or "reranking".
        qrels: name of a file in qrels/, without .tsv.
        relevance: the lowest score that counts as relevant in MAP.
    """

    kind: str | None = None
    qrels: str | None = None
    relevance: int | None = None

    def over(self, other: TaskOptions) -> TaskOptions:
        """Return these options, with those of `other` where these are None."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        return TaskOptions(**{k: getattr(other, k) if v is None else v for k, v in mine.items()})


def find_folders(path: Path) -> list[Path]:
    """Return the task folders at a path: itself, or the folders in it.

    Args:
        path: a task's folder, or a folder of such folders.

    Returns:
        folders that hold corpus.jsonl and queries.jsonl, in order of their names.

    Raises:
        TaskError: there is no task folder.
    """
    if not path.is_dir():
        raise TaskError(f"a task is a folder with {CORPUS}, {QUERIES} and {QRELS}/: got {path}")
    if (path / CORPUS).is_file() or (path / QUERIES).is_file():
        return [path]
    inner = sorted(p for p in path.iterdir() if (p / CORPUS).is_file() and (p / QUERIES).is_file())
    if not inner:
        raise TaskError(
            f"a task is a folder with {CORPUS}, {QUERIES} and {QRELS}/: neither {path} nor a "
            "folder in it has them"
        )
    return inner


def read_task(folder: Path, options: TaskOptions | None = None) -> Task:
    """Read a task's folder.

    Args:
        folder: a folder in BEIR layout.
        options: these override task.json.

    Returns:
        the task.

    Raises:
        TaskError: a file is missing or broken, a judgment names an unknown id, or there are scores of
            0 and no kind, so that they may be candidates to rerank or irrelevant documents.
    """
    name = folder.resolve().name
    given = (options or TaskOptions()).over(_task_json(folder))
    if given.kind not in (None, *KINDS):
        raise TaskError(f"{name}: kind must be {' or '.join(KINDS)}: got {given.kind!r}")
    relevance = 1 if given.relevance is None else given.relevance
    if isinstance(relevance, bool) or not isinstance(relevance, int) or relevance < 1:
        raise TaskError(f"{name}: relevance must be a whole number from 1: got {relevance!r}")
    qrels = _qrels_file(folder, given.qrels)
    judgments = _read_qrels(qrels)
    return checked_task(
        Task(
            name=name,
            kind=_kind(name, given.kind, judgments),
            corpus=dict(_texts(folder / CORPUS, titles=True)),
            queries=dict(_texts(folder / QUERIES, titles=False)),
            judgments=judgments,
            relevance=relevance,
            source=f"{name}/{QRELS}/{qrels.name}",
        )
    )


def _task_json(folder: Path) -> TaskOptions:
    path = folder / OPTIONS
    if not path.is_file():
        return TaskOptions()
    content = _json(path, path.read_text(encoding="utf-8", errors="replace"))
    known = {field.name for field in fields(TaskOptions)}
    if not isinstance(content, dict) or not content.keys() <= known:
        raise TaskError(f"{path} may have the keys {', '.join(sorted(known))}: got {content!r}")
    return TaskOptions(**content)


def _kind(name: str, given: str | None, judgments: Mapping[str, Mapping[str, int]]) -> Kind:
    for kind in KINDS:
        if given == kind:
            return kind
    zeros = sum(score <= 0 for row in judgments.values() for score in row.values())
    if zeros:
        raise TaskError(
            f"{name}: {zeros} judgments have score 0, which may be candidates of a reranking "
            "task or irrelevant documents of a retrieval task: give --kind "
            f"{name}=reranking or --kind {name}=retrieval, or set it in {OPTIONS}"
        )
    return "retrieval"


def _qrels_file(folder: Path, name: str | None) -> Path:
    """Return the named file, the only file, or test.tsv."""
    files = {path.stem: path for path in sorted((folder / QRELS).glob("*.tsv"))}
    if not files:
        raise TaskError(f"{folder}: a task needs judgments in {QRELS}/*.tsv: there is no such file")
    stem = str(name).removesuffix(".tsv") if name is not None else "test"
    if name is None and len(files) == 1:
        return next(iter(files.values()))
    if stem not in files:
        there = ", ".join(files)
        raise TaskError(
            f"{folder}: the judgments must be in {QRELS}/: there is no {stem}.tsv; give "
            f"--qrels {folder.resolve().name}=NAME with one of {there}"
        )
    return files[stem]


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    judgments: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        for number, row in enumerate(rows, start=1):
            if not row or (number == 1 and not _is_whole(row[-1])):
                continue
            if len(row) == 4:  # TREC's format: query, 0, document, score
                row = [row[0], *row[2:]]
            if len(row) != 3 or not _is_whole(row[2]):
                raise TaskError(
                    f"{path}, line {number}: a judgment is query-id, corpus-id and a whole "
                    f"number, separated by tabs: got {row!r}"
                )
            judgments.setdefault(row[0], {})[row[1]] = int(row[2])
    if not judgments:
        raise TaskError(f"{path} has no judgments: a task needs some")
    return judgments


def _is_whole(text: str) -> bool:
    return text.strip().lstrip("-").isdigit()


def _texts(path: Path, *, titles: bool) -> Iterator[tuple[str, str]]:
    """Yield ids and texts; a title goes before its text, separated by a space, as in MTEB."""
    if not path.is_file():
        raise TaskError(f"{path} is missing: a task is {CORPUS}, {QUERIES} and {QRELS}/*.tsv")
    found = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            row = _json(where, line)
            key = row.get("_id", row.get("id")) if isinstance(row, dict) else None
            if not isinstance(key, (str, int)) or not isinstance(row.get("text"), str):
                raise TaskError(f"{where}: a line is a JSON object with _id and text: got {row!r}")
            title = row.get("title") if titles else None
            yield str(key), f"{title or ''} {row['text']}".strip()
            found += 1
    if not found:
        raise TaskError(f"{path} is empty: a task needs documents and queries")


def _json(where: object, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TaskError(f"{where}: not valid JSON: {error}") from error
