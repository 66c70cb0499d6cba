"""QuaverSparseTextEmbedder and QuaverSparseDocumentEmbedder, with Haystack's hybrid retriever of Qdrant."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import SparseEmbedding
from haystack_integrations.components.retrievers.qdrant import (
    QdrantHybridRetriever,
    QdrantSparseEmbeddingRetriever,
)
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

from haystack_integrations.components.embedders.quaver import (
    QuaverDocumentEmbedder,
    QuaverSparseDocumentEmbedder,
    QuaverSparseTextEmbedder,
    QuaverTextEmbedder,
)
from quaver import SparseEncoder, UnsupportedArchitectureError

TEXTS = ["the file of her own", "a list of keys", "they return an error"]

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def run(component: Any, given: Any, *, asynchronous: bool) -> Any:
    return asyncio.run(component.run_async(given)) if asynchronous else component.run(given)


def as_pair(embedding: SparseEmbedding) -> tuple[list[int], list[float]]:
    return embedding.indices, embedding.values


@pytest.fixture(scope="module")
def plain(splade: str) -> SparseEncoder:
    return SparseEncoder.from_pretrained(splade)


def expected(row: Any) -> tuple[list[int], list[float]]:
    return row.indices.tolist(), row.values.tolist()


@both
def test_queries_and_documents_are_the_encoders(
    splade: str, plain: SparseEncoder, asynchronous: bool
) -> None:
    text = QuaverSparseTextEmbedder(model=splade)
    found = run(text, TEXTS[0], asynchronous=asynchronous)["sparse_embedding"]
    assert isinstance(found, SparseEmbedding)
    assert as_pair(found) == expected(plain.encode_query(TEXTS[0]))
    documents = [Document(content=content, meta={"title": "data"}) for content in TEXTS]
    embedder = QuaverSparseDocumentEmbedder(
        model=splade, meta_fields_to_embed=["title"], suffix="!"
    )
    result = run(embedder, documents, asynchronous=asynchronous)["documents"]
    rows = plain.encode_document([f"data\n{content}!" for content in TEXTS])
    assert [as_pair(d.sparse_embedding) for d in result] == [expected(rows[i]) for i in range(3)]
    assert all(document.sparse_embedding is None for document in documents)
    assert [document.id for document in result] == [document.id for document in documents]
    assert run(embedder, [], asynchronous=asynchronous) == {"documents": []}


def test_prefix_replaces_the_prompt(splade: str, plain: SparseEncoder) -> None:
    embedder = QuaverSparseTextEmbedder(model=splade, prefix="", max_active_dims=3)
    found = as_pair(embedder.run("my file")["sparse_embedding"])
    assert found == expected(plain.encode("my file", prompt="", max_active_dims=3))
    assert len(found[0]) == 3
    assert found != as_pair(
        QuaverSparseTextEmbedder(model=splade).run("my file")["sparse_embedding"]
    )


def test_parameters_are_saved(splade: str) -> None:
    embedder = QuaverSparseDocumentEmbedder(model=splade, max_active_dims=9, prefix="p: ")
    again = QuaverSparseDocumentEmbedder.from_dict(embedder.to_dict())
    assert again.to_dict() == embedder.to_dict()
    pipeline = Pipeline()
    pipeline.add_component("embedder", QuaverSparseTextEmbedder(model=splade))
    loaded = Pipeline.loads(pipeline.dumps())
    assert loaded.run({"embedder": {"text": TEXTS[0]}})["embedder"]["sparse_embedding"].indices


def test_what_is_no_text_or_no_sparse_encoder(splade: str, tiny: str) -> None:
    with pytest.raises(TypeError, match="use QuaverSparseDocumentEmbedder"):
        QuaverSparseTextEmbedder(model=splade).run([Document(content="a")])
    with pytest.raises(TypeError, match="takes a list of Documents"):
        QuaverSparseDocumentEmbedder(model=splade).run("a text")
    with pytest.raises(UnsupportedArchitectureError, match="open it with Embedder"):
        QuaverSparseTextEmbedder(model=tiny).warm_up()


def stored(splade: str, tiny: str) -> QdrantDocumentStore:
    store = QdrantDocumentStore(":memory:", embedding_dim=64, use_sparse_embeddings=True)
    index = Pipeline()
    index.add_component("dense", QuaverDocumentEmbedder(model=tiny))
    index.add_component("sparse", QuaverSparseDocumentEmbedder(model=splade))
    index.add_component("writer", DocumentWriter(store))
    index.connect("dense", "sparse")
    index.connect("sparse", "writer")
    index.run({"dense": {"documents": [Document(content=text) for text in TEXTS]}})
    return store


def test_qdrants_hybrid_retriever_finds_by_both(splade: str, tiny: str) -> None:
    search = Pipeline()
    search.add_component("dense", QuaverTextEmbedder(model=tiny))
    search.add_component("sparse", QuaverSparseTextEmbedder(model=splade))
    search.add_component("retriever", QdrantHybridRetriever(stored(splade, tiny), top_k=3))
    search.connect("dense.embedding", "retriever.query_embedding")
    search.connect("sparse.sparse_embedding", "retriever.query_sparse_embedding")
    query = {"text": TEXTS[1]}
    found = search.run({"dense": query, "sparse": query})["retriever"]["documents"]
    assert sorted(document.content for document in found) == sorted(TEXTS)


def test_qdrants_sparse_retriever_has_our_scores(
    splade: str, tiny: str, plain: SparseEncoder
) -> None:
    retriever = QdrantSparseEmbeddingRetriever(stored(splade, tiny), top_k=3, scale_score=False)
    query = QuaverSparseTextEmbedder(model=splade).run("a list")["sparse_embedding"]
    found = retriever.run(query_sparse_embedding=query)["documents"]
    scores = plain.similarity(plain.encode_query("a list"), plain.encode_document(TEXTS))
    wanted = dict(zip(TEXTS, scores.tolist(), strict=True))
    assert {d.content: d.score for d in found} == pytest.approx(wanted, rel=1e-5)
