"""Sparse encoders and multi-vector models beside each other in an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver import Embedder, MultiVectorEncoder, SparseEncoder, compare_models
from quaver.cli import app
from quaver.evaluate import IndexSystem, Task, TokenSystem

CORPUS = {f"d{i}": text for i, text in enumerate(("a file", "the python class", "data", "text"))}
QUERIES = {"q": "python", "r": "a data text"}
JUDGED = {"q": {"d1": 1, "d0": 0}, "r": {"d2": 1, "d3": 0, "d1": 0}}


@pytest.mark.parametrize(
    ("opens", "name"), [(SparseEncoder, "splade-distilbert"), (MultiVectorEncoder, "colbert")]
)
def test_a_model_of_tokens_is_measured(opens: Any, name: str, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    model = opens.from_pretrained(folder)
    scores = model.similarity(
        model.encode_query(list(QUERIES.values())), model.encode_document(list(CORPUS.values()))
    )
    ids = list(CORPUS)
    retrieval = Task("all", "retrieval", CORPUS, QUERIES, JUDGED)
    found = TokenSystem("int8", model).measure(retrieval)
    assert found.vectors is None
    for row, query in enumerate(QUERIES):
        by_id = dict(zip(ids, scores[row].tolist(), strict=True))
        assert found.scores[query] == pytest.approx(by_id, abs=1e-5)
    pool = Task("pool", "reranking", CORPUS, QUERIES, JUDGED)
    ranked = TokenSystem("int8", model).measure(pool).scores
    assert {query: set(row) for query, row in ranked.items()} == {
        q: set(p) for q, p in JUDGED.items()
    }
    exact = opens.from_pretrained(folder, precision="float32")
    report = compare_models({"float32": exact, "int8": model}, retrieval, baseline="float32")
    assert report.systems == ["int8"]
    assert np.isfinite(report.tasks[0].scores["int8"].tolist()).all()


@pytest.mark.parametrize("mode", ["sparse", "dense+sparse", "hybrid"])
def test_an_index_with_them_is_measured(mode: Any, tiny_folder: Path, tmp_path: Path) -> None:
    embedder = Embedder.from_pretrained(tiny_folder, threads=1)
    sparse = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path), threads=1)
    multi = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path), threads=1)
    retrieval = Task("all", "retrieval", CORPUS, QUERIES, JUDGED)
    system = IndexSystem("index", embedder, mode=mode, sparse=sparse, multi=multi)
    found = system.measure(retrieval).scores
    scores = multi.similarity(
        multi.encode_query(list(QUERIES.values())),
        multi.encode_document(list(CORPUS.values()), output="int8"),
    )
    for row, query in enumerate(QUERIES):
        best = max(found[query], key=found[query].__getitem__)
        assert best == list(CORPUS)[int(scores[row].argmax())]


def test_a_mode_with_sparse_needs_the_model(tiny_folder: Path) -> None:
    task = Path(__file__).parents[2] / "examples" / "tasks" / "pubmedqa-100"
    arguments = ["evaluate", str(tiny_folder), "--tasks", str(task), "--index"]
    for wrong in (["--mode", "sparse"], ["--sparse", "x"]):
        done = CliRunner().invoke(app, [*arguments, *wrong])
        assert done.exit_code == 2, done.output
        assert "need each other" in " ".join(done.output.split())
