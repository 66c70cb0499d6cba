"""QuaverVectorStore in LlamaIndex 0.14: indexes over it, its modes and filters, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from pydantic import ValidationError

from quaver import InputError, MultiVectorEncoder, SparseEncoder, StoreMismatchError
from quaver.integrations.llamaindex import QuaverEmbedding, QuaverRerank, QuaverVectorStore

TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
METADATA: list[dict[str, Any]] = [
    {"n": 0, "who": "Ada", "tags": ["a", "b"]},
    {"n": 1, "tags": []},
    {"n": 2, "who": ""},
    {"n": 3, "who": "Alan", "tags": ["b"]},
]


@pytest.fixture(scope="module")
def embedding(tiny: str) -> QuaverEmbedding:
    return QuaverEmbedding(model_name=tiny, query_instruction="", text_instruction="")


@pytest.fixture(params=["memory", "folder"])
def store(
    request: pytest.FixtureRequest, embedding: QuaverEmbedding, folder: Path
) -> Iterator[QuaverVectorStore]:
    made = QuaverVectorStore(path=str(folder / "store") if request.param == "folder" else None)
    nodes = [
        TextNode(
            id_=str(i),
            text=text,
            metadata=data,
            embedding=embedding.get_text_embedding(text),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i % 2}")},
        )
        for i, (text, data) in enumerate(zip(TEXTS, METADATA, strict=True))
    ]
    assert made.add(nodes) == list("0123")
    yield made
    made.close()


def asked(embedding: QuaverEmbedding, text: str, **options: Any) -> VectorStoreQuery:
    vector = embedding.get_query_embedding(text)
    return VectorStoreQuery(
        query_embedding=vector, query_str=text, **{"similarity_top_k": 10, **options}
    )


# --- Through an index -----------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["default", "sparse", "text_search", "hybrid", "mmr"])
def test_an_index_of_documents_is_found_again(
    embedding: QuaverEmbedding, folder: Path, mode: str
) -> None:
    documents = [
        Document(text=text, id_=f"d{i}", metadata={"n": i}, excluded_embed_metadata_keys=["n"])
        for i, text in enumerate(TEXTS)
    ]
    store = QuaverVectorStore(path=str(folder / "store"))
    context = StorageContext.from_defaults(vector_store=store)
    made = VectorStoreIndex.from_documents(
        documents, storage_context=context, embed_model=embedding
    )
    made.delete_ref_doc("d0")
    made.insert(Document(text="keys of the file", id_="d9"))
    context.persist(str(folder / "context"))
    store.close()

    again = VectorStoreIndex.from_vector_store(
        QuaverVectorStore(path=str(folder / "store")), embed_model=embedding
    )
    retriever = again.as_retriever(similarity_top_k=2, vector_store_query_mode=mode)
    found = retriever.retrieve(TEXTS[1])
    assert found[0].text == TEXTS[1]
    assert found[0].node.ref_doc_id == "d1"
    assert found[0].metadata == {"n": 1}
    assert "d0" not in {node.node.ref_doc_id for node in found}
    awaited = asyncio.run(retriever.aretrieve(TEXTS[1]))
    assert [(n.node_id, n.score) for n in awaited] == [(n.node_id, n.score) for n in found]
    answer = again.as_query_engine(llm=MockLLM()).query(TEXTS[1])
    assert answer.source_nodes[0].text == TEXTS[1]
    again.vector_store.close()


def test_an_ingestion_pipeline_writes_into_it(embedding: QuaverEmbedding) -> None:
    store = QuaverVectorStore()
    pipeline = IngestionPipeline(transformations=[embedding], vector_store=store)
    documents = [Document(text=text) for text in TEXTS]
    nodes = pipeline.run(documents=documents)
    assert {n.node_id for n in store.get_nodes()} == {n.node_id for n in nodes}
    asyncio.run(pipeline.arun(documents=documents))
    assert len(store.get_nodes()) == len(TEXTS)


# --- Modes ----------------------------------------------------------------------------------------
def test_vectors_words_and_both(store: QuaverVectorStore, embedding: QuaverEmbedding) -> None:
    near = store.query(asked(embedding, TEXTS[2]))
    assert near.ids is not None
    assert near.similarities is not None
    assert near.ids[0] == "2"
    assert near.similarities[0] == pytest.approx(1, abs=1e-5)
    words = store.query(asked(embedding, "file keys way", mode=VectorStoreQueryMode.SPARSE))
    assert words.ids is not None
    assert set(words.ids) == {"0", "1", "3"}

    def hybrid(**options: Any) -> list[str]:
        query = asked(embedding, "file keys way", mode=VectorStoreQueryMode.HYBRID, **options)
        return list(store.query(query).ids or [])

    assert hybrid(alpha=0.0) == words.ids
    assert hybrid(alpha=1.0) == store.query(asked(embedding, "file keys way")).ids
    assert hybrid() == hybrid(alpha=0.5)
    assert len(hybrid(hybrid_top_k=1)) == 1
    with pytest.raises(InputError, match="alpha must be from 0"):
        hybrid(alpha=2.0)


def test_diversity(embedding: QuaverEmbedding) -> None:
    store = QuaverVectorStore()
    texts = ["the file of her own", "the file of her own!", "a list of keys"]
    store.add(
        [
            TextNode(id_=i, text=text, embedding=embedding.get_text_embedding(text))
            for i, text in zip("abc", texts, strict=True)
        ]
    )
    query = asked(embedding, texts[0], mode=VectorStoreQueryMode.MMR, similarity_top_k=2)
    assert store.query(query, mmr_threshold=1.0).ids == ["a", "b"]
    assert store.query(query, mmr_threshold=0.1).ids == ["a", "c"]
    query.mmr_threshold = 0.1
    assert asyncio.run(store.aquery(query)).ids == ["a", "c"]


# --- Filters --------------------------------------------------------------------------------------
def one(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


@pytest.mark.parametrize(
    ("filters", "condition", "wanted"),
    [
        ([], "and", "0123"),
        ([], "or", "0123"),
        ([one("n", 1)], "and", "1"),
        ([one("n", 1, FilterOperator.GTE), one("n", 3, FilterOperator.LT)], "and", "12"),
        ([one("n", 1, FilterOperator.LTE), one("n", 2, FilterOperator.GT)], "or", "013"),
        ([one("n", [0, 3], FilterOperator.IN)], "and", "03"),
        ([one("n", [0, 3], FilterOperator.NIN)], "and", "12"),
        ([one("who", "Ada", FilterOperator.NE)], "and", "123"),
        ([one("tags", "b", FilterOperator.CONTAINS)], "and", "03"),
        ([one("tags", ["a", "c"], FilterOperator.ANY)], "and", "0"),
        ([one("tags", ["a", "b"], FilterOperator.ALL)], "and", "0"),
        ([one("tags", None, FilterOperator.IS_EMPTY)], "and", "12"),
        ([one("who", None, FilterOperator.IS_EMPTY)], "and", "12"),
        ([one("n", 0), one("n", 1)], "not", "23"),
        ([one("doc_id", "doc1")], "and", "13"),
        (
            [MetadataFilters(filters=[one("n", 0), one("n", 1)], condition=FilterCondition.OR)],
            "not",
            "23",
        ),
    ],
)
def test_filters(
    store: QuaverVectorStore,
    embedding: QuaverEmbedding,
    filters: list[Any],
    condition: str,
    wanted: str,
) -> None:
    chosen = MetadataFilters(filters=filters, condition=FilterCondition(condition))
    found = store.query(asked(embedding, "file", filters=chosen))
    assert set(found.ids or []) == set(wanted)
    assert {node.node_id for node in store.get_nodes(filters=chosen)} == set(wanted)


def test_a_query_may_be_limited_to_nodes_and_documents(
    store: QuaverVectorStore, embedding: QuaverEmbedding
) -> None:
    found = store.query(asked(embedding, "file", node_ids=["0", "1"], doc_ids=["doc1"]))
    assert found.ids == ["1"]


@pytest.mark.parametrize("operator", [FilterOperator.TEXT_MATCH, FilterOperator.ALL])
def test_a_filter_that_the_store_cannot_answer(
    store: QuaverVectorStore, embedding: QuaverEmbedding, operator: FilterOperator
) -> None:
    filters = MetadataFilters(filters=[one("who", "A", operator)])
    with pytest.raises(InputError, match=operator.value):
        store.query(asked(embedding, "file", filters=filters))


# --- Nodes ----------------------------------------------------------------------------------------
def test_nodes_come_back_as_they_were() -> None:
    nodes = [
        TextNode(id_="t", text="text", metadata={"a": {"b": [1, None]}}, start_char_idx=3),
        IndexNode(id_="i", text="index", index_id="other"),
        ImageNode(id_="m", text="image", image_url="https://example.com/a.png"),
        TextNode(id_="e", text=""),
    ]
    store = QuaverVectorStore()
    store.add([node.model_copy(update={"embedding": [1.0, 0.0]}) for node in nodes])
    found = {node.node_id: node for node in store.get_nodes()}
    assert found == {node.node_id: node for node in nodes}
    assert [type(found[node.node_id]) for node in nodes] == [type(node) for node in nodes]


def test_deleting(store: QuaverVectorStore) -> None:
    store.delete("doc0")
    assert {node.node_id for node in store.get_nodes()} == {"1", "3"}
    store.delete_nodes(["1", "missing"], MetadataFilters(filters=[one("n", 9)]))
    assert len(store.get_nodes()) == 2
    asyncio.run(store.adelete_nodes(["1", "missing"]))
    assert [node.node_id for node in store.get_nodes(["1", "3"])] == ["3"]
    with pytest.raises(InputError, match="clear"):
        store.delete_nodes()
    store.clear()
    assert store.get_nodes() == []


def test_wrong_input(store: QuaverVectorStore, embedding: QuaverEmbedding) -> None:
    with pytest.raises(ValueError, match="embedding not set"):
        store.add([TextNode(text="x")])
    with pytest.raises(StoreMismatchError, match="vectors of dimension 64: got one of 2"):
        store.add([TextNode(text="x", embedding=[1.0, 2.0])])
    with pytest.raises(StoreMismatchError, match="vectors of dimension 64: got one of 2"):
        store.query(VectorStoreQuery(query_embedding=[1.0, 2.0]))
    with pytest.raises(InputError, match="needs a query vector"):
        store.query(VectorStoreQuery(query_str="file"))
    with pytest.raises(InputError, match="needs the question as text"):
        store.query(VectorStoreQuery(mode=VectorStoreQueryMode.SPARSE))
    with pytest.raises(InputError, match=r"query modes are .*: got 'svm'"):
        store.query(asked(embedding, "file", mode=VectorStoreQueryMode.SVM))
    assert len(store.get_nodes()) == 4


def test_a_field_of_another_version_is_refused(tiny_cross: str, embedding: QuaverEmbedding) -> None:
    for component in (embedding, QuaverRerank(model=tiny_cross), QuaverVectorStore()):
        saved = component.to_dict()
        assert type(component).from_dict(saved).to_dict() == saved
        with pytest.raises(ValidationError, match=r"turbo\n.*Extra inputs are not permitted"):
            type(component).from_dict({**saved, "turbo": True})


def test_a_store_in_memory_says_that_it_is_not_kept(folder: Path) -> None:
    context = StorageContext.from_defaults(vector_store=QuaverVectorStore())
    with pytest.raises(InputError, match=r"use QuaverVectorStore\(path="):
        context.persist(str(folder / "context"))


def test_an_empty_store_finds_nothing(folder: Path) -> None:
    store = QuaverVectorStore(path=str(folder / "store"))
    assert store.client is None
    assert store.query(VectorStoreQuery(query_embedding=[1.0])).ids == []
    assert store.get_nodes() == []
    store.clear()
    store.delete("doc0")
    assert not (folder / "store").exists()
    assert QuaverVectorStore.from_dict(store.to_dict()).path == store.path


def test_sparse_and_token_vectors(
    embedding: QuaverEmbedding, folder: Path, splade: str, colbert: str
) -> None:
    encoder = SparseEncoder.from_pretrained(splade, threads=1)
    multi = MultiVectorEncoder.from_pretrained(colbert, threads=1)
    store = QuaverVectorStore(path=str(folder / "store"), sparse=encoder, multi=multi)
    nodes = [
        TextNode(id_=str(i), text=text, embedding=embedding.get_text_embedding(text))
        for i, text in enumerate(TEXTS)
    ]
    store.add(nodes)
    question = "my file way"
    products = encoder.similarity(encoder.encode_query(question), encoder.encode_document(TEXTS))
    positive = {str(i): float(s) for i, s in enumerate(products) if s > 0}
    late = multi.similarity(
        multi.encode_query(question), multi.encode_document(TEXTS, output="int8")
    )

    def scores(made: QuaverVectorStore, mode: str, **options: Any) -> dict[str, float]:
        query = asked(embedding, question, mode=VectorStoreQueryMode(mode))
        found = made.query(query, **options)
        assert found.similarities == sorted(found.similarities or [], reverse=True)
        return dict(zip(found.ids or [], found.similarities or [], strict=True))

    assert scores(store, "sparse") == pytest.approx(positive, rel=2e-3)  # float16 weights
    words = scores(store, "text_search")
    assert set(words) == {"0", "3"}  # BM25
    assert scores(store, "hybrid") != scores(store, "semantic_hybrid")
    for mode in ("default", "hybrid", "semantic_hybrid"):
        expected = {str(i): float(score) for i, score in enumerate(late)}
        assert scores(store, mode, maxsim=True) == pytest.approx(expected, rel=1e-4)
    assert set(scores(store, "text_search", maxsim=True)) == {"0", "3"}
    with pytest.raises(InputError, match="no effect with mmr"):
        scores(store, "mmr", maxsim=True)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    retriever = index.as_retriever(
        vector_store_query_mode="hybrid", vector_store_kwargs={"maxsim": True}
    )
    assert retriever.retrieve(question)[0].node_id == str(int(late.argmax()))
    before = scores(store, "hybrid")
    saved = store.to_dict()
    assert "sparse" not in saved
    store.close()
    again = QuaverVectorStore.from_dict(saved)  # loads the models that the folder records
    assert scores(again, "hybrid") == before
    again.close()
    plain = QuaverVectorStore()
    plain.add(nodes)
    with pytest.raises(StoreMismatchError, match=r"multi=MultiVectorEncoder\.from_pretrained"):
        scores(plain, "hybrid", maxsim=True)
