"""Evaluation: reading tasks, metrics, paired statistics, fidelity, reports."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from golden_folders import unpacked
from quaver import CrossEncoder, InputError, MultiVectorEncoder, SparseEncoder, TaskError
from quaver.embedder import Embedder
from quaver.evaluate import (
    EvaluationReport,
    PairSystem,
    Task,
    TaskOptions,
    VectorSystem,
    compare,
    compare_models,
    find_folders,
    read_task,
    system_of,
)
from quaver.evaluate import cache as cache_module
from quaver.evaluate.cache import VectorCache, quaver_key
from quaver.evaluate.fidelity import overlaps, row_cosines, summarize
from quaver.evaluate.metrics import best_documents, query_scores
from quaver.evaluate.model_card import END, START, write_between
from quaver.evaluate.plot import draw
from quaver.evaluate.report import OtherResult, TaskResult
from quaver.evaluate.statistics import paired_difference
from quaver.evaluate.system import IndexSystem
from quaver.evaluate.table import fidelity_table, loss_table, markdown_report, percent
from quaver.evaluate.task import KINDS, Scores
from task_folder import CORPUS, POOLS, QRELS, QUERIES, write_lines, write_task
from tiny_model import write_tiny_cross_encoder


# --- Folders --------------------------------------------------------------------------------------
def test_a_folder_in_beir_layout_is_a_retrieval_task(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "small"))
    assert (task.name, task.kind, task.metric) == ("small", "retrieval", "NDCG@10")
    assert task.corpus["d2"] == "Dict a dict has keys and a value for each key"
    assert task.corpus["d1"] == "the list of files"
    assert task.judgments == QRELS
    assert task.source == "small/qrels/test.tsv"


def test_task_json_or_the_caller_says_what_zeros_mean(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "pools", qrels=POOLS)
    with pytest.raises(TaskError, match=r"3 judgments have score 0.*--kind pools=reranking"):
        read_task(folder)
    assert read_task(folder, TaskOptions(kind="retrieval")).kind == "retrieval"
    (folder / "task.json").write_text('{"kind": "reranking", "relevance": 2}')
    task = read_task(folder)
    assert (task.kind, task.relevance, task.metric) == ("reranking", 2, "MAP")
    assert list(task.queries) == ["q2", "q3"]  # q1 has nothing from score 2 on
    assert read_task(folder, TaskOptions(relevance=1)).relevance == 1


def test_several_files_of_judgments(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "two", name="dev")
    assert read_task(folder).source.endswith("dev.tsv")
    write_task(folder, name="hard", qrels={"q1": {"d1": 1}})
    with pytest.raises(TaskError, match=r"--qrels two=NAME with one of dev, hard"):
        read_task(folder)
    assert list(read_task(folder, TaskOptions(qrels="hard")).queries) == ["q1"]
    write_task(folder, name="test")
    assert read_task(folder).source.endswith("test.tsv")


def test_trec_judgments_without_headings(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "trec")
    (folder / "qrels" / "test.tsv").write_text("q1\t0\td1\t1\nq2\t0\td2\t-1\nq2\t0\td4\t2\n")
    task = read_task(folder, TaskOptions(kind="retrieval"))
    assert task.judgments == {"q1": {"d1": 1}, "q2": {"d2": -1, "d4": 2}}


def test_folders_of_tasks(tmp_path: Path) -> None:
    one, two = write_task(tmp_path / "b"), write_task(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    assert find_folders(tmp_path) == [two, one]
    assert find_folders(one) == [one]
    with pytest.raises(TaskError, match=r"neither .*notes nor a folder in it"):
        find_folders(tmp_path / "notes")
    with pytest.raises(TaskError, match=r"got .*nowhere"):
        find_folders(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", "", r"corpus.jsonl is empty"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"corpus.jsonl, line 1: .*_id and text"),
        ("corpus.jsonl", "[1]\n", r"line 1: .*_id and text"),
        ("queries.jsonl", "\n{oops\n", r"queries.jsonl, line 2: not valid JSON"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", r"has no judgments"),
        ("qrels/test.tsv", "q1\td1\t1\nq1 d1 1\n", r"test.tsv, line 2: .*separated by tabs"),
        ("qrels/test.tsv", "q1\td1\t0.5\n", r"has no judgments"),
        ("task.json", "[]", r"may have the keys kind, qrels, relevance"),
        ("task.json", '{"relevance": 0}', r"relevance must be a whole number from 1: got 0"),
        ("task.json", '{"kind": "sts"}', r"kind must be retrieval or reranking: got 'sts'"),
        ("task.json", '{"qrels": "train"}', r"there is no train.tsv"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = write_task(tmp_path / "small")
    (folder / file).write_text(text)
    with pytest.raises(TaskError, match=message):
        read_task(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "small")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(TaskError, match=r"queries.jsonl is missing"):
        read_task(folder)
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(TaskError, match=r"qrels/\*.tsv: there is no such file"):
        read_task(folder)


def test_judgments_that_point_nowhere_are_counted(tmp_path: Path) -> None:
    bad = {**QRELS, "q1": {"d1": 1, "x7": 1, "x8": 1}, "q2": {"x7": 1}}
    with pytest.raises(TaskError, match=r"document .*: 3 judgments name 2 .* first is 'x7'"):
        read_task(write_task(tmp_path / "docs", qrels=bad))
    with pytest.raises(TaskError, match=r"query .*queries.jsonl: 1 judgments name 1 .*'q9'"):
        read_task(write_task(tmp_path / "queries", qrels={**QRELS, "q9": {"d1": 1}}))
    none = {"q1": {"d1": 2, "d2": 0}, "q3": {"d3": 1}}
    folder = write_task(tmp_path / "none", qrels=none)
    with pytest.raises(TaskError, match=r"none of 3 judgments has a score of 3 or more"):
        read_task(folder, TaskOptions(kind="reranking", relevance=3))


# --- Metrics --------------------------------------------------------------------------------------
def task_of(kind: str, qrels: dict[str, dict[str, int]], relevance: int = 1) -> Task:
    found = next(k for k in KINDS if k == kind)
    corpus = {key: text for key, (_, text) in CORPUS.items()}
    return Task("hand", found, corpus, {q: QUERIES[q] for q in qrels}, qrels, relevance)


def test_ndcg_as_computed_by_hand() -> None:
    task = task_of("retrieval", {"q1": {"d1": 1}, "q2": {"d2": 2, "d4": 1}})
    scores: Scores = {
        "q1": {"d2": 0.9, "d1": 0.8},
        "q2": {"d1": 0.9, "d4": 0.8, "d2": 0.7, "d3": 0.6},
    }
    gained = 1 / math.log2(3) + 2 / math.log2(4)
    best = 2 / math.log2(2) + 1 / math.log2(3)
    expected = [1 / math.log2(3), gained / best]
    np.testing.assert_allclose(query_scores(task, scores), expected, rtol=1e-7)


def test_map_as_computed_by_hand() -> None:
    qrels = {"q2": {"d1": 0, "d2": 2, "d3": 0, "d4": 1}, "q3": {"d3": 1}}
    scores: Scores = {"q2": {"d2": 0.1, "d1": 0.9, "d4": 0.5, "d3": 0.3}, "q3": {"d3": 1.0}}
    lenient = query_scores(task_of("reranking", qrels), scores)
    np.testing.assert_allclose(lenient, [(1 / 2 + 2 / 4) / 2, 1], rtol=1e-7)
    strict = query_scores(task_of("reranking", {"q2": qrels["q2"]}, relevance=2), scores)
    np.testing.assert_allclose(strict, [1 / 4], rtol=1e-7)


def test_equal_scores_are_ranked_as_the_metric_does() -> None:
    task = task_of("reranking", {"q1": {"d1": 0, "d2": 1, "d3": 0}})
    tied: Scores = {"q1": {"d1": 0.5, "d2": 0.5, "d3": 0.5}}
    place = best_documents(tied, "q1", 3).index("d2") + 1
    np.testing.assert_allclose(query_scores(task, tied), [1 / place], rtol=1e-7)


def test_a_query_without_scores_is_named() -> None:
    with pytest.raises(InputError, match="'q1' has no score"):
        query_scores(task_of("retrieval", {"q1": {"d1": 1}}), {})


# --- Statistics -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_interval_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    random = np.random.default_rng(5)
    a = random.uniform(0, 1, 300)
    b = np.clip(a + random.normal(-0.01, 0.08, 300), 0, 1)
    found = paired_difference([(a, b)])
    assert found.relative == pytest.approx(b.mean() / a.mean() - 1, rel=1e-12)
    theirs = bootstrap(
        (a, b),
        lambda x, y, axis: y.mean(axis=axis) / x.mean(axis=axis) - 1,
        paired=True,
        n_resamples=10_000,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    # 10,000 draws each: an end's own standard error is about 1/50 of the interval's width.
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_equal_systems_have_no_difference_and_no_interval() -> None:
    a = np.array([0.2, 0.9, 0.4])
    found = paired_difference([(a, a)])
    assert (found.relative, found.low, found.high) == (0, 0, 0)
    assert math.isnan(paired_difference([(np.zeros(2), np.ones(2))]).relative)


def test_a_mean_counts_every_task_once_and_draws_repeat() -> None:
    small = (np.array([0.5]), np.array([0.4]))
    large = (np.full(100, 0.5), np.full(100, 0.5))
    found = paired_difference([small, large])
    assert found.relative == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1))
    random = np.random.default_rng(0)
    pair = (random.uniform(size=50), random.uniform(size=50))
    assert paired_difference([pair]) == paired_difference([pair])
    assert paired_difference([pair]).low != paired_difference([pair], seed=1).low


def test_the_mean_of_all_counts_every_task_of_both_kinds_once() -> None:
    random = np.random.default_rng(3)

    def result(name: str, kind: str, queries: int, loss: float) -> TaskResult:
        # The queries' losses differ, so that the interval has a width.
        a = random.uniform(0.4, 0.6, queries)
        own = a - loss + random.normal(0, 0.01, queries)
        judged = {str(q): {"d1": 1} for q in range(queries)}
        task = Task(name, kind, {"d1": "x"}, dict.fromkeys(judged, "y"), judged)  # type: ignore[arg-type]
        return TaskResult(task, a, {"int8": own}, {})

    results = [
        result("large", "retrieval", 400, 0.0),
        result("small", "retrieval", 25, 0.02),
        result("pools", "reranking", 100, 0.01),
    ]
    report = EvaluationReport("float32", ["int8"], results)
    overall = report.overall["int8"]
    within = [[r.baseline.mean(), r.scores["int8"].mean()] for r in results]
    base, own = np.mean(within, axis=0)
    assert (overall.baseline, overall.mean) == pytest.approx((base, own))
    assert overall.relative == pytest.approx(own / base - 1)
    pooled = np.concatenate([r.scores["int8"] - r.baseline for r in results])
    assert overall.relative < pooled.mean() / base  # a task with many queries does not count more
    # The standard error of a mean of independent means, each over its own queries.
    errors = [np.std(r.scores["int8"] - r.baseline) / len(r.baseline) ** 0.5 for r in results]
    width = 2 * 1.96 * float(np.linalg.norm(errors)) / 3 / base
    assert overall.high - overall.low == pytest.approx(width, rel=0.1)
    alone = EvaluationReport("float32", ["int8"], results[:2])
    assert alone.overall == alone.means["retrieval"]


# --- Fidelity -------------------------------------------------------------------------------------
def test_cosines_raw_and_centred() -> None:
    # In a cone around the first axis a raw cosine is near 1, whatever the rest does.
    a = np.array([[1, 0.1, 0], [1, -0.1, 0]], np.float32)
    b = np.array([[1, 0, 0.1], [1, 0, -0.1]], np.float32)
    assert row_cosines(a, b).min() > 0.98
    np.testing.assert_allclose(row_cosines(a, b, centre=a.mean(axis=0)), [0, 0], atol=1e-6)
    zero = np.zeros((1, 3), np.float32)
    assert row_cosines(zero, zero) == [1]
    assert row_cosines(zero, a[:1]) == [0]
    found = summarize(np.linspace(0, 1, 101))
    assert (found.mean, found.percentile_1, found.minimum) == pytest.approx((0.5, 0.01, 0))


def test_overlap_of_rankings() -> None:
    a: Scores = {"q": {"x": 3.0, "y": 2.0, "z": 1.0}}
    b: Scores = {"q": {"x": 1.0, "y": 2.0, "z": 3.0}}
    assert overlaps(a, b, 1) == [0]
    assert overlaps(a, b, 2) == [0.5]
    assert overlaps(a, b, 10) == [1]
    a, b = (
        {"both": {}, "ours": {}, "theirs": {"x": 1.0}},
        {"both": {}, "ours": {"x": 1.0}, "theirs": {}},
    )
    for k in (1, 10):
        assert overlaps(a, b, k).tolist() == [1, 0, 0]


# --- Systems and reports --------------------------------------------------------------------------
class Axes:
    """Gives fixed vectors, so that rankings are known."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        """Take the vector of each text."""
        self.vectors = vectors
        self.calls = 0

    def encode_query(self, texts: list[str]) -> NDArray[np.float32]:
        self.calls += 1
        return np.array([self.vectors[text] for text in texts], np.float32)

    encode_document = encode_query

    def similarity(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        return a @ b.T


TASK = Task(
    "axes",
    "retrieval",
    {"d1": "up", "d2": "right"},
    {"q1": "north", "q2": "east"},
    {"q1": {"d1": 1}, "q2": {"d2": 1}},
)
RIGHT = {"up": [0.0, 1.0], "right": [1.0, 0.0], "north": [0.1, 1.0], "east": [1.0, 0.1]}
WRONG = {**RIGHT, "north": [1.0, 0.1]}


def report_of(*tasks: Task) -> EvaluationReport:
    systems = [VectorSystem("good", Axes(RIGHT)), VectorSystem("bad", Axes(WRONG))]
    return compare(VectorSystem("float32", Axes(RIGHT)), systems, tasks)


def test_a_report_counts_what_a_worse_system_loses() -> None:
    reranking = Task("pool", "reranking", TASK.corpus, TASK.queries, POOL, 1)
    report = report_of(TASK, reranking)
    bad = report.tasks[0].differences["bad"]
    lost = (1 - 1 / math.log2(3)) / 2
    assert bad.relative == pytest.approx(-lost)
    assert report.losses("bad")["retrieval NDCG@10"] == pytest.approx(lost)
    assert report.losses("bad")["reranking MAP"] == pytest.approx(0.25)
    assert report.losses("good") == {"retrieval NDCG@10": 0, "reranking MAP": 0}
    near = report.fidelity("bad")
    assert near is not None
    assert (near.texts, near.same_first, near.overlap_10) == (8, 0.5, 1)
    assert near.raw is not None
    assert near.raw.minimum == pytest.approx(0.2 / 1.01, rel=1e-5)
    assert near.score_difference is None
    assert fidelity_table(report).head[-1] == "same first"


POOL = {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 0, "d2": 1}}


@pytest.mark.slow
def test_tables_json_and_picture(tmp_path: Path) -> None:
    report = report_of(TASK)
    table = loss_table(report)
    assert [len(row) for row in table.rows] == [len(table.head)] * 2
    assert table.rows[0][:4] == ["axes", "NDCG@10", "2", "1.0000"]
    assert table.rows[0][-3:-1] == ["0.8155", "-18.45 %"]
    assert table.rows[1][0] == "mean of retrieval"
    assert fidelity_table(report).rows[1][0] == "bad"
    text = markdown_report(report)
    assert "| **mean of retrieval** | **NDCG@10** |" in text
    data = json.loads(json.dumps(report.to_json()))
    assert data["means"]["retrieval"]["systems"]["bad"]["relative"] == pytest.approx(-0.18453512)
    assert data["tasks"][0]["queries"] == 2
    assert data["overall"]["systems"] == data["means"]["retrieval"]["systems"]
    both = report_of(TASK, Task("pool", "reranking", TASK.corpus, TASK.queries, POOL, 1))
    last = loss_table(both).rows[-1]
    assert last[:4] == ["mean of all", "NDCG@10, MAP", "4", "1.0000"]
    assert float(last[-2].removesuffix(" %")) == pytest.approx(-(18.4535 + 25) / 2, abs=0.01)
    assert "| **mean of all** |" in markdown_report(both)
    data = both.to_json()["overall"]
    assert (data["tasks"], data["queries"], list(data["systems"])) == (2, 4, ["good", "bad"])
    draw(both, tmp_path / "both.png")
    draw(report, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot write"):
        draw(report, tmp_path / "none" / "a.png")


def test_tasks_of_mteb_stand_beside_ours() -> None:
    other = OtherResult("STS", "cosine_spearman", 0.8, {"good": 0.8, "bad": 0.6})
    report = compare(
        VectorSystem("float32", Axes(RIGHT)),
        [VectorSystem("good", Axes(RIGHT)), VectorSystem("bad", Axes(WRONG))],
        [],
        others=[other],
    )
    assert report.losses("bad") == {"STS": pytest.approx(0.25)}
    assert report.overall == {}
    assert loss_table(report).rows[0][-3:] == ["0.6000", "-25.00 %", "-"]
    assert fidelity_table(report).rows == []
    assert "STS" in markdown_report(report)


@pytest.mark.parametrize(
    ("share", "text"),
    [(-0.00123, "-0.12 %"), (0.2, "+20.00 %"), (0.00001, "0.00 %"), (-0.00001, "0.00 %")],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_names_must_differ_and_something_must_be_there() -> None:
    system = VectorSystem("a", Axes(RIGHT))
    with pytest.raises(InputError, match="'a' twice"):
        compare(system, [system, system], [TASK])
    with pytest.raises(InputError, match="tasks with different names: got none"):
        compare(system, [system], [])


def test_vectors_are_kept_under_all_they_depend_on(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "vectors")
    first, second, other = Axes(RIGHT), Axes(WRONG), Axes(WRONG)
    a = VectorSystem("a", first, cache=cache, key="one").measure(TASK)
    b = VectorSystem("b", second, cache=cache, key="one").measure(TASK)
    c = VectorSystem("c", other, cache=cache, key="two").measure(TASK)
    assert (first.calls, second.calls, other.calls) == (2, 0, 2)
    assert a.scores == b.scores
    assert a.scores != c.scores
    assert [path.suffix for path in cache.folder.iterdir()] == [".npz"] * 4
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the cache"):
        VectorCache(tmp_path / "file")


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "vectors")
    cache.folder.rmdir()
    cache.folder.touch()
    with pytest.raises(InputError, match=f"cannot write to the cache {cache.folder}: "):
        VectorSystem("a", Axes(RIGHT), cache=cache, key="one").measure(TASK)


@pytest.mark.parametrize(
    ("opens", "name"),
    [(CrossEncoder, ""), (SparseEncoder, "splade-distilbert"), (MultiVectorEncoder, "colbert")],
)
def test_other_kinds_of_models_compute_nothing_that_is_kept(
    opens: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run gets the same scores from the files, and calls no model."""
    folder = unpacked(name, tmp_path) if name else write_tiny_cross_encoder(tmp_path / "pairs")
    model = opens.from_pretrained(folder, threads=1)
    task = replace(TASK, kind="reranking")
    cache = VectorCache(tmp_path / "kept")
    expected = system_of("a", model).measure(task).scores
    assert system_of("a", model, cache=cache).measure(task).scores == expected
    for method in ("predict", "encode_query", "encode_document"):
        if hasattr(opens, method):
            monkeypatch.setattr(opens, method, Mock(side_effect=AssertionError("not kept")))
    again = system_of("a", opens.from_pretrained(folder, threads=1), cache=cache)
    assert again.measure(task).scores == expected
    other = replace(task, corpus={**task.corpus, next(iter(task.corpus)): "another text"})
    with pytest.raises(AssertionError, match="not kept"):
        again.measure(other)


