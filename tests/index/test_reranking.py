"""Reranking: who orders the hits, what is embedded for it, and how few candidates suffice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quaver import (
    BiEncoderRanker,
    CrossEncoder,
    Embedder,
    Index,
    Passage,
    Ranked,
)
from quaver.documents import embedded_text
from quaver.errors import InputError, ModelError, ModelNotFoundError
from quaver.index.reranking import load_ranker
from tiny_model import write_json, write_tiny_cross_encoder, write_tiny_model

QUERY = "which file has the class"
TEXTS = [
    f"the {word} of the file"
    for word in ("python", "module", "class", "text", "data", "query", "list")
]


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("other") / "other", seed=1)


@pytest.fixture(scope="module")
def cross_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cross_encoder(tmp_path_factory.mktemp("cross") / "reranker")


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Iterator[Index]:
    with Index.create(":memory:", embedder) as index:
        index.add(
            [
                Passage(str(i), text, f"{i}.txt", "Top" if i % 2 else "", 0, len(text))
                for i, text in enumerate(TEXTS)
            ]
        )
        yield index


def by_hand(index: Index, ranker: CrossEncoder | BiEncoderRanker) -> list[tuple[str, float]]:
    stored = index.store.get([str(i) for i in range(len(TEXTS))])
    texts = [embedded_text(one.passage.heading, one.passage.text) for one in stored]
    return [(str(ranked.index), ranked.score) for ranked in ranker.rank(QUERY, texts)]


@pytest.mark.parametrize("kind", ["cross-encoder", "another bi-encoder"])
def test_hits_stand_in_the_order_of_the_ranker_with_its_scores(
    index: Index, cross_folder: Path, other_folder: Path, kind: str
) -> None:
    ranker = (
        CrossEncoder.from_pretrained(cross_folder, threads=1)
        if kind == "cross-encoder"
        else BiEncoderRanker(Embedder.from_pretrained(other_folder, threads=1))
    )
    hits = index.search(QUERY, k=3, ranker=ranker)
    assert [(hit.id, hit.score) for hit in hits] == by_hand(index, ranker)[:3]
    assert hits[0].text == TEXTS[int(hits[0].id)]


def test_the_same_bi_encoder_embeds_no_document(
    index: Index, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = BiEncoderRanker(embedder)
    expected = by_hand(index, ranker)
    monkeypatch.setattr(Embedder, "encode_document", None)
    hits = index.search(QUERY, k=10, mode="bm25", ranker=ranker)
    assert [hit.id for hit in hits] == [i for i, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [s for _, s in expected], atol=1e-5)


def test_a_passage_stored_without_a_vector_is_embedded(embedder: Embedder) -> None:
    with Index.create(":memory:", embedder) as index:
        passages = [Passage(str(i), text, "", "", 0, 1) for i, text in enumerate(TEXTS)]
        index.add(passages[1:])
        index.store.upsert(passages[:1], None)
        hits = index.search(QUERY, mode="bm25", ranker=BiEncoderRanker(embedder))
        assert {hit.id for hit in hits} == {str(i) for i in range(len(TEXTS))}


class _Last:
    """A ranker of the user's own: the last is the best."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def rank(self, query: str, documents: list[str], *, top_k: int | None = None) -> list[Ranked]:
        self.seen.append(len(documents))
        ranked = [Ranked(i, float(i), text) for i, text in enumerate(documents)][::-1]
        return ranked[:top_k]


def test_candidates_bound_what_the_ranker_reads(index: Index) -> None:
    ranker = _Last()
    plain = index.search(QUERY, k=5)
    assert [h.id for h in index.search(QUERY, k=2, candidates=5, ranker=ranker)] == [
        plain[4].id,
        plain[3].id,
    ]
    index.search(QUERY, k=4, candidates=1, ranker=ranker)  # never fewer than are asked for
    assert ranker.seen == [5, 4]
    with pytest.raises(InputError, match="candidates must be"):
        index.search(QUERY, candidates=0, ranker=ranker)
    assert index.search("zzz", mode="bm25", ranker=ranker) == []


def test_min_score_leaves_hits_out(index: Index) -> None:
    plain = index.search(QUERY, mode="dense")
    assert index.search(QUERY, mode="dense", min_score=plain[2].score) == plain[:3]
    assert [h.score for h in index.search(QUERY, ranker=_Last(), min_score=4)] == [6, 5, 4]
    assert index.search(QUERY, min_score=1e9) == []


@pytest.mark.parametrize("wrong", [object(), "BAAI/bge-reranker-base", CrossEncoder])
def test_what_cannot_rank_is_no_ranker(index: Index, wrong: object) -> None:
    with pytest.raises(InputError, match="must have a method rank, like a CrossEncoder: got"):
        index.search(QUERY, ranker=wrong)  # type: ignore[arg-type]


def test_a_name_becomes_the_ranker_that_it_is(
    embedder: Embedder, tiny_folder: Path, other_folder: Path, cross_folder: Path, tmp_path: Path
) -> None:
    same = load_ranker(tiny_folder, embedder)
    assert isinstance(same, BiEncoderRanker)
    assert same.embedder is embedder
    other = load_ranker(other_folder, embedder)
    assert isinstance(other, BiEncoderRanker)
    assert other.embedder.source == str(other_folder)
    assert isinstance(load_ranker(cross_folder), CrossEncoder)
    with pytest.raises(ModelNotFoundError):
        load_ranker(tmp_path / "no" / "such" / "model")
    write_json(
        tmp_path / "bart" / "config.json", {"model_type": "bart", "architectures": ["BartModel"]}
    )
    with pytest.raises(ModelError, match="bart is neither"):
        load_ranker(tmp_path / "bart")
