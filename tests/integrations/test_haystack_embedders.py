"""QuaverTextEmbedder and QuaverDocumentEmbedder in Haystack 3."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

from haystack_integrations.components.embedders.quaver import (
    QuaverDocumentEmbedder,
    QuaverTextEmbedder,
)
from quaver import Embedder, ModelNotFoundError

TEXTS = ["the file of her own", "a list of keys", "they return an error"]


@pytest.fixture(scope="module")
def plain(tiny: str) -> Embedder:
    return Embedder.from_pretrained(tiny)


def embedded(embedder: Any, documents: list[Document], *, asynchronous: bool) -> list[Document]:
    run = asyncio.run(embedder.run_async(documents)) if asynchronous else embedder.run(documents)
    return list(run["documents"])


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


# --- Parameters -----------------------------------------------------------------------------------
def test_init_default() -> None:
    embedder = QuaverTextEmbedder(model="some/model")
    assert embedder.to_dict() == {
        "type": "haystack_integrations.components.embedders.quaver.text_embedder.QuaverTextEmbedder",
        "init_parameters": {
            "model": "some/model",
            "token": {"type": "env_var", "env_vars": ["HF_API_TOKEN", "HF_TOKEN"], "strict": False},
            "prefix": None,
            "suffix": "",
            "normalize_embeddings": False,
            "truncate_dim": None,
            "precision": "int8",
            "revision": None,
            "max_seq_length": None,
            "pooling": None,
            "threads": None,
            "local_files_only": False,
        },
    }


def test_to_dict_and_back() -> None:
    embedder = QuaverDocumentEmbedder(
        model="some/model",
        token=Secret.from_env_var("MY_TOKEN"),
        prefix="passage: ",
        meta_fields_to_embed=["title"],
        embedding_separator=" | ",
        precision="float32",
    )
    again = QuaverDocumentEmbedder.from_dict(embedder.to_dict())
    assert again.to_dict() == embedder.to_dict()
    assert again.meta_fields_to_embed == ["title"]
    assert again.token == Secret.from_env_var("MY_TOKEN")


def test_a_token_in_plain_text_is_not_saved() -> None:
    embedder = QuaverTextEmbedder(model="some/model", token=Secret.from_token("secret"))
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        embedder.to_dict()


def test_yaml_round_trip_needs_no_flag(tiny: str, plain: Embedder) -> None:
    pipeline = Pipeline()
    pipeline.add_component("embedder", QuaverTextEmbedder(model=tiny))
    loaded = Pipeline.loads(pipeline.dumps())
    embedding = loaded.run({"embedder": {"text": TEXTS[0]}})["embedder"]["embedding"]
    np.testing.assert_array_equal(np.float32(embedding), plain.encode_query(TEXTS[0]))


# --- Loading --------------------------------------------------------------------------------------
def test_nothing_is_loaded_before_warm_up(tiny: str) -> None:
    embedder = QuaverTextEmbedder(model="no/such-model", local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        embedder.warm_up()


def test_components_share_one_engine_and_load_once(tiny: str) -> None:
    text, document = QuaverTextEmbedder(model=tiny), QuaverDocumentEmbedder(model=tiny)
    text.warm_up()
    engine = text.shared
    text.warm_up()
    assert text.shared is engine is document.shared


# --- What is embedded -----------------------------------------------------------------------------
@both
def test_a_query_gets_the_models_query_prompt_alone(
    tiny: str, plain: Embedder, asynchronous: bool
) -> None:
    embedder = QuaverTextEmbedder(model=tiny)
    run = asyncio.run(embedder.run_async("my file")) if asynchronous else embedder.run("my file")
    assert isinstance(run["embedding"][0], float)
    wanted = plain.encode("my file", prompt=plain.prompts["query"])
    np.testing.assert_array_equal(np.float32(run["embedding"]), wanted)


def test_prefix_and_suffix_replace_the_prompt(tiny: str, plain: Embedder) -> None:
    embedder = QuaverTextEmbedder(model=tiny, prefix="find: ", suffix=" end")
    wanted = plain.encode("find: my file end", prompt="")
    np.testing.assert_array_equal(np.float32(embedder.run("my file")["embedding"]), wanted)


@both
def test_documents_get_vectors_and_stay_as_they_are(
    tiny: str, plain: Embedder, asynchronous: bool
) -> None:
    documents = [Document(content=text, meta={"n": i}) for i, text in enumerate(TEXTS)]
    before = [document.to_dict() for document in documents]
    found = embedded(QuaverDocumentEmbedder(model=tiny), documents, asynchronous=asynchronous)
    assert [document.to_dict() for document in documents] == before
    assert [document.id for document in found] == [document.id for document in documents]
    np.testing.assert_array_equal(
        np.float32([document.embedding for document in found]), plain.encode_document(TEXTS)
    )
    assert all(type(value) is float for value in found[0].embedding)
    assert [{**d.meta, "quaver_embedding": None} for d in found] == [
        {"n": i, "quaver_embedding": None} for i in range(3)
    ]


def test_meta_fields_are_embedded(tiny: str, plain: Embedder) -> None:
    embedder = QuaverDocumentEmbedder(
        model=tiny, meta_fields_to_embed=["title", "year", "missing"], embedding_separator=" | "
    )
    document = Document(content="my file", meta={"title": "Keys", "year": 0, "missing": None})
    (found,) = embedder.run([document])["documents"]
    wanted = plain.encode_document("Keys | 0 | my file")
    np.testing.assert_array_equal(np.float32(found.embedding), wanted)


@both
def test_a_document_without_content_is_embedded_as_empty(
    tiny: str, plain: Embedder, asynchronous: bool
) -> None:
    (found,) = embedded(
        QuaverDocumentEmbedder(model=tiny), [Document(content=None)], asynchronous=asynchronous
    )
    np.testing.assert_array_equal(np.float32(found.embedding), plain.encode_document(""))


@both
def test_no_documents_give_none(tiny: str, asynchronous: bool) -> None:
    assert embedded(QuaverDocumentEmbedder(model=tiny), [], asynchronous=asynchronous) == []


# --- Wrong input ----------------------------------------------------------------------------------
@pytest.mark.parametrize("text", [["a", "list"], None, 3, Document(content="x")])
def test_a_text_must_be_a_string(tiny: str, text: Any) -> None:
    embedder = QuaverTextEmbedder(model=tiny)
    with pytest.raises(TypeError, match="QuaverTextEmbedder takes a string as text: got"):
        embedder.run(text)
    with pytest.raises(TypeError, match="use QuaverDocumentEmbedder"):
        asyncio.run(embedder.run_async(text))


@pytest.mark.parametrize("documents", ["a text", ["texts"], Document(content="x"), None])
def test_documents_must_be_a_list_of_documents(tiny: str, documents: Any) -> None:
    embedder = QuaverDocumentEmbedder(model=tiny)
    with pytest.raises(TypeError, match="QuaverDocumentEmbedder takes a list of Documents"):
        embedder.run(documents)
    with pytest.raises(TypeError, match="takes a list of Documents"):
        asyncio.run(embedder.run_async(documents))


# --- Together -------------------------------------------------------------------------------------
def test_concurrent_queries_of_a_pipeline_are_batched(tiny: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("embedder", QuaverTextEmbedder(model=tiny))
    pipeline.warm_up()
    shared = pipeline.get_component("embedder").shared
    sizes: list[int] = []
    encode = shared._batches._run

    def counted(key: Any, texts: list[str]) -> Any:
        sizes.append(len(texts))
        return encode(key, texts)

    shared._batches._run = counted

    async def main() -> list[Any]:
        queries = [f"list {i}" for i in range(64)]
        runs = [pipeline.run_async({"embedder": {"text": query}}) for query in queries]
        return await asyncio.gather(*runs)

    try:
        assert len(asyncio.run(main())) == 64
    finally:
        shared._batches._run = encode
    assert sum(sizes) == 64
    assert max(sizes) > 4


def test_from_texts_to_documents(tiny: str) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    index = Pipeline()
    index.add_component("embedder", QuaverDocumentEmbedder(model=tiny))
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder.documents", "writer.documents")
    documents = [Document(content=text, id=str(i)) for i, text in enumerate(TEXTS)]
    assert index.run({"embedder": {"documents": documents}})["writer"] == {"documents_written": 3}

    search = Pipeline()
    search.add_component("embedder", QuaverTextEmbedder(model=tiny, prefix="passage: "))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    search.connect("embedder.embedding", "retriever.query_embedding")
    found = search.run({"embedder": {"text": TEXTS[1]}})["retriever"]["documents"]
    assert [document.id for document in found] == ["1"]
    assert found[0].score == pytest.approx(1, abs=1e-6)
