"""mteb: its protocols, its mock tasks, and our metrics against its own on the same data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.mocks.mock_tasks.classification import MockClassificationTask
from mteb.mocks.mock_tasks.reranking import MockRerankingTask
from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask
from mteb.mocks.mock_tasks.sts import MockSTSTask
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from typer.testing import CliRunner

from quaver import CrossEncoder, Embedder, InputError, TaskError, cli
from quaver.evaluate import TaskOptions, VectorSystem, compare, read_task
from quaver.evaluate.mteb_tasks import find_mteb, has_judgments, read_mteb, run_mteb
from quaver.integrations.mteb import MtebCrossEncoder, MtebEncoder, MtebSearch
from task_folder import POOLS, write_task

# mteb and datasets warn about themselves.
pytestmark = pytest.mark.filterwarnings("default")


def main_score(model: Any, task: Any) -> float:
    done = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return float(done.task_results[0].get_score())


@pytest.fixture(scope="module")
def encoder(tiny: str) -> MtebEncoder:
    return MtebEncoder(tiny, precision="float32")


def test_models_satisfy_the_protocols(encoder: MtebEncoder, tiny_cross: str) -> None:
    assert isinstance(encoder, EncoderProtocol)
    assert isinstance(MtebCrossEncoder(tiny_cross), CrossEncoderProtocol)
    assert isinstance(MtebSearch(encoder.embedder), SearchProtocol)
    assert encoder.mteb_model_meta.name.endswith("-quaver-float32")
    with pytest.raises(InputError, match="Quaver runs on CPUs"):
        MtebEncoder(encoder.embedder, device="cuda")


@pytest.mark.parametrize(
    "task",
    [MockRetrievalTask, MockRerankingTask, MockSTSTask, MockClassificationTask],
    ids=lambda task: task.__name__,
)
def test_mock_tasks_run_through_an_embedder(encoder: MtebEncoder, task: Any) -> None:
    assert -1 <= main_score(encoder, task()) <= 1


def test_the_mock_reranking_task_runs_through_a_cross_encoder(tiny_cross: str) -> None:
    model = MtebCrossEncoder(CrossEncoder.from_pretrained(tiny_cross))
    assert 0 <= main_score(model, MockRerankingTask()) <= 1


def test_the_mock_retrieval_task_runs_through_an_index(encoder: MtebEncoder) -> None:
    whole = MtebSearch(encoder.embedder, mode="dense")
    assert main_score(whole, MockRetrievalTask()) == main_score(encoder, MockRetrievalTask())
    whole.close()
    with pytest.raises(InputError, match="call index first"):
        whole.search([], task_metadata=None, top_k=1)


def test_prompts_are_the_most_specific_ones(tiny: str) -> None:
    prompts = {"query": "find: ", "STS": "the same: ", "MockSTSTask-query": "alike: "}
    model = MtebEncoder(Embedder.from_pretrained(tiny, prompts=prompts))
    sts, retrieval = MockSTSTask().metadata, MockRetrievalTask().metadata
    batches = [{"text": ["the list"]}, {"text": ["of files"]}]
    texts = ["the list", "of files"]
    for metadata, role, prompt in [
        (sts, "query", "alike: "),
        (sts, "document", "the same: "),
        (sts, None, "the same: "),
        (retrieval, "query", "find: "),
        (retrieval, "document", ""),
    ]:
        found = model.encode(batches, task_metadata=metadata, prompt_type=role)
        np.testing.assert_array_equal(found, model.embedder.encode(texts, prompt=prompt))


# --- Our metrics against mteb's -------------------------------------------------------------------
def local_task(folder: Path, kind: str) -> Any:
    """A task folder as mteb's own task, filled by hand."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    ours = read_task(folder, TaskOptions(kind=kind))

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Local{kind.title()}",
            description="local",
            type=kind.title(),
            dataset={"path": str(folder), "revision": "local"},
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10" if kind == "retrieval" else "map_at_1000",
            category="t2t",
            modalities=["text"],
        )

        def load_data(self, num_proc: int | None = None, **options: Any) -> None:
            rows = [json.loads(x) for x in (folder / "corpus.jsonl").read_text().splitlines()]
            corpus = [{"id": r["_id"], "title": r["title"], "text": r["text"]} for r in rows]
            queries = [{"id": key, "text": text} for key, text in ours.queries.items()]
            judged = {key: dict(row) for key, row in ours.judgments.items()}
            pools = {key: list(row) for key, row in judged.items()}
            data = {
                "corpus": Dataset.from_list(corpus),
                "queries": Dataset.from_list(queries),
                "relevant_docs": judged,
                "top_ranked": pools if kind == "reranking" else None,
            }
            self.dataset = {"default": {"test": data}}
            self.data_loaded = True

    return Local()


@pytest.mark.parametrize("kind", ["retrieval", "reranking"])
def test_our_scores_are_mtebs_scores(encoder: MtebEncoder, tmp_path: Path, kind: str) -> None:
    for folder in [write_task(tmp_path / "small", qrels=POOLS)]:
        theirs = local_task(folder, kind)
        (ours,) = read_mteb(theirs)
        local = read_task(folder, TaskOptions(kind=kind))
        assert (ours.corpus, ours.queries, ours.judgments) == (
            local.corpus,
            local.queries,
            local.judgments,
        )
        system = VectorSystem("float32", encoder.embedder)
        report = compare(system, [VectorSystem("same", encoder.embedder)], [ours])
        # mteb rounds its means to five decimals.
        assert report.tasks[0].baseline.mean() == pytest.approx(
            main_score(encoder, theirs), abs=1e-5
        )


# --- Names ----------------------------------------------------------------------------------------
def test_names_of_tasks_and_benchmarks() -> None:
    tasks = find_mteb(["SciFact", "NanoBEIR", "SciFact"])
    assert len(tasks) == 14
    assert has_judgments(tasks[0])
    assert not has_judgments(MockSTSTask())
    with pytest.raises(TaskError, match=r"got 'SciFakt'; mteb says: .*"):
        find_mteb(["SciFakt"])


def test_without_a_hub_the_error_says_so() -> None:
    with pytest.raises(TaskError, match=r"data of SciFact cannot be loaded: .*go online once"):
        read_mteb(find_mteb(["SciFact"])[0])


def test_other_tasks_stand_in_the_report(encoder: MtebEncoder, tiny: str) -> None:
    (result,) = run_mteb([MockSTSTask()], encoder, {"int8": MtebEncoder(tiny)})
    assert (result.task, result.metric) == ("MockSTSTask", "cosine_spearman")
    assert result.scores.keys() == {"int8"}


def test_the_command_line_takes_names(tiny: str) -> None:
    done = CliRunner().invoke(cli.app, ["evaluate", tiny, "--tasks", "STS12,MTEB(eng, v2)"])
    assert done.exit_code == 1
    assert "cannot be loaded" in done.stderr
