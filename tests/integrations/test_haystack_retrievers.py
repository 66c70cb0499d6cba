"""QuantizedBiEncoderRetriever and QuaverEmbeddingRetriever in Haystack 3, alone and in pipelines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.core.errors import PipelineRuntimeError
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_integrations.components.embedders.quaver import QuaverDocumentEmbedder
from haystack_integrations.components.rankers.quaver import QuantizedBiEncoderRanker
from haystack_integrations.components.retrievers.quaver import (
    QuantizedBiEncoderRetriever,
    QuaverEmbeddingRetriever,
)
from haystack_integrations.document_stores.quaver import QuaverDocumentStore
from quaver import Embedder

TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
QUERY = "my file"

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def run(component: Any, asynchronous: bool = False, **inputs: Any) -> list[Document]:
    if asynchronous:
        return list(asyncio.run(component.run_async(**inputs))["documents"])
    return list(component.run(**inputs)["documents"])


def embedded(model: str) -> list[Document]:
    documents = [
        Document(content=text, id=str(i), meta={"title": f"key {i}", "n": i})
        for i, text in enumerate(TEXTS)
    ]
    return list(QuaverDocumentEmbedder(model=model).run(documents)["documents"])


@pytest.fixture
def store(tiny: str) -> InMemoryDocumentStore:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine", shared=False)
    store.write_documents(embedded(tiny))
    return store


# --- The bi-encoder retriever ---------------------------------------------------------------------
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


def test_the_retriever_puts_no_document_prompt_before_the_query(tiny: str) -> None:
    store = QuaverDocumentStore(embedding_dim=64)
    store.write_documents(embedded(tiny))
    made = QuantizedBiEncoderRetriever(document_store=store, model=tiny)
    plain = Embedder.from_pretrained(tiny)
    scores = plain.similarity(plain.encode_query(QUERY), plain.encode_document(TEXTS))
    found = made.run(QUERY)["documents"]
    assert [d.content for d in found] == [TEXTS[i] for i in np.argsort(-scores)]
    assert [d.score for d in found] == pytest.approx(
        sorted(scores.tolist(), reverse=True), abs=1e-5
    )


class SyncOnly:
    """A retriever without run_async."""

    def run(self, query_embedding: list[float], filters: Any, top_k: int) -> dict[str, Any]:
        assert isinstance(query_embedding[0], float)
        return {"documents": [Document(id="0"), Document(id="1")][:top_k]}


def test_a_retriever_without_async_runs_in_a_thread(tiny: str) -> None:
    retriever = QuantizedBiEncoderRetriever(model=tiny, retriever=SyncOnly(), top_k=1)
    assert [d.id for d in run(retriever, True, query=QUERY)] == ["0"]


def test_the_retriever_refuses_wrong_sources(tiny: str, store: InMemoryDocumentStore) -> None:
    with pytest.raises(
        ValueError, match="pass exactly one of document_store and retriever: got neither"
    ):
        QuantizedBiEncoderRetriever(model=tiny)
    with pytest.raises(ValueError, match="got both"):
        QuantizedBiEncoderRetriever(model=tiny, document_store=store, retriever=SyncOnly())
    with pytest.raises(ValueError, match=r"got object; pass its embedding retriever"):
        QuantizedBiEncoderRetriever(model=tiny, document_store=object())
    with pytest.raises(TypeError, match="takes a string as query: got list"):
        QuantizedBiEncoderRetriever(model=tiny, document_store=store).run(["a"])


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


# --- The embedding retriever ----------------------------------------------------------------------
def test_the_embedding_retriever(tiny: str) -> None:
    store = QuaverDocumentStore(embedding_dim=64)
    store.write_documents(embedded(tiny))
    query = store.filter_documents({"field": "id", "operator": "==", "value": "2"})[0].embedding
    retriever = QuaverEmbeddingRetriever(
        store, filters={"field": "meta.n", "operator": "<", "value": 3}, top_k=4
    )
    wanted = [d.id for d in retriever.run(query_embedding=query)["documents"]]
    assert wanted[0] == "2"
    assert len(wanted) == 3
    found = asyncio.run(retriever.run_async(query_embedding=query))["documents"]
    assert [d.id for d in found] == wanted
    with pytest.raises(ValueError, match="must be a QuaverDocumentStore"):
        QuaverEmbeddingRetriever(object())


# --- The article's pipeline -----------------------------------------------------------------------
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


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_articles_pipeline_over_a_folder_from_yaml(
    tiny: str, folder: Path, asynchronous: bool
) -> None:
    store = QuaverDocumentStore(path=folder / "store", embedding_dim=64)
    store.write_documents(embedded(tiny))
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever",
        QuantizedBiEncoderRetriever(document_store=store, model=tiny, return_embedding=True),
    )
    pipeline.add_component("ranker", QuantizedBiEncoderRanker(model=tiny, top_k=2))
    pipeline.connect("retriever.documents", "ranker.documents")
    loaded = Pipeline.loads(pipeline.dumps())
    inputs = {"retriever": {"query": "my file"}, "ranker": {"query": "my file"}}
    found = asyncio.run(loaded.run_async(inputs)) if asynchronous else loaded.run(inputs)
    wanted = pipeline.run(inputs)["ranker"]["documents"]
    assert [d.id for d in found["ranker"]["documents"]] == [d.id for d in wanted]
    assert len(wanted) == 2
    store.close()
