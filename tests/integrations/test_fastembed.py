"""TextEmbedding: fastembed's names on Quaver's engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quaver import Embedder, InputError
from quaver.integrations.fastembed import TextEmbedding

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
