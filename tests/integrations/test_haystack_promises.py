"""What every Haystack component keeps: no guessed pooling, own prompts, scores, thresholds, and clear refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import DeserializationError, Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.core.errors import PipelineRuntimeError
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_integrations.components.embedders.quaver import (
    QuaverDocumentEmbedder,
    QuaverTextEmbedder,
)
from haystack_integrations.components.rankers.quaver import QuantizedBiEncoderRanker, QuaverRanker
from haystack_integrations.components.retrievers.quaver import (
    QuantizedBiEncoderRetriever,
    QuaverEmbeddingRetriever,
)
from haystack_integrations.document_stores.quaver import QuaverDocumentStore
from quaver import Embedder, InputError, PoolingError
from tiny_model import write_tiny_model

TEXTS = ["the file of her own", "a list of keys", "they return an error"]
QUERY = "my file"


def retriever(**options: Any) -> QuantizedBiEncoderRetriever:
    return QuantizedBiEncoderRetriever(
        document_store=QuaverDocumentStore(embedding_dim=64), **options
    )


EMBEDDING: list[Callable[..., Any]] = [
    QuaverTextEmbedder,
    QuaverDocumentEmbedder,
    QuantizedBiEncoderRanker,
    retriever,
]
EVERY: list[Callable[..., Any]] = [
    *EMBEDDING,
    QuaverRanker,
    lambda model: QuaverEmbeddingRetriever(QuaverDocumentStore()),
    lambda model: QuaverDocumentStore(),
]


@pytest.mark.parametrize("make", [*EMBEDDING, QuaverRanker])
def test_a_path_is_saved_and_loaded_again(make: Callable[..., Any], tiny: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("one", make(model=Path(tiny)))
    again = Pipeline.loads(pipeline.dumps()).get_component("one")
    assert again.model == tiny


def test_a_stores_path_is_saved_and_loaded_again(tmp_path: Path) -> None:
    store = QuaverDocumentStore(path=tmp_path / "store", embedding_dim=64)
    pipeline = Pipeline()
    pipeline.add_component("one", QuaverEmbeddingRetriever(store))
    again = Pipeline.loads(pipeline.dumps()).get_component("one")
    assert again.document_store.path == str(tmp_path / "store")


# --- Errors of earlier systems that must not return -----------------------------------------------
@pytest.mark.parametrize("make", EMBEDDING)
def test_pooling_is_never_guessed(make: Callable[..., Any], tmp_path: Path) -> None:
    silent = str(write_tiny_model(tmp_path / "silent", pooling=None))
    with pytest.raises(PoolingError, match="pooling"):
        make(model=silent).warm_up()
    told = make(model=silent, pooling="cls")
    told.warm_up()
    wanted = Embedder.from_pretrained(silent, pooling="cls").encode(TEXTS)
    np.testing.assert_array_equal(told.shared.embedder.encode(TEXTS), wanted)


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


def test_the_retriever_puts_no_document_prompt_before_the_query(tiny: str) -> None:
    made = retriever(model=tiny)
    documents = [Document(content=text) for text in TEXTS]
    embedded = QuaverDocumentEmbedder(model=tiny).run(documents)["documents"]
    made.document_store.write_documents(embedded)
    plain = Embedder.from_pretrained(tiny)
    scores = plain.similarity(plain.encode_query(QUERY), plain.encode_document(TEXTS))
    found = made.run(QUERY)["documents"]
    assert [d.content for d in found] == [TEXTS[i] for i in np.argsort(-scores)]
    assert [d.score for d in found] == pytest.approx(
        sorted(scores.tolist(), reverse=True), abs=1e-5
    )


# --- Bad input ------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", EVERY)
def test_what_another_version_saved_is_told_so(make: Callable[..., Any]) -> None:
    data = make(model="some/model").to_dict()
    kind = type(make(model="some/model"))
    assert type(kind.from_dict(copy.deepcopy(data))) is kind
    data["init_parameters"]["turbo"] = True
    with pytest.raises(DeserializationError, match=r"got 'turbo'; another version of Quaver may"):
        kind.from_dict(data)


def test_a_saved_pipeline_of_another_version_names_the_parameter(tiny: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever(model=tiny))
    text = pipeline.dumps()
    assert Pipeline.loads(text).get_component("retriever").model == tiny
    with pytest.raises(DeserializationError, match="got 'depth'"):
        Pipeline.loads(text.replace("truncate_dim:", "depth:"))


@pytest.mark.parametrize("kind", [QuaverDocumentEmbedder, QuaverRanker, QuantizedBiEncoderRanker])
def test_a_string_is_no_list_of_meta_fields(kind: Any) -> None:
    with pytest.raises(TypeError, match="list of strings as meta_fields_to_embed: got 'title'"):
        kind(model="some/model", meta_fields_to_embed="title")


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"retriever with run\(query_embedding, ...\): object has"):
        QuantizedBiEncoderRetriever(model="some/model", retriever=object())
    with pytest.raises(ValueError, match="embedding_dim must be a whole number of at least 1"):
        QuaverDocumentStore(embedding_dim=0)
    with pytest.raises(InputError, match="model must be a folder or a hub id: got None"):
        QuaverTextEmbedder(model=None).warm_up()


def test_a_string_is_no_list_of_ids() -> None:
    store = QuaverDocumentStore(embedding_dim=3)
    store.write_documents([Document(content="text", id="1"), Document(content="more", id="2")])
    with pytest.raises(DocumentStoreError, match="ids must be a list of str: got the str '12'"):
        store.delete_documents("12")  # type: ignore[arg-type]
    assert store.count_documents() == 2


def test_equal_vectors_score_1_and_not_more(tiny: str) -> None:
    ranker = QuantizedBiEncoderRanker(
        model=tiny, scale_score=True, query_prefix="", document_prefix=""
    )
    for n in range(20):
        text = " ".join(TEXTS[n % 3].split()[: 1 + n % 5] * (1 + n))
        (found,) = ranker.run(query=text, documents=[Document(content=text)])["documents"]
        assert 1 - 1e-6 <= found.score <= 1


def test_a_document_without_content_or_embedding_is_stored_and_found_by_what_it_has(
    tiny: str,
) -> None:
    store = QuaverDocumentStore(embedding_dim=64)
    index = Pipeline()
    index.add_component("embedder", QuaverDocumentEmbedder(model=tiny))
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder.documents", "writer.documents")
    empty = Document(content=None, id="empty", meta={"a": 1})
    assert index.run({"embedder": {"documents": [empty]}})["writer"]["documents_written"] == 1
    store.write_documents([Document(content="a list of keys", id="plain")])
    query = Embedder.from_pretrained(tiny).encode_query(QUERY).tolist()
    (found,) = store.embedding_retrieval(query)
    assert (found.id, found.content, found.meta["a"]) == ("empty", None, 1)
    assert [d.id for d in store.bm25_retrieval("keys")] == ["plain"]
    assert (
        store.filter_documents({"field": "id", "operator": "==", "value": "plain"})[0].embedding
        is None
    )


def test_an_embedding_of_another_dimension_in_the_store(tiny: str, folder: Path) -> None:
    path = str(folder / "store")
    store = QuaverDocumentStore(path=path, embedding_dim=3)
    store.write_documents([Document(content="text", embedding=[1.0, 0.0, 0.0])])
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever", QuantizedBiEncoderRetriever(document_store=store, model=tiny)
    )
    with pytest.raises(PipelineRuntimeError, match="vectors of dimension 3: got one of 64"):
        pipeline.run({"retriever": {"query": QUERY}})
    with pytest.raises(DocumentStoreError, match="vectors of dimension 3: got one of 64"):
        QuaverDocumentStore(path=path, embedding_dim=64).write_documents([])
    foreign = InMemoryDocumentStore(shared=False)
    foreign.write_documents([Document(content="text", embedding=[1.0, 0.0, 0.0])])
    over = QuantizedBiEncoderRetriever(document_store=foreign, model=tiny)
    with pytest.raises(DocumentStoreError, match="size"):  # that store's own words
        over.run(QUERY)
    store.close()
