"""TextEmbedding and its kin: fastembed's names on Quaver's engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quaver import (
    Embedder,
    InputError,
    MultiVectorEncoder,
    SparseEncoder,
    UnsupportedArchitectureError,
)
from quaver.integrations.fastembed import (
    LateInteractionTextEmbedding,
    SparseEmbedding,
    SparseTextEmbedding,
    TextEmbedding,
)

TEXTS = ["the file", "a list of keys", "", "her own way"]


@pytest.fixture
def model(tiny_folder: Path) -> TextEmbedding:
    return TextEmbedding(str(tiny_folder), prompts={"query": "the ", "document": "a "})


def test_vectors_are_the_embedders(model: TextEmbedding, tiny_folder: Path) -> None:
    embedder = Embedder.from_pretrained(tiny_folder, prompts={"query": "the ", "document": "a "})
    assert model.embedding_size == embedder.dimension
    assert np.array_equal(np.stack(list(model.embed(TEXTS))), embedder.encode(TEXTS))
    passages = np.stack(list(model.passage_embed(TEXTS, batch_size=3)))
    assert np.array_equal(passages, embedder.encode_document(TEXTS))
    assert np.array_equal(next(model.query_embed("file")), embedder.encode_query("file"))


def test_a_generator_is_read_batch_by_batch(model: TextEmbedding) -> None:
    read = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    rows = model.embed(texts(), batch_size=2)
    next(rows)
    assert read == TEXTS[:2]
    assert len(list(rows)) == len(TEXTS) - 1
    assert list(model.embed([])) == []


def test_what_is_no_text_is_refused(model: TextEmbedding) -> None:
    with pytest.raises(InputError, match=r"texts\[1\]"):
        next(model.embed(["a text", 7]))  # type: ignore[list-item]
    with pytest.raises(InputError, match="batch_size"):
        next(model.embed(TEXTS, batch_size=0))


def test_sparse_embeddings_are_the_encoders(splade: str) -> None:
    model, encoder = SparseTextEmbedding(splade), SparseEncoder.from_pretrained(splade)
    for found, wanted in (
        (model.embed(TEXTS, batch_size=3), encoder.encode(TEXTS, prompt="")),
        (model.passage_embed(TEXTS), encoder.encode_document(TEXTS)),
        (model.query_embed(TEXTS), encoder.encode_query(TEXTS)),
    ):
        rows = list(found)
        assert len(rows) == len(TEXTS)
        for row, i in zip(rows, range(len(TEXTS)), strict=True):
            assert isinstance(row, SparseEmbedding)
            assert np.array_equal(row.indices, wanted[i].indices)
            assert np.array_equal(row.values, wanted[i].values)
    plain, prompted = next(model.embed("file")), next(model.query_embed("file"))
    assert plain.as_dict() != prompted.as_dict()
    assert plain.as_object() == {"values": plain.values, "indices": plain.indices}
    again = SparseEmbedding.from_dict(plain.as_dict())
    assert np.array_equal(again.indices, plain.indices)
    assert np.array_equal(again.values, plain.values)


def test_sparse_queries_by_a_table(splade_with_table: str) -> None:
    model = SparseTextEmbedding(splade_with_table)
    encoder = SparseEncoder.from_pretrained(splade_with_table)
    row = next(model.query_embed("data and text"))
    assert np.array_equal(row.indices, encoder.encode_query("data and text").indices)
    assert len(row.indices) < len(next(model.embed("data and text")).indices)


def test_late_interaction_vectors_are_the_encoders(colbert: str) -> None:
    model = LateInteractionTextEmbedding(colbert)
    encoder = MultiVectorEncoder.from_pretrained(colbert)
    assert model.embedding_size == encoder.dimension
    documents, queries = encoder.encode_document(TEXTS), encoder.encode_query(TEXTS)
    for found, wanted in (
        (model.embed(TEXTS, batch_size=3), documents),
        (model.passage_embed(TEXTS), documents),
        (model.query_embed(TEXTS), queries),
    ):
        rows = list(found)
        assert len(rows) == len(TEXTS)
        assert all(np.array_equal(row, wanted[i]) for i, row in enumerate(rows))


def test_another_kind_of_model_is_named(tiny_folder: Path, splade: str, colbert: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="open it with Embedder"):
        SparseTextEmbedding(str(tiny_folder))
    with pytest.raises(UnsupportedArchitectureError, match="open it with SparseEncoder"):
        LateInteractionTextEmbedding(splade)
    with pytest.raises(UnsupportedArchitectureError, match="open it with MultiVectorEncoder"):
        TextEmbedding(colbert)