def test_the_key_of_an_embedder_tells_precisions_apart(tiny_folder: Path) -> None:
    models = [
        Embedder.from_pretrained(tiny_folder, precision="int8"),
        Embedder.from_pretrained(tiny_folder, precision="float32"),
        Embedder.from_pretrained(tiny_folder, precision="float32", max_seq_length=16),
    ]
    assert len({quaver_key(model) for model in models}) == 3
    assert quaver_key(models[0]) == quaver_key(models[0])


class FakeScorer:
    def __init__(self, labels: int = 1, added: float = 0) -> None:
        """Give so many scores for each pair, with something added."""
        self.labels, self.added = labels, added

    def predict(self, pairs: list[tuple[str, str]], *, activation: str) -> NDArray[np.float32]:
        assert activation == "identity"
        scores = np.array([float(q == "north") == (d == "up") for q, d in pairs], np.float32)
        scores += self.added
        return scores if self.labels == 1 else np.stack([scores] * self.labels, axis=1)


def test_models_are_compared_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    write_task(tasks / "search")
    write_task(tasks / "other")
    embedder = Embedder.from_pretrained(tiny_folder)
    exact = Embedder.from_pretrained(tiny_folder, precision="float32")
    steps: list[tuple[str, str]] = []
    models = {"float32": exact, "int8": embedder}
    report = compare_models(
        models, tasks, baseline="float32", on_step=lambda task, model: steps.append((task, model))
    )
    assert (report.baseline, report.systems) == ("float32", ["int8"])
    assert [result.task.name for result in report.tasks] == ["other", "search"]
    assert steps[:2] == [("other", "float32"), ("other", "int8")]
    expected = compare(
        VectorSystem("float32", exact),
        [VectorSystem("int8", embedder)],
        [read_task(tasks / "search")],
    )
    (alone,) = compare_models(
        {**models, "int8": VectorSystem("int8", embedder)},
        [read_task(tasks / "search")],
        baseline="float32",
    ).tasks
    for found in (report.tasks[1], alone):
        assert np.array_equal(found.scores["int8"], expected.tasks[0].scores["int8"])


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            {"a": VectorSystem("a", Axes(RIGHT))},
            "baseline must name one of the models, 'a': got 'b'",
        ),
        ({"b": "some/model"}, r"models\['b'\] must be a model that is loaded, or a system"),
        ({"b": VectorSystem("a", Axes(RIGHT))}, "a system with this name"),
        (["b"], "models must map names to models: got list"),
    ],
)
def test_what_cannot_be_compared_is_named(models: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_models(models, [TASK], baseline="b")


def test_cross_encoders_rerank_and_nothing_else() -> None:
    pool = Task("pool", "reranking", TASK.corpus, TASK.queries, POOL, 1)
    report = compare(PairSystem("a", FakeScorer()), [PairSystem("b", FakeScorer())], [pool])
    assert report.tasks[0].baseline.tolist() == [1, 1]
    near = report.fidelity("b")
    assert near is not None
    assert (near.texts, near.raw, near.overlap_10, near.same_first) == (0, None, None, 1)
    assert near.score_difference == 0
    far = compare(PairSystem("a", FakeScorer()), [PairSystem("b", FakeScorer(added=0.25))], [pool])
    near = far.fidelity("b")
    assert near is not None
    assert near.score_difference == 0.25
    table = fidelity_table(far)
    assert (table.head[-1], table.rows[0][-1]) == ("score difference", "0.2500")
    with pytest.raises(TaskError, match="a is a cross-encoder, which reranks: got the retrieval"):
        PairSystem("a", FakeScorer()).measure(TASK)
    with pytest.raises(TaskError, match="returns 2, so it is a classifier"):
        PairSystem("a", FakeScorer(2)).measure(pool)


def test_an_index_finds_what_exact_search_finds(tiny_folder: Path, tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path / "small"))
    model = Embedder.from_pretrained(tiny_folder)
    report = compare(
        VectorSystem("exact", model), [IndexSystem("index", model, mode="dense")], [task]
    )
    near = report.fidelity("index")
    assert near is not None
    assert (near.overlap_10, near.same_first) == (1, 1)
    pool = read_task(write_task(tmp_path / "pool", qrels=POOLS), TaskOptions(kind="reranking"))
    with pytest.raises(TaskError, match="leave --index out"):
        IndexSystem("index", model).measure(pool)


