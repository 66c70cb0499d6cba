"""OpenAI's dialect over HTTP: answers equal to the library's bits, refusals in OpenAI's words."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver import Embedder
from quaver.serve import ModelSettings, Settings
from running_server import Running, running
from tiny_model import write_tiny_model


def vectors_of(answer: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = [entry["embedding"] for entry in answer.json()["data"]]
    return np.array(rows, np.float32)


def test_vectors_have_the_librarys_bits(server: Running, embedder: Embedder) -> None:
    texts = ["Paris is the capital.", "A quaver is an eighth note.", "x " * 500]
    answer = server.post("/v1/embeddings", {"model": "tiny", "input": texts})
    assert answer.status_code == 200
    assert np.array_equal(vectors_of(answer), embedder.encode(texts))
    body = answer.json()
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    assert body["model"] == "tiny"
    tokens = embedder.tokenizer.encode(texts).tokens
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_one_text_and_token_ids(server: Running, embedder: Embedder) -> None:
    text = "Paris is the capital."
    batch = embedder.tokenizer.encode([text])
    ids = batch.ids.tolist()
    expected = embedder.encode([text])
    for given in (text, ids, [ids]):
        assert np.array_equal(vectors_of(server.post("/v1/embeddings", {"input": given})), expected)


def test_base64_holds_the_same_floats(server: Running, embedder: Embedder) -> None:
    answer = server.post(
        "/v1/embeddings", {"input": "Paris", "encoding_format": "base64", "dimensions": 8}
    )
    vector = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    assert np.array_equal(vector, embedder.encode("Paris", truncate_dim=8))


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_prompt_is_applied_once(server: Running, embedder: Embedder, role: str) -> None:
    encode = embedder.encode_query if role == "query" else embedder.encode_document
    prompt = embedder.prompts[role]
    for text in ("Paris", prompt + "Paris"):
        answer = server.post("/v1/embeddings", {"input": text, "input_type": role})
        assert np.array_equal(vectors_of(answer)[0], encode("Paris"))


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b'{"input": "\xff"}', 400, None),
        (b'{"input": "\\ud800"}', 400, None),
        (b'{"input": NaN}', 400, None),
        (b"null", 400, None),
        (b"5", 400, None),
        (b"[]", 400, None),
        (b"", 400, None),
        (b"[" * 50_000, 400, None),
        (b'{"input": "x", "more": ' + b"[" * 50_000, 400, None),
        (b"{}", 400, "input"),
        (b'{"input": null}', 400, "input"),
        (b'{"input": 5}', 400, "input"),
        (b'{"input": 1e999}', 400, "input"),
        (b'{"input": []}', 400, "input"),
        (b'{"input": ""}', 400, "input"),
        (b'{"input": [""]}', 400, "input"),
        (b'{"input": [[]]}', 400, "input"),
        (b'{"input": [[["x"]]]}', 400, "input"),
        (b'{"input": [{"image": "x"}]}', 400, "input"),
        (b'{"input": ["x", 5]}', 400, "input"),
        (b'{"input": [5, [5]]}', 400, "input"),
        (b'{"input": [-1]}', 400, "input"),
        (b'{"input": [99999999]}', 400, "input"),
        (b'{"input": [99999999999999999999999]}', 400, "input"),
        (b'{"input": [1.5]}', 400, "input"),
        (b'{"input": "x", "dimensions": 0}', 400, "dimensions"),
        (b'{"input": "x", "dimensions": -1}', 400, "dimensions"),
        (b'{"input": "x", "dimensions": 65}', 400, "dimensions"),
        (b'{"input": "x", "dimensions": 1.5}', 400, "dimensions"),
        (b'{"input": "x", "dimensions": "8"}', 400, "dimensions"),
        (b'{"input": "x", "encoding_format": "hex"}', 400, "encoding_format"),
        (b'{"input": "x", "input_type": "poem"}', 400, "input_type"),
        (b'{"input": "x", "prompt_name": "poem"}', 400, "prompt_name"),
        (b'{"input": [5], "late_chunking": true}', 400, "late_chunking"),
        (b'{"input": ["x", " "], "late_chunking": true}', 400, "input"),
        (b'{"input": ["x", " "], "late_chunking": 1}', 400, "late_chunking"),
        (
            b'{"input": ["' + b"x " * 200 + b'"], "late_chunking": true, "truncate": false}',
            400,
            "input",
        ),
        (b'{"input": "x", "model": "gpt-9"}', 404, "model"),
        (b'{"input": "x", "model": "ranker"}', 400, "model"),
        (b'{"input": "x", "model": 5}', 400, "model"),
        (b'{"input": ["' + b'x","' * 100 + b'x"]}', 400, "input"),
        (b'{"input": "' + b"x" * 1_000_001 + b'"}', 413, None),
    ],
)
def test_a_bad_body_gets_openais_error(
    server: Running, body: bytes, status: int, field: str | None
) -> None:
    answer = server.client.post("/v1/embeddings", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", field)


def test_what_jina_documents(server: Running, embedder: Embedder) -> None:
    def embed(**options: object) -> Any:
        answer = server.post("/v1/embeddings", {"input": ["Paris", "Rome"], **options})
        assert answer.status_code == 200, answer.text
        return vectors_of(answer)

    texts = ["Paris", "Rome"]
    plain = embedder.encode(texts, prompt="")
    for task in ("text-matching", "classification", "separation", "clustering", "none"):
        assert np.array_equal(embed(task=task), plain)
    assert np.array_equal(embed(task="retrieval.query"), embedder.encode_query(texts))
    assert np.array_equal(embed(task="retrieval.passage"), embedder.encode_document(texts))
    objects = [{"text": text} for text in texts]
    assert np.array_equal(embed(input=objects), embedder.encode(texts))
    assert np.array_equal(embed(embedding_type=["float"]), embedder.encode(texts))
    int8 = embed(embedding_type=["int8"])
    assert np.array_equal(int8, embedder.encode(texts, output="int8"))


@pytest.mark.parametrize("late", [False, True])
def test_several_formats_at_once(server: Running, late: bool) -> None:
    """Each embedding is an object of the formats, as the schema of Jina's API says."""
    kinds = ["float", "base64", "int8", "binary", "ubinary"]
    body = {"input": ["Paris", "Rome"], "dimensions": 32, "late_chunking": late}
    together = server.post("/v1/embeddings", {**body, "embedding_type": [*kinds, "float"]}).json()
    assert [set(each["embedding"]) for each in together["data"]] == [set(kinds)] * 2
    for kind in kinds:
        alone = server.post("/v1/embeddings", {**body, "embedding_type": kind}).json()
        assert alone["usage"] == together["usage"]
        for one, several in zip(alone["data"], together["data"], strict=True):
            assert several["embedding"][kind] == one["embedding"]
            assert several["index"] == one["index"]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"task": "poem"}, "task", "task must be retrieval.query, "),
        ({"input_type": "poem"}, "input_type", "input_type must be query or document"),
        ({"embedding_type": []}, "embedding_type", "must name a format: got an empty list"),
        ({"embedding_type": ["hex"]}, "embedding_type", "must be one of float, base64"),
        ({"input": [{"image": "x"}]}, "input", "input[0] must have text"),
        (
            {"input_type": "query", "prompt_name": "document"},
            "prompt_name",
            "input_type and prompt_name must",
        ),
        ({"input_type": "query", "task": "retrieval.passage"}, "task", "input_type and task must"),
        (
            {"task": "text-matching", "prompt_name": "query"},
            "prompt_name",
            "task and prompt_name must",
        ),
    ],
)
def test_an_error_names_the_field_that_was_sent(
    server: Running, body: dict[str, Any], field: str, says: str
) -> None:
    answer = server.post("/v1/embeddings", {"input": "x", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field
    assert says in answer.json()["error"]["message"]


def test_fields_that_agree_are_taken(server: Running, embedder: Embedder) -> None:
    body = {
        "input": "x",
        "input_type": "search_query",
        "task": "retrieval.query",
        "prompt_name": "query",
    }
    assert np.array_equal(
        vectors_of(server.post("/v1/embeddings", body))[0], embedder.encode_query("x")
    )


def test_late_chunking_embeds_parts_of_one_document(server: Running, embedder: Embedder) -> None:
    texts = ["Paris is the capital.", "It has some files.", "the " * 50, "A list of code."]

    def late(**options: object) -> Any:
        answer = server.post("/v1/embeddings", {"input": texts, "late_chunking": True, **options})
        assert answer.status_code == 200, answer.text
        return answer

    # These texts have the same tokens alone and in their document.
    document = " ".join(text.strip() for text in texts)
    starts = np.cumsum([0, *(len(text.strip()) + 1 for text in texts)])
    spans = [(start, start + len(text.strip())) for start, text in zip(starts, texts, strict=False)]
    expected = embedder.encode_spans(document, spans)
    assert np.array_equal(vectors_of(late(task="retrieval.passage")), expected)
    assert not np.allclose(expected, embedder.encode_document(texts), atol=1e-3)
    plain = embedder.encode_spans(document, spans, prompt="", normalize=False, truncate_dim=8)
    found = vectors_of(late(normalized=False, dimensions=8))
    assert np.array_equal(found, plain)
    assert np.array_equal(
        vectors_of(late(embedding_type="int8")),
        embedder.encode_spans(document, spans, prompt="", output="int8"),
    )
    one = server.post("/v1/embeddings", {"input": "a text", "late_chunking": True})
    assert np.array_equal(vectors_of(one), embedder.encode_spans("a text", [(0, 6)], prompt=""))


def test_a_model_that_pools_one_token_has_no_late_chunking(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "cls", pooling="cls")
    served = ModelSettings(source=str(folder), name="mine")
    with running(Settings(model=(served,), port=0)) as run:
        answer = run.post("/v1/embeddings", {"input": ["x"], "late_chunking": True})
    assert answer.status_code == 400
    assert "mine was trained to pool one (cls)" in answer.json()["error"]["message"]


def test_a_text_that_must_not_be_cut_is_refused(server: Running, embedder: Embedder) -> None:
    long = "x " * 500
    answer = server.post("/v1/embeddings", {"input": ["x", long], "truncate": False})
    assert answer.status_code == 400
    assert "at most 64 tokens" in answer.json()["error"]["message"]
    kept = server.post("/v1/embeddings", {"input": "x y z", "truncate": False})
    assert np.array_equal(vectors_of(kept)[0], embedder.encode("x y z"))


def test_models_are_listed_with_aliases(server: Running) -> None:
    listed = server.client.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == ["tiny", "text-embedding-3-small", "ranker"]
    assert server.client.get("/v1/models/tiny").json()["object"] == "model"
    assert server.client.get("/v1/models/none").status_code == 404
    assert server.post(
        "/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}
    ).is_success


def test_paths_and_methods_that_are_not_there(server: Running) -> None:
    assert server.client.get("/v1/none").status_code == 404
    assert server.client.get("/v1/embeddings").status_code == 405
    assert server.client.delete("/v1/embeddings").status_code == 405
