"""The registry's "quaver" in LanceDB's own tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

from quaver import Embedder, InputError
from quaver.integrations.lancedb import QuaverLanceEmbeddings

TEXTS = ["the file", "a list of keys", "her own way"]


def table(folder: Path, embed: Any) -> Any:
    class Row(LanceModel):
        text: str = embed.SourceField()
        vector: Vector(embed.ndims()) = embed.VectorField()  # type: ignore[valid-type]

    return lancedb.connect(str(folder)).create_table("rows", schema=Row)


def test_documents_and_queries_get_the_embedders_vectors(tiny: str) -> None:
    embed = get_registry().get("quaver").create(name=tiny)
    assert isinstance(embed, QuaverLanceEmbeddings)
    embedder = Embedder.from_pretrained(tiny)
    documents = np.stack(embed.compute_source_embeddings(TEXTS))
    assert np.array_equal(documents, embedder.encode_document(TEXTS))
    queries = np.stack(embed.compute_query_embeddings(TEXTS[0]))
    assert np.array_equal(queries, embedder.encode_query([TEXTS[0]]))


def test_a_table_finds_its_model_again(tmp_path: Path, tiny: str) -> None:
    embed = get_registry().get("quaver").create(name=tiny, truncate_dim=16)
    table(tmp_path, embed).add([{"text": text} for text in TEXTS])
    again = lancedb.connect(str(tmp_path)).open_table("rows")
    (found,) = again.search(TEXTS[2]).metric("cosine").limit(1).to_list()
    assert found["text"] == TEXTS[2]
    embedder = Embedder.from_pretrained(tiny, truncate_dim=16)
    question, document = (f(TEXTS[2]) for f in (embedder.encode_query, embedder.encode_document))
    distance = 1 - float(embedder.similarity(question, document))
    assert found["_distance"] == pytest.approx(distance, abs=1e-6)
    assert len(found["vector"]) == 16


def test_an_error_is_not_tried_again(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = get_registry().get("quaver").create(name=tiny)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(InputError, match=r"texts\[1\]"):
        embed.compute_source_embeddings_with_retry(["a text", 7])
    with pytest.raises(InputError, match=r"texts\[0\]"):
        embed.compute_query_embeddings_with_retry([7])
    assert waits == []  # LanceDB waits before each of its seven tries
