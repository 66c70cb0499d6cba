"""QuaverRanker and QuantizedBiEncoderRanker in Haystack 3."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from haystack import Document

from haystack_integrations.components.embedders.quaver import QuaverDocumentEmbedder
from haystack_integrations.components.rankers.quaver import QuantizedBiEncoderRanker, QuaverRanker
from quaver import CrossEncoder, Embedder, InputError

TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
QUERY = "my file"

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def run(component: Any, asynchronous: bool = False, **inputs: Any) -> list[Document]:
    if asynchronous:
        return list(asyncio.run(component.run_async(**inputs))["documents"])
    return list(component.run(**inputs)["documents"])


def documents() -> list[Document]:
    return [
        Document(content=text, id=str(i), meta={"title": f"key {i}"})
        for i, text in enumerate(TEXTS)
    ]


# --- Both rankers ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [QuaverRanker, QuantizedBiEncoderRanker])
def test_rankers_keep_scores_threshold_and_documents(kind: Any, tiny: str, tiny_cross: str) -> None:
    ranker = kind(model=tiny_cross if kind is QuaverRanker else tiny, scale_score=True)
    given = [Document(content=text, meta={"n": [i]}) for i, text in enumerate(TEXTS)]
    before = copy.deepcopy(given)
    found = ranker.run(query=QUERY, documents=given)["documents"]
    assert given == before
    scores = [document.score for document in found]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(TEXTS)
    assert all(0 <= score <= 1 for score in scores)
    for threshold, count in ((scores[1], 2), (scores[0] + 1e-6, 0), (scores[2], 3)):
        kept = ranker.run(query=QUERY, documents=given, score_threshold=threshold)["documents"]
        assert [d.id for d in kept] == [d.id for d in found[:count]]


@both
def test_rankers_bear_no_documents_no_content_and_doubles(
    tiny_cross: str, tiny: str, asynchronous: bool
) -> None:
    for ranker in (QuaverRanker(model=tiny_cross), QuantizedBiEncoderRanker(model=tiny)):
        assert run(ranker, asynchronous, query=QUERY, documents=[]) == []
        (found,) = run(ranker, asynchronous, query=QUERY, documents=[Document(content=None)])
        assert found.score is not None
        twice = [*documents(), *documents()]
        assert len(run(ranker, asynchronous, query=QUERY, documents=twice)) == len(TEXTS)


def test_rankers_refuse_wrong_input(tiny_cross: str, tiny: str) -> None:
    for kind, model in ((QuaverRanker, tiny_cross), (QuantizedBiEncoderRanker, tiny)):
        with pytest.raises(ValueError, match="top_k must be an integer of at least 1: got 0"):
            kind(model=model, top_k=0)
        ranker = kind(model=model)
        with pytest.raises(ValueError, match="top_k must be"):
            ranker.run(query=QUERY, documents=[], top_k=-1)
        with pytest.raises(TypeError, match="takes a string as query: got list"):
            ranker.run(query=["a"], documents=[])
        with pytest.raises(TypeError, match="takes a list of Documents: got str"):
            ranker.run(query=QUERY, documents="text")


# --- The cross-encoder ----------------------------------------------------------------------------
@both
def test_the_order_and_scores_are_the_models(tiny_cross: str, asynchronous: bool) -> None:
    given = documents()
    before = [document.to_dict() for document in given]
    found = run(QuaverRanker(model=tiny_cross), asynchronous, query=QUERY, documents=given)
    wanted = CrossEncoder.from_pretrained(tiny_cross).rank(QUERY, TEXTS)
    assert [document.id for document in found] == [str(ranked.index) for ranked in wanted]
    scores = [document.score for document in found]
    assert scores == pytest.approx([ranked.score for ranked in wanted], abs=1e-6)
    assert [document.to_dict() for document in given] == before


def test_plain_scores_threshold_and_top_k(tiny_cross: str) -> None:
    ranker = QuaverRanker(model=tiny_cross, scale_score=False)
    plain = run(ranker, query=QUERY, documents=documents())
    logits = CrossEncoder.from_pretrained(tiny_cross).predict(
        [(QUERY, text) for text in TEXTS], activation="identity"
    )
    assert [d.score for d in plain] == pytest.approx(sorted(logits.tolist(), reverse=True))
    middle = plain[1].score
    kept = run(ranker, query=QUERY, documents=documents(), score_threshold=middle)
    assert [document.id for document in kept] == [document.id for document in plain[:2]]
    assert run(ranker, query=QUERY, documents=documents(), top_k=1)[0].id == plain[0].id
    assert run(ranker, query=QUERY, documents=documents(), score_threshold=1e9) == []


def test_meta_fields_and_affixes_are_read(tiny_cross: str) -> None:
    ranker = QuaverRanker(
        model=tiny_cross,
        meta_fields_to_embed=["title"],
        embedding_separator=" | ",
        query_prefix="find ",
        query_suffix=" now",
        document_prefix="text ",
        document_suffix=" end",
        scale_score=False,
    )
    found = run(ranker, query=QUERY, documents=documents())
    pairs = [(f"find {QUERY} now", f"text key {i} | {text} end") for i, text in enumerate(TEXTS)]
    wanted = CrossEncoder.from_pretrained(tiny_cross).predict(pairs, activation="identity")
    assert {d.id: d.score for d in found} == pytest.approx(
        {str(i): float(score) for i, score in enumerate(wanted)}
    )


def test_a_model_with_several_labels_is_no_ranker(tmp_path: Any) -> None:
    from tiny_model import write_tiny_cross_encoder

    folder = write_tiny_cross_encoder(tmp_path / "labels", labels=3)
    with pytest.raises(InputError, match="a reranker needs a model with one label"):
        QuaverRanker(model=str(folder)).warm_up()


# --- The bi-encoder -------------------------------------------------------------------------------
@both
def test_scores_are_similarities_with_each_ones_own_prompt(tiny: str, asynchronous: bool) -> None:
    found = run(
        QuantizedBiEncoderRanker(model=tiny), asynchronous, query=QUERY, documents=documents()
    )
    plain = Embedder.from_pretrained(tiny)
    scores = plain.similarity(plain.encode_query(QUERY), plain.encode_document(TEXTS))
    assert [int(document.id) for document in found] == np.argsort(-scores).tolist()
    assert [d.score for d in found] == pytest.approx(sorted(scores.tolist(), reverse=True))
    half = run(
        QuantizedBiEncoderRanker(model=tiny, scale_score=True), query=QUERY, documents=documents()
    )
    assert [d.score for d in half] == pytest.approx([(d.score + 1) / 2 for d in found])


def encoded_documents(ranker: QuantizedBiEncoderRanker, given: list[Document]) -> int:
    """How many documents the ranker embeds itself."""
    ranker.warm_up()
    texts = ranker._texts(given)
    return len(ranker._without_embedding(given, texts))


def test_embeddings_of_the_same_model_and_text_are_reused(tiny: str) -> None:
    embedder = QuaverDocumentEmbedder(model=tiny, meta_fields_to_embed=["title"])
    given = embedder.run(documents())["documents"]
    same = QuantizedBiEncoderRanker(model=tiny, meta_fields_to_embed=["title"])
    assert encoded_documents(same, given) == 0
    again = run(same, query=QUERY, documents=[replace(d, embedding=None) for d in given])
    reused = run(same, query=QUERY, documents=given)
    assert [d.id for d in reused] == [d.id for d in again]
    assert [d.score for d in reused] == pytest.approx([d.score for d in again], abs=1e-6)


def test_other_embeddings_are_not_trusted(tiny: str, tmp_path: Any) -> None:
    from tiny_model import write_tiny_model

    given = QuaverDocumentEmbedder(model=tiny).run(documents())["documents"]
    other = str(write_tiny_model(tmp_path / "other", seed=1))
    assert encoded_documents(QuantizedBiEncoderRanker(model=other), given) == 4
    prefixed = QuantizedBiEncoderRanker(model=tiny, document_prefix="text: ")
    assert encoded_documents(prefixed, given) == 4
    ranker = QuantizedBiEncoderRanker(model=tiny)
    changed = [replace(given[0], content="another text"), *given[1:]]
    assert encoded_documents(ranker, changed) == 1
    foreign = [Document(content=text, embedding=[1.0] * 64) for text in TEXTS]
    assert encoded_documents(ranker, foreign) == 4
    short = [replace(d, embedding=[1.0]) for d in given]
    assert encoded_documents(ranker, short) == 4


def test_the_bi_encoder_ranker_reads_meta_fields_and_prompts_of_each_role(tiny: str) -> None:
    ranker = QuantizedBiEncoderRanker(
        model=tiny,
        meta_fields_to_embed=["title"],
        embedding_separator=": ",
        query_prefix="find ",
        document_prefix="text ",
        document_suffix=" end",
    )
    given = [Document(content=t, id=str(i), meta={"title": i}) for i, t in enumerate(TEXTS)]
    plain = Embedder.from_pretrained(tiny)
    query = plain.encode(f"find {QUERY}", prompt="")
    texts = plain.encode([f"text {i}: {t} end" for i, t in enumerate(TEXTS)], prompt="")
    found = {d.id: d.score for d in ranker.run(query=QUERY, documents=given)["documents"]}
    wanted = {str(i): float(score) for i, score in enumerate(plain.similarity(query, texts))}
    assert found == pytest.approx(wanted, abs=1e-6)


def test_equal_vectors_score_1_and_not_more(tiny: str) -> None:
    ranker = QuantizedBiEncoderRanker(
        model=tiny, scale_score=True, query_prefix="", document_prefix=""
    )
    for n in range(20):
        text = " ".join(TEXTS[n % 3].split()[: 1 + n % 5] * (1 + n))
        (found,) = ranker.run(query=text, documents=[Document(content=text)])["documents"]
        assert 1 - 1e-6 <= found.score <= 1
