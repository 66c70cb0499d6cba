"""QuaverSparseEmbeddings in langchain-qdrant's store."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys

import pytest
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings, SparseVector
from pydantic import ValidationError

from quaver import InputError, SparseEncoder, UnsupportedArchitectureError
from quaver.integrations.langchain import QuaverEmbeddings
from quaver.integrations.langchain.sparse_embeddings import QuaverSparseEmbeddings

TEXTS = ["the file of her own", "a list of keys", "they return an error"]


def test_vectors_are_the_encoders(splade: str) -> None:
    embeddings, plain = QuaverSparseEmbeddings(model=splade), SparseEncoder.from_pretrained(splade)
    assert isinstance(embeddings, SparseEmbeddings)
    query, rows = plain.encode_query("my file"), plain.encode_document(TEXTS)
    wanted = SparseVector(indices=query.indices.tolist(), values=query.values.tolist())
    assert embeddings.embed_query("my file") == wanted
    assert asyncio.run(embeddings.aembed_query("my file")) == wanted
    documents = embeddings.embed_documents(TEXTS)
    assert [d.indices for d in documents] == [rows[i].indices.tolist() for i in range(3)]
    assert [d.values for d in documents] == [rows[i].values.tolist() for i in range(3)]
    assert asyncio.run(embeddings.aembed_documents(TEXTS)) == documents
    for copied in (copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))):
        assert copied.embed_query("my file") == wanted


def test_prompts_and_a_limit(splade: str) -> None:
    plain = SparseEncoder.from_pretrained(splade)
    embeddings = QuaverSparseEmbeddings(model=splade, query_prompt="", max_active_dims=2)
    wanted = plain.encode("my file", prompt="", max_active_dims=2)
    assert embeddings.embed_query("my file").indices == wanted.indices.tolist()
    with pytest.raises(ValidationError):
        QuaverSparseEmbeddings(model=splade, pooling="mean")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="write \\[text\\]"):
        embeddings.embed_documents("a text")  # type: ignore[arg-type]


def test_a_missing_library_names_its_extra() -> None:
    code = (
        "import sys; sys.modules['langchain_qdrant'] = None\n"
        "import quaver.integrations.langchain.sparse_embeddings"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'quaver[langchain-qdrant]'")


def test_another_kind_of_model_is_named(tiny: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="open it with Embedder"):
        QuaverSparseEmbeddings(model=tiny)


@pytest.mark.parametrize("mode", [RetrievalMode.SPARSE, RetrievalMode.HYBRID])
def test_qdrants_store_finds_with_it(splade: str, tiny: str, mode: RetrievalMode) -> None:
    store = QdrantVectorStore.from_texts(
        TEXTS,
        embedding=QuaverEmbeddings(model=tiny) if mode is RetrievalMode.HYBRID else None,
        sparse_embedding=QuaverSparseEmbeddings(model=splade),
        retrieval_mode=mode,
        location=":memory:",
    )
    found = store.similarity_search_with_score(TEXTS[1], k=3)
    assert {document.page_content for document, _ in found} == set(TEXTS)
    if mode is RetrievalMode.SPARSE:
        plain = SparseEncoder.from_pretrained(splade)
        scores = plain.similarity(plain.encode_query(TEXTS[1]), plain.encode_document(TEXTS))
        wanted = dict(zip(TEXTS, scores.tolist(), strict=True))
        assert {d.page_content: s for d, s in found} == pytest.approx(wanted, rel=1e-5)
