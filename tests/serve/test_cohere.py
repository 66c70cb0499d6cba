"""Cohere's and Jina's dialects over HTTP."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from quaver import CrossEncoder, Embedder
from running_server import Running

DOCUMENTS = ["Paris is in France.", "Rome is in Italy.", "A quaver is an eighth note."]


def test_every_embedding_type(server: Running, embedder: Embedder) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {
        "model": "tiny",
        "texts": DOCUMENTS,
        "input_type": "search_document",
        "embedding_types": kinds,
    }
    found = server.post("/v2/embed", body).json()
    assert found["response_type"] == "embeddings_by_type"
    vectors = found["embeddings"]
    assert set(vectors) == set(kinds)
    exact = embedder.encode_document(DOCUMENTS)
    assert np.array_equal(np.float32(vectors["float"]), exact)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in vectors["base64"]]
    assert np.array_equal(np.stack(decoded), exact)
    assert np.array_equal(vectors["int8"], embedder.encode_document(DOCUMENTS, output="int8"))
    assert np.array_equal(np.array(vectors["uint8"]) - 128, vectors["int8"])
    binary = embedder.encode_document(DOCUMENTS, output="binary")
    assert np.array_equal(vectors["ubinary"], binary)
    assert np.array_equal(np.array(vectors["binary"]) + 128, binary)


def test_prompts_and_options_of_embed(server: Running, embedder: Embedder) -> None:
    def embed(**options: object) -> np.ndarray:
        found = server.post("/v2/embed", {"texts": DOCUMENTS, **options})
        assert found.is_success, found.text
        return np.float32(found.json()["embeddings"]["float"])

    query = embedder.encode_query(DOCUMENTS)
    assert np.array_equal(embed(input_type="search_query"), query)
    assert np.array_equal(embed(input_type="clustering"), embedder.encode(DOCUMENTS, prompt=""))
    assert np.array_equal(embed(output_dimension=8), embedder.encode(DOCUMENTS, truncate_dim=8))
    ids = embedder.tokenizer.encode(DOCUMENTS, longest=4)
    assert np.diff(ids.offsets).tolist() == [4, 4, 4]
    assert np.array_equal(embed(max_tokens=4), embedder.encode_ids(ids.ids, ids.offsets))
    parts = [{"content": [{"type": "text", "text": text}]} for text in DOCUMENTS]
    assert np.array_equal(
        np.float32(server.post("/v2/embed", {"inputs": parts}).json()["embeddings"]["float"]),
        embedder.encode(DOCUMENTS),
    )


def test_the_first_version_of_embed(server: Running, embedder: Embedder) -> None:
    found = server.post("/v1/embed", {"texts": DOCUMENTS}).json()
    assert found["response_type"] == "embeddings_floats"
    assert np.array_equal(np.float32(found["embeddings"]), embedder.encode(DOCUMENTS))


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank"])
def test_rerank(server: Running, cross_encoder: CrossEncoder, path: str) -> None:
    expected = cross_encoder.rank("Where is Paris?", DOCUMENTS, top_k=2)
    body = {"model": "ranker", "query": "Where is Paris?", "documents": DOCUMENTS, "top_n": 2}
    found = server.post(path, {**body, "return_documents": True}).json()
    assert [
        (each["index"], np.float32(each["relevance_score"]), each["document"]["text"])
        for each in found["results"]
    ] == [(each.index, np.float32(each.score), each.text) for each in expected]
    assert found["model"] == "ranker"
    assert found["usage"]["total_tokens"] > 0
    objects = [{"text": text, "title": "x"} for text in DOCUMENTS]
    again = server.post(path, {**body, "documents": objects}).json()
    assert [each["index"] for each in again["results"]] == [each.index for each in expected]


def test_a_documents_tokens_can_be_bounded(server: Running, cross_encoder: CrossEncoder) -> None:
    long = "some text about the list " * 4
    body = {"query": "list", "documents": [long], "max_tokens_per_doc": 3}
    score = server.post("/v2/rerank", body).json()["results"][0]["relevance_score"]
    expected = cross_encoder.predict([("list", "some text about")])
    assert np.float32(score) == expected[0]
    refused = server.post("/v2/rerank", {**body, "truncation": False})
    assert refused.status_code == 400
    assert "at most 3 tokens when truncate is off" in refused.json()["message"]
    whole = {**body, "truncation": False, "max_tokens_per_doc": 20}
    assert server.post("/v2/rerank", whole).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/embed", b"{", 400),
        ("/v2/embed", b"{}", 400),
        ("/v2/embed", b'{"texts": "x"}', 400),
        ("/v2/embed", b'{"texts": [5]}', 400),
        ("/v2/embed", b'{"texts": []}', 400),
        ("/v2/embed", b'{"texts": ["\xff"]}', 400),
        ("/v2/embed", b'{"texts": ["x"], "input_type": "poem"}', 400),
        ("/v2/embed", b'{"texts": ["x"], "input_type": "image"}', 400),
        ("/v2/embed", b'{"texts": ["x"], "embedding_types": ["hex"]}', 400),
        ("/v2/embed", b'{"texts": ["x"], "output_dimension": 65}', 400),
        ("/v2/embed", b'{"texts": ["x"], "max_tokens": 1}', 400),
        ("/v2/embed", b'{"texts": ["x"], "priority": 1000}', 400),
        ("/v2/embed", b'{"texts": ["x"], "priority": -1}', 400),
        ("/v2/embed", b'{"texts": ["x"], "model": "none"}', 404),
        ("/v2/embed", b'{"texts": ["' + b"x " * 200 + b'"], "truncate": "NONE"}', 400),
        ("/v2/embed", b'{"inputs": [{"content": [{"type": "image_url"}]}]}', 400),
        ("/v2/rerank", b'{"query": "x", "documents": []}', 400),
        ("/v2/rerank", b'{"query": "x", "documents": [5]}', 400),
        ("/v2/rerank", b'{"query": "x", "documents": [{"title": "x"}]}', 400),
        ("/v2/rerank", b'{"query": 5, "documents": ["x"]}', 400),
        ("/v2/rerank", b'{"query": "x", "documents": ["x"], "top_n": 0}', 400),
        ("/v2/rerank", b'{"query": "x", "documents": ["x"], "max_tokens_per_doc": 0}', 400),
        ("/v2/rerank", b'{"query": "x", "documents": ["x"], "model": "tiny"}', 400),
    ],
)
def test_a_bad_body_gets_coheres_error(
    server: Running, path: str, body: bytes, status: int
) -> None:
    answer = server.client.post(path, content=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"id", "message"}
