"""QuaverSparseEncoding as the sparse functions of LlamaIndex's Qdrant store."""

from __future__ import annotations

import pickle

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from quaver import InputError, SparseEncoder, UnsupportedArchitectureError
from quaver.integrations.llamaindex import QuaverEmbedding, QuaverSparseEncoding

TEXTS = ["the file of her own", "a list of keys", "they return an error"]


def test_rows_are_the_encoders(splade: str) -> None:
    sparse, plain = QuaverSparseEncoding(splade), SparseEncoder.from_pretrained(splade)
    for function, rows in (
        (sparse.encode_documents, plain.encode_document(TEXTS)),
        (sparse.encode_queries, plain.encode_query(TEXTS)),
        (pickle.loads(pickle.dumps(sparse)).encode_queries, plain.encode_query(TEXTS)),
    ):
        indices, values = function(TEXTS)
        assert indices == [rows[i].indices.tolist() for i in range(3)]
        assert values == [rows[i].values.tolist() for i in range(3)]
    assert sparse.encode_queries([]) == ([], [])
    with pytest.raises(InputError, match="write \\[text\\]"):
        sparse.encode_queries("a text")


def test_another_kind_of_model_is_named(tiny: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="open it with Embedder"):
        QuaverSparseEncoding(tiny)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
@pytest.mark.parametrize("mode", ["sparse", "hybrid"])
def test_qdrants_store_finds_with_it(splade: str, tiny: str, mode: str) -> None:
    sparse = QuaverSparseEncoding(splade)
    store = QdrantVectorStore(
        "notes",
        client=QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=sparse.encode_documents,
        sparse_query_fn=sparse.encode_queries,
    )
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=QuaverEmbedding(model_name=tiny),
    )
    retriever = index.as_retriever(
        vector_store_query_mode=mode, similarity_top_k=3, sparse_top_k=3, hybrid_top_k=3
    )
    found = retriever.retrieve(TEXTS[1])
    assert {hit.text for hit in found} == set(TEXTS)
    if mode == "sparse":
        plain = SparseEncoder.from_pretrained(splade)
        scores = plain.similarity(plain.encode_query(TEXTS[1]), plain.encode_document(TEXTS))
        wanted = dict(zip(TEXTS, scores.tolist(), strict=True))
        assert {hit.text: hit.score for hit in found} == pytest.approx(wanted, rel=1e-5)
