"""Ollama's dialect over HTTP."""

from __future__ import annotations

import numpy as np
import pytest

from quaver import CrossEncoder, Embedder
from running_server import Running

TEXTS = ["Paris is in France.", "Rome is in Italy."]


def test_embed(server: Running, embedder: Embedder) -> None:
    for name in ("tiny", "tiny:latest"):
        found = server.post("/api/embed", {"model": name, "input": TEXTS}).json()
        assert found["model"] == name
        assert np.array_equal(np.float32(found["embeddings"]), embedder.encode(TEXTS))
        assert found["prompt_eval_count"] == embedder.tokenizer.encode(TEXTS).tokens
    one = server.post("/api/embed", {"model": "tiny", "input": "x", "dimensions": 8}).json()
    assert np.array_equal(np.float32(one["embeddings"][0]), embedder.encode("x", truncate_dim=8))
    every = server.post("/api/embed", {"model": "tiny", "input": "x", "dimensions": 0}).json()
    assert np.array_equal(np.float32(every["embeddings"][0]), embedder.encode("x"))
    for nothing in ({}, {"input": ""}, {"input": []}, {"input": None}):
        loaded = server.post("/api/embed", {"model": "tiny", **nothing})
        assert (loaded.status_code, loaded.json()["embeddings"]) == (200, [])


def test_the_older_route_does_not_normalize(server: Running, embedder: Embedder) -> None:
    found = server.post("/api/embeddings", {"model": "tiny", "prompt": "x"}).json()
    assert np.array_equal(np.float32(found["embedding"]), embedder.encode("x", normalize=False))
    assert server.post("/api/embeddings", {"model": "tiny"}).json() == {"embedding": []}


def test_rerank(server: Running, cross_encoder: CrossEncoder) -> None:
    expected = cross_encoder.rank("Where is Paris?", TEXTS)
    body = {"model": "ranker", "query": "Where is Paris?", "documents": TEXTS}
    found = server.post("/api/rerank", body).json()["results"]
    assert [(each["index"], np.float32(each["relevance_score"])) for each in found] == [
        (each.index, np.float32(each.score)) for each in expected
    ]
    assert found[0]["document"] == expected[0].text
    assert len(server.post("/api/rerank", {**body, "top_n": 1}).json()["results"]) == 1


def test_models(server: Running, embedder: Embedder) -> None:
    listed = server.client.get("/api/tags").json()["models"]
    assert [each["name"] for each in listed] == ["tiny", "ranker"]
    shown = server.post("/api/show", {"model": "tiny"}).json()
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["quaver.embedding_length"] == 64
    loaded = server.client.get("/api/ps").json()["models"]
    assert [(each["model"], each["context_length"]) for each in loaded] == [
        ("tiny", 64),
        ("ranker", 64),
    ]
    assert loaded[0]["size"] == listed[0]["size"] == embedder.nbytes
    assert "version" in server.client.get("/api/version").json()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/embed", b"{", 400),
        ("/api/embed", b'{"input": "x"}', 400),
        ("/api/embed", b'{"model": "", "input": "x"}', 400),
        ("/api/embed", b'{"model": "none", "input": "x"}', 404),
        ("/api/embed", b'{"model": "tiny", "input": 5}', 400),
        ("/api/embed", b'{"model": "tiny", "input": [5]}', 400),
        ("/api/embed", b'{"model": "tiny", "input": "\xff"}', 400),
        ("/api/embed", b'{"model": "tiny", "input": "x", "dimensions": 65}', 400),
        (
            "/api/embed",
            b'{"model": "tiny", "input": "' + b"x " * 99 + b'", "truncate": false}',
            400,
        ),
        ("/api/rerank", b'{"model": "ranker", "query": "x", "documents": []}', 400),
        ("/api/rerank", b'{"model": "tiny", "query": "x", "documents": ["x"]}', 400),
        ("/api/show", b"{}", 400),
        ("/api/show", b'{"model": "none"}', 404),
    ],
)
def test_a_bad_body_gets_ollamas_error(
    server: Running, path: str, body: bytes, status: int
) -> None:
    answer = server.client.post(path, content=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
