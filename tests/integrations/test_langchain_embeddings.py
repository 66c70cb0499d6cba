"""QuaverEmbeddings through LangChain's own suites, and beyond them."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from quaver import Embedder, InputError, ModelNotFoundError
from quaver.integrations.langchain import QuaverEmbeddings

TEXTS = ["the file of her own", "a list of keys", "they return an error"]


class TestUnit(EmbeddingsUnitTests):
    @pytest.fixture(autouse=True)
    def _model(self, tiny: str) -> None:
        self.folder = tiny

    @property
    def embeddings_class(self) -> type[QuaverEmbeddings]:
        return QuaverEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder}


class TestIntegration(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _model(self, tiny: str) -> None:
        self.folder = tiny

    @property
    def embeddings_class(self) -> type[QuaverEmbeddings]:
        return QuaverEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder}


def test_queries_and_documents_get_their_own_prompts(tiny: str) -> None:
    embeddings, plain = QuaverEmbeddings(model=tiny), Embedder.from_pretrained(tiny)
    query = np.float32(embeddings.embed_query("my file"))
    np.testing.assert_array_equal(query, plain.encode_query("my file"))
    documents = np.float32(embeddings.embed_documents(TEXTS))
    np.testing.assert_array_equal(documents, plain.encode_document(TEXTS))
    np.testing.assert_array_equal(asyncio.run(embeddings.aembed_query("my file")), query)
    np.testing.assert_array_equal(asyncio.run(embeddings.aembed_documents(TEXTS)), documents)


def test_prompts_can_be_replaced(tiny: str) -> None:
    embeddings = QuaverEmbeddings(model=tiny, query_prompt="find: ", document_prompt="")
    plain = Embedder.from_pretrained(tiny)
    wanted = plain.encode(["find: my file", "my file"], prompt="")
    found = [embeddings.embed_query("my file"), embeddings.embed_documents(["my file"])[0]]
    np.testing.assert_array_equal(np.float32(found), wanted)


def test_concurrent_queries_give_the_same_bits(tiny: str) -> None:
    embeddings = QuaverEmbeddings(model=tiny)

    async def main() -> list[list[float]]:
        return await asyncio.gather(*(embeddings.aembed_query(f"list {i}") for i in range(50)))

    assert asyncio.run(main()) == [embeddings.embed_query(f"list {i}") for i in range(50)]


def test_copies_give_the_same_bits(tiny: str) -> None:
    embeddings = QuaverEmbeddings(model=tiny, query_prompt="find: ")
    wanted = embeddings.embed_query("my file")
    for copied in (
        copy.deepcopy(embeddings),
        embeddings.model_copy(deep=True),
        pickle.loads(pickle.dumps(embeddings)),
    ):
        assert copied.embed_query("my file") == wanted


def test_no_texts_give_no_vectors(tiny: str) -> None:
    assert QuaverEmbeddings(model=tiny).embed_documents([]) == []
    assert asyncio.run(QuaverEmbeddings(model=tiny).aembed_documents([])) == []


def test_wrong_input(tiny: str) -> None:
    embeddings = QuaverEmbeddings(model=tiny)
    with pytest.raises(InputError, match="must be a list of str"):
        embeddings.embed_documents("one text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"every text must be a str"):
        embeddings.embed_query(["a", "list"])  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        QuaverEmbeddings(model=tiny, turbo=True)
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        QuaverEmbeddings(model="no/such-model", local_files_only=True)


def test_a_vector_store_of_langchain_takes_it(tiny: str) -> None:
    embeddings = QuaverEmbeddings(model=tiny, query_prompt="passage: ")
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    ((found, score),) = store.similarity_search_with_score(TEXTS[1], k=1)
    assert found.page_content == TEXTS[1]
    assert score == pytest.approx(1, abs=1e-6)
