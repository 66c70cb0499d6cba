"""QuaverRanker, QuantizedBiEncoderRanker and QuantizedBiEncoderRetriever in Haystack 3."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_integrations.components.embedders.quaver import QuaverDocumentEmbedder
from haystack_integrations.components.rankers.quaver import QuantizedBiEncoderRanker, QuaverRanker
from haystack_integrations.components.retrievers.quaver import QuantizedBiEncoderRetriever
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
        with pytest.raises(ValueError, match="top_k must be a whole number of at least 1: got 0"):
            kind(model=model, top_k=0)
        ranker = kind(model=model)
        with pytest.raises(ValueError, match="top_k must be"):
            ranker.run(query=QUERY, documents=[], top_k=-1)
        with pytest.raises(TypeError, match="takes a string as query: got list"):
            ranker.run(query=["a"], documents=[])
        with pytest.raises(TypeError, match="takes a list of Documents: got str"):
            ranker.run(query=QUERY, documents="text")


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


# --- The retriever --------------------------------------------------------------------------------
@pytest.fixture
def store(tiny: str) -> InMemoryDocumentStore:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine", shared=False)
    store.write_documents(QuaverDocumentEmbedder(model=tiny).run(documents())["documents"])
    return store


@both
def test_text_in_documents_out_over_store_and_retriever(
    tiny: str, store: InMemoryDocumentStore, asynchronous: bool
) -> None:
    plain = Embedder.from_pretrained(tiny)
    scores = plain.similarity(plain.encode_query(QUERY), plain.encode_document(TEXTS))
    for source in (
        {"document_store": store},
        {"retriever": InMemoryEmbeddingRetriever(store)},
    ):
        retriever = QuantizedBiEncoderRetriever(model=tiny, top_k=2, **source)
        found = run(retriever, asynchronous, query=QUERY)
        assert [int(d.id) for d in found] == np.argsort(-scores)[:2].tolist()
        assert [d.score for d in found] == pytest.approx(
            sorted(scores.tolist(), reverse=True)[:2], abs=1e-6
        )
        only = {"field": "meta.title", "operator": "==", "value": "key 3"}
        assert [d.id for d in run(retriever, asynchronous, query=QUERY, filters=only)] == ["3"]


class SyncOnly:
    """A retriever without run_async."""

    def run(self, query_embedding: list[float], filters: Any, top_k: int) -> dict[str, Any]:
        assert isinstance(query_embedding[0], float)
        return {"documents": documents()[:top_k]}


def test_a_retriever_without_async_runs_in_a_thread(tiny: str) -> None:
    retriever = QuantizedBiEncoderRetriever(model=tiny, retriever=SyncOnly(), top_k=1)
    assert [d.id for d in run(retriever, True, query=QUERY)] == ["0"]


def test_the_retriever_refuses_wrong_sources(tiny: str, store: InMemoryDocumentStore) -> None:
    with pytest.raises(ValueError, match="give either document_store or retriever"):
        QuantizedBiEncoderRetriever(model=tiny)
    with pytest.raises(ValueError, match="give either"):
        QuantizedBiEncoderRetriever(model=tiny, document_store=store, retriever=SyncOnly())
    with pytest.raises(ValueError, match=r"object has not; pass its embedding retriever"):
        QuantizedBiEncoderRetriever(model=tiny, document_store=object())
    with pytest.raises(TypeError, match="takes a string as query: got list"):
        QuantizedBiEncoderRetriever(model=tiny, document_store=store).run(["a"])


@both
@pytest.mark.parametrize("over", ["document_store", "retriever"])
def test_the_articles_pipeline_from_yaml(
    tiny: str, store: InMemoryDocumentStore, over: str, asynchronous: bool
) -> None:
    source = store if over == "document_store" else InMemoryEmbeddingRetriever(store)
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever",
        QuantizedBiEncoderRetriever(model=tiny, return_embedding=True, **{over: source}),
    )
    pipeline.add_component("ranker", QuantizedBiEncoderRanker(model=tiny, top_k=2))
    pipeline.connect("retriever.documents", "ranker.documents")
    inputs = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}
    wanted = pipeline.run(inputs)["ranker"]["documents"]
    assert len(wanted) == 2

    loaded = Pipeline.loads(pipeline.dumps())
    target = loaded.get_component("retriever")
    if over == "document_store":
        target.document_store = store
    else:
        target.retriever.document_store = store
    found = asyncio.run(loaded.run_async(inputs)) if asynchronous else loaded.run(inputs)
    assert [d.id for d in found["ranker"]["documents"]] == [d.id for d in wanted]