# --- Model card -----------------------------------------------------------------------------------
def test_text_between_marks_is_replaced(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    write_between(card, "one")
    assert card.read_text() == f"{START}\none\n{END}\n"
    card.write_text(f"# Model\n\n{START}\nold\n{END}\n\nend\n")
    write_between(card, "new")
    assert card.read_text() == f"# Model\n\n{START}\nnew\n{END}\n\nend\n"
    card.write_text("# Model\n")
    write_between(card, "new")
    assert card.read_text() == f"# Model\n\n{START}\nnew\n{END}\n"
    card.write_text(f"{END} {START}")
    with pytest.raises(InputError, match="must have"):
        write_between(card, "new")
    assert card.read_text() == f"{END} {START}"
    assert list(tmp_path.iterdir()) == [card]


def test_lines_of_white_space_are_no_documents(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "small")
    write_lines(folder / "corpus.jsonl", [{"_id": k, "text": "x"} for k in CORPUS])
    with (folder / "corpus.jsonl").open("a") as file:
        file.write("\n  \n")
    assert list(read_task(folder).corpus) == list(CORPUS)


def test_the_rooms_left_out_of_the_cache_key_exist() -> None:
    rooms = {path.stem for path in Path(cache_module.__file__).parent.parent.iterdir()}
    assert rooms >= cache_module._NO_VECTORS
    assert not {"engine", "models", "embedder", "quantization"} & cache_module._NO_VECTORS
