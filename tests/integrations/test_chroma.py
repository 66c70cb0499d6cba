"""QuaverEmbeddingFunction in Chroma's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

from quaver import Embedder, InputError
from quaver.integrations.chroma import QuaverEmbeddingFunction

DOCUMENTS = ["the file", "a list of keys", "her own way"]


@pytest.fixture
def client(tmp_path: Path) -> Any:
    settings = chromadb.config.Settings(anonymized_telemetry=False)
    return chromadb.PersistentClient(str(tmp_path / "chroma"), settings)


def test_documents_and_queries_get_the_embedders_vectors(tiny: str) -> None:
    embed = QuaverEmbeddingFunction(tiny)
    embedder = Embedder.from_pretrained(tiny)
    assert np.array_equal(np.stack(embed(DOCUMENTS)), embedder.encode_document(DOCUMENTS))
    assert np.array_equal(np.stack(embed.embed_query(DOCUMENTS)), embedder.encode_query(DOCUMENTS))


def test_a_collection_finds_its_model_again(client: Any, tiny: str) -> None:
    embed = QuaverEmbeddingFunction(Path(tiny), truncate_dim=16)
    client.create_collection("notes", embedding_function=embed).add(
        ids=["0", "1", "2"], documents=DOCUMENTS
    )
    again = client.get_collection("notes")
    found = again.query(
        query_texts=[DOCUMENTS[1]], n_results=1, include=["embeddings", "distances"]
    )
    assert found["ids"] == [["1"]]
    embedder = Embedder.from_pretrained(tiny, truncate_dim=16)
    question, document = (
        f(DOCUMENTS[1]) for f in (embedder.encode_query, embedder.encode_document)
    )
    distance = 1 - float(embedder.similarity(question, document))
    assert found["distances"][0][0] == pytest.approx(distance, abs=1e-6)
    assert len(found["embeddings"][0][0]) == 16


def test_settings_that_change_vectors_are_refused(tiny: str) -> None:
    embed = QuaverEmbeddingFunction(tiny)
    old = embed.get_config()
    embed.validate_config_update(old, {**old, "threads": 1})
    with pytest.raises(ValueError, match=r"truncate_dim cannot change.*None: got 8; make a new"):
        embed.validate_config_update(old, {**old, "truncate_dim": 8})


def test_a_collection_of_another_dimension_refuses_the_vectors(client: Any, tiny: str) -> None:
    notes = client.create_collection("notes", embedding_function=QuaverEmbeddingFunction(tiny))
    notes.add(ids=["0"], embeddings=[[0.0, 1.0]], documents=["two numbers"])
    with pytest.raises(chromadb.errors.ChromaError, match="dimension"):
        notes.add(ids=["1"], documents=["as many as the model gives"])


def test_a_document_that_is_no_text_is_named(tiny: str) -> None:
    with pytest.raises(InputError, match=r"texts\[1\]"):
        QuaverEmbeddingFunction(tiny)(["a text", 7])  # type: ignore[list-item]
