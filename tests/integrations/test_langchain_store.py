"""QuaverVectorStore through LangChain's own suite, in memory and in a folder, and beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_tests.integration_tests import (
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from quaver import InputError, MultiVectorEncoder, SparseEncoder, StoreMismatchError
from quaver.integrations.langchain import QuaverEmbeddings, QuaverVectorStore


class TestMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> QuaverVectorStore:  # type: ignore[override]
        return QuaverVectorStore(self.get_embeddings())


class TestFolder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, folder: Path) -> Iterator[QuaverVectorStore]:  # type: ignore[override]
        store = QuaverVectorStore(self.get_embeddings(), path=folder / "store")
        yield store
        store.close()


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> Any:
        def make(k: int = 3) -> Any:
            texts = [f"text {i}" for i in range(5)]
            store = QuaverVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=8))
            return store.as_retriever(search_kwargs={"k": k})

        return make

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"k": 3}

    @property
    def retriever_query_example(self) -> str:
        return "text 1"


# --- Beyond the suites ----------------------------------------------------------------------------
TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
METADATA = [
    {"n": 0, "who": {"name": "Ada"}, "tags": ["a", "b"]},
    {"n": 1, "tags": []},
    {"n": 2, "draft": True},
    {"n": 3, "who": {"name": "Alan"}},
]


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tiny: str, folder: Path) -> Iterator[QuaverVectorStore]:
    made = QuaverVectorStore.from_texts(
        TEXTS,
        QuaverEmbeddings(model=tiny, query_prompt="", document_prompt=""),
        METADATA,
        ids=list("0123"),
        path=folder / "store" if request.param == "folder" else None,
    )
    yield made
    made.close()


def ids(found: list[Document]) -> list[str]:
    return [str(document.id) for document in found]


def test_vectors_words_and_both(store: QuaverVectorStore) -> None:
    (first, score), *_ = store.similarity_search_with_score(TEXTS[2])
    assert (first.id, first.page_content, first.metadata) == ("2", TEXTS[2], METADATA[2])
    assert score == pytest.approx(1, abs=1e-5)
    assert ids(store.similarity_search("keys", mode="bm25")) == ["1"]
    assert set(ids(store.similarity_search("keys", k=2, mode="hybrid"))) >= {"1"}
    vector = store.embeddings.embed_query(TEXTS[2])
    assert ids(store.similarity_search_by_vector(vector, 1)) == ["2"]


def test_synchronous_and_asynchronous_find_the_same(store: QuaverVectorStore) -> None:
    only = {"n": {"$lt": 3}}
    for method, options in [
        ("similarity_search", {"mode": "hybrid"}),
        ("similarity_search_with_score", {}),
        ("similarity_search_with_relevance_scores", {}),
        ("max_marginal_relevance_search", {"lambda_mult": 0.2}),
    ]:
        found = getattr(store, method)("my file", 2, filter=only, **options)
        awaited = getattr(store, f"a{method}")("my file", 2, filter=only, **options)
        assert asyncio.run(awaited) == found
        assert len(found) == 2


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ({}, "0123"),
        ({"n": 1}, "1"),
        ({"n": {"$gte": 1, "$lt": 3}}, "12"),
        ({"n": {"$in": [0, 3]}}, "03"),
        ({"n": {"$nin": [0, 3]}}, "12"),
        ({"n": {"$ne": 0}}, "123"),
        ({"draft": True}, "2"),
        ({"who.name": "Ada"}, "0"),
        ({"tags": "b"}, "0"),
        ({"who.name": {"$exists": False}}, "12"),
        ({"tags": {"$exists": True}}, "0"),
        ({"$or": [{"n": 0}, {"draft": True}]}, "02"),
        ({"$and": [{"n": {"$lt": 2}}, {"$not": {"n": 0}}]}, "1"),
    ],
)
def test_filters(store: QuaverVectorStore, condition: dict[str, Any], wanted: str) -> None:
    assert set(ids(store.similarity_search("file", 10, filter=condition))) == set(wanted)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda document: True, "must be a dict"),
        ({"n": {"$near": 1}}, "operators are .*: got '\\$near' for 'n'"),
        ({"$nor": []}, "joins by"),
        ({"$or": {"n": 1}}, "needs a list"),
        ({"n": {"$in": 1}}, "needs a list"),
    ],
)
def test_wrong_filters(store: QuaverVectorStore, condition: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        store.similarity_search("file", filter=condition)


def test_diversity(tiny: str) -> None:
    texts = ["the file of her own", "the file of her own!", "a list of keys"]
    store = QuaverVectorStore.from_texts(texts, QuaverEmbeddings(model=tiny), ids=list("abc"))
    assert ids(store.max_marginal_relevance_search(texts[0], 2, lambda_mult=1.0)) == ["a", "b"]
    assert ids(store.max_marginal_relevance_search(texts[0], 2, lambda_mult=0.0)) == ["a", "c"]


def test_relevance_scores_are_from_0_to_1(store: QuaverVectorStore) -> None:
    best, *_, worst = store.similarity_search_with_relevance_scores(TEXTS[0])
    assert best[1] == pytest.approx(1, abs=1e-5)
    assert 0 <= worst[1] < best[1]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9999}
    )
    assert ids(retriever.invoke(TEXTS[0])) == ["0"]


def test_a_folder_keeps_documents(tiny: str, folder: Path) -> None:
    embeddings = QuaverEmbeddings(model=tiny)
    first = QuaverVectorStore.from_texts(TEXTS, embeddings, METADATA, path=folder / "store")
    before = first.similarity_search_with_score("my file")
    first.optimize()
    first.close()
    again = QuaverVectorStore(embeddings, path=str(folder / "store"))
    assert again.similarity_search_with_score("my file") == before
    again.delete()
    assert again.similarity_search("my file") == []
    again.close()


def test_wrong_input(store: QuaverVectorStore, folder: Path) -> None:
    with pytest.raises(InputError, match="ids must be one for each text: got 1 for 2"):
        store.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(InputError, match="metadatas must be one for each text: got 1 for 2"):
        asyncio.run(store.aadd_texts(["a", "b"], [{}]))
    with pytest.raises(InputError, match="ids must be one for each text"):
        store.add_documents([Document("a")], ids=[])
    with pytest.raises(InputError, match="JSON"):
        store.add_texts(["a"], [{"when": object()}])
    with pytest.raises(InputError, match="mode must be one of"):
        store.similarity_search("a", mode="words")
    with pytest.raises(InputError, match="k must be"):
        store.similarity_search("a", 0)
    with pytest.raises(StoreMismatchError, match="vectors of dimension 64: got one of 2"):
        store.similarity_search_by_vector([1.0, 2.0])
    other = QuaverVectorStore(DeterministicFakeEmbedding(size=8), path=store._place.path)
    if store._place.path is not None:
        with pytest.raises(StoreMismatchError, match="vectors of dimension 64: got one of 8"):
            other.add_texts(["a"])
        with pytest.raises(StoreMismatchError, match="vectors of dimension 64: got one of 8"):
            other.similarity_search("a")
    assert store.add_texts([]) == []
    assert len(store.get_by_ids(list("0123"))) == 4


def test_nothing_is_written_when_one_text_is_wrong(store: QuaverVectorStore) -> None:
    with pytest.raises(InputError):
        store.add_texts(["new", "wrong"], [{}, {"a": float("nan")}], ids=["4", "5"])
    assert store.get_by_ids(["4", "5"]) == []


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_langchains_indexing_keeps_a_store_up_to_date(
    store: QuaverVectorStore, asynchronous: bool
) -> None:
    store.delete()
    records = InMemoryRecordManager(namespace="texts")

    def update(texts: list[str]) -> tuple[int, int, int]:
        documents = [Document(text, metadata={"source": text[:1]}) for text in texts]
        options: dict[str, Any] = {
            "cleanup": "full",
            "source_id_key": "source",
            "batch_size": 2,
            "key_encoder": "sha256",
        }
        if asynchronous:
            done = asyncio.run(aindex(documents, records, store, **options))
        else:
            done = index(documents, records, store, **options)
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert update(TEXTS) == (4, 0, 0)
    assert update([*TEXTS[1:], "the lists"]) == (1, 3, 1)
    found = {document.page_content for document in store.similarity_search("my file", k=9)}
    assert found == {*TEXTS[1:], "the lists"}


def test_a_string_is_no_list_of_ids(store: QuaverVectorStore) -> None:
    for call in (store.delete, store.get_by_ids):
        with pytest.raises(InputError, match="ids must be a list of str: got the str '12'"):
            call("12")
    assert len(store.similarity_search("my file", k=9)) == 4


def test_sparse_and_token_vectors(tiny: str, folder: Path, splade: str, colbert: str) -> None:
    embeddings = QuaverEmbeddings(model=tiny)
    encoder = SparseEncoder.from_pretrained(splade, threads=1)
    multi = MultiVectorEncoder.from_pretrained(colbert, threads=1)
    path = folder / "store"
    plain = QuaverVectorStore.from_texts(TEXTS, embeddings, ids=list("0123"), path=path)
    with pytest.raises(
        StoreMismatchError, match=r"no sparse vectors: .*sparse=SparseEncoder\.from"
    ):
        plain.similarity_search("my file", mode="dense+sparse")
    with pytest.raises(StoreMismatchError, match=r"multi=MultiVectorEncoder\.from_pretrained"):
        plain.similarity_search("my file", maxsim=True)
    plain.close()
    # What is stored already is encoded, too.
    store = QuaverVectorStore(embeddings, path=path, sparse=encoder, multi=multi)
    store.add_texts(["keys of an error"], ids=["4"])
    texts = [*TEXTS, "keys of an error"]
    products = encoder.similarity(encoder.encode_query("my file"), encoder.encode_document(texts))
    found = store.similarity_search_with_score("my file", 9, mode="sparse")
    scores = {str(document.id): score for document, score in found}
    positive = {str(i): float(s) for i, s in enumerate(products) if s > 0}
    assert scores == pytest.approx(positive, rel=2e-3)  # float16 weights
    late = multi.similarity(
        multi.encode_query("my file"), multi.encode_document(texts, output="int8")
    )
    ranked = store.similarity_search_with_score("my file", 9, maxsim=True)
    scores = {str(document.id): score for document, score in ranked}
    assert scores == pytest.approx({str(i): float(s) for i, s in enumerate(late)}, rel=1e-4)
    assert [score for _, score in ranked] == sorted(scores.values(), reverse=True)
    for mode in ("bm25", "hybrid", "dense+sparse", "dense+bm25+sparse"):
        options: dict[str, Any] = {"mode": mode, "maxsim": True}
        expected = store.similarity_search("my keys", 2, **options)
        assert expected
        assert asyncio.run(store.asimilarity_search("my keys", 2, **options)) == expected
    retriever = store.as_retriever(search_kwargs={"mode": "dense+sparse", "k": 2})
    before = retriever.invoke("my file")
    store.close()
    again = QuaverVectorStore(embeddings, path=path)  # loads the models that it records
    assert (
        again.as_retriever(search_kwargs={"mode": "dense+sparse", "k": 2}).invoke("my file")
        == before
    )
    assert len(again.similarity_search("my file", 9, maxsim=True)) == 5
    with pytest.raises(InputError, match="sparse must be a SparseEncoder"):
        QuaverVectorStore(embeddings, path=path, sparse=multi).similarity_search("x")  # type: ignore[arg-type]
    again.close()
