"""TEI's dialect over HTTP."""

from __future__ import annotations

import numpy as np
import pytest

from quaver import CrossEncoder, Embedder
from running_server import Running

DOCUMENTS = ["Paris is in France.", "Rome is in Italy.", "A quaver is an eighth note."]


def test_embed(server: Running, embedder: Embedder) -> None:
    for inputs in ("Paris", ["Paris"], [embedder.tokenizer.encode(["Paris"]).ids.tolist()]):
        answer = server.post("/embed", {"inputs": inputs})
        assert np.array_equal(np.float32(answer.json()), embedder.encode(["Paris"]))
    assert answer.headers["x-compute-type"] == "cpu"
    assert int(answer.headers["x-compute-tokens"]) == embedder.tokenizer.encode(["Paris"]).tokens


def test_options_of_embed(server: Running, embedder: Embedder) -> None:
    def embed(**options: object) -> np.ndarray:
        return np.float32(server.post("/embed", {"inputs": "Paris", **options}).json()[0])

    assert np.array_equal(embed(normalize=False), embedder.encode("Paris", normalize=False))
    assert np.array_equal(embed(dimensions=8), embedder.encode("Paris", truncate_dim=8))
    assert np.array_equal(embed(prompt_name="query"), embedder.encode_query("Paris"))


def test_a_long_text_may_keep_its_end(server: Running, embedder: Embedder) -> None:
    words = " ".join(f"w{i}" for i in range(300))
    body = {"inputs": words, "truncation_direction": "Left"}
    ids = embedder.tokenizer._backend.encode(words, add_special_tokens=False).ids
    batch = embedder.tokenizer.encode([words], keep="end")
    assert batch.ids.tolist()[1:-1] == ids[-62:]
    expected = embedder.encode_ids(batch.ids, batch.offsets)
    assert np.array_equal(np.float32(server.post("/embed", body).json()), expected)


def test_rerank(server: Running, cross_encoder: CrossEncoder) -> None:
    query = "Where is Paris?"
    expected = cross_encoder.rank(query, DOCUMENTS)
    found = server.post("/rerank", {"query": query, "texts": DOCUMENTS}).json()
    assert [(each["index"], np.float32(each["score"])) for each in found] == [
        (each.index, np.float32(each.score)) for each in expected
    ]
    assert "text" not in found[0]
    raw = server.post(
        "/rerank",
        {"query": query, "texts": DOCUMENTS, "raw_scores": True, "return_text": True},
    ).json()
    logits = cross_encoder.predict([(query, text) for text in DOCUMENTS], activation="identity")
    assert {each["text"]: np.float32(each["score"]) for each in raw} == dict(
        zip(DOCUMENTS, logits, strict=True)
    )


def test_predict(server: Running, cross_encoder: CrossEncoder) -> None:
    pair = ("Where is Paris?", DOCUMENTS[0])
    found = server.post("/predict", {"inputs": [list(pair)]}).json()
    assert found[0][0]["label"] == "LABEL_0"
    score = cross_encoder.predict([pair], activation="sigmoid")[0]
    assert found[0][0]["score"] == pytest.approx(float(score), rel=1e-6)
    assert server.post("/predict", {"inputs": list(pair)}).json() == found[0]
    assert len(server.post("/predict", {"inputs": [["a"], ["a", "b"]]}).json()) == 2


def test_similarity_and_the_root_route(server: Running, embedder: Embedder) -> None:
    body = {"inputs": {"source_sentence": "Paris", "sentences": DOCUMENTS}}
    vectors = embedder.encode(["Paris", *DOCUMENTS])
    expected = embedder.similarity(vectors[0], vectors[1:])
    for path in ("/similarity", "/"):
        assert np.array_equal(np.float32(server.post(path, body).json()), expected)
    root = server.post("/", {"inputs": DOCUMENTS}).json()
    assert np.array_equal(np.float32(root), embedder.encode(DOCUMENTS))


def test_tokenize_and_decode(server: Running) -> None:
    tokens = server.post("/tokenize", {"inputs": "some text"}).json()[0]
    assert [token["text"] for token in tokens] == ["[CLS]", "some", "text", "[SEP]"]
    assert tokens[1] == {
        "id": tokens[1]["id"],
        "text": "some",
        "special": False,
        "start": 0,
        "stop": 4,
    }
    assert tokens[0]["start"] is None
    ids = [token["id"] for token in tokens]
    assert server.post("/decode", {"ids": ids}).json() == ["some text"]
    assert server.post("/decode", {"ids": [ids, ids]}).json() == ["some text"] * 2
    assert (
        len(server.post("/tokenize", {"inputs": "a", "add_special_tokens": False}).json()[0]) == 1
    )


def test_info_and_probes(server: Running) -> None:
    info = server.client.get("/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_input_length"] == 64
    for path in ("/health", "/ping", "/", "/livez", "/readyz"):
        assert server.client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", b"{", 400, None),
        ("/embed", b'{"inputs": "\xff"}', 400, None),
        ("/embed", b'{"inputs": NaN}', 400, None),
        ("/embed", b"{}", 422, "Validation"),
        ("/embed", b'{"inputs": null}', 422, "Validation"),
        ("/embed", b'{"inputs": 5}', 422, "Validation"),
        ("/embed", b'{"inputs": []}', 400, "Empty"),
        ("/embed", b'{"inputs": ""}', 422, "Validation"),
        ("/embed", b'{"inputs": ["x", 5]}', 422, "Validation"),
        ("/embed", b'{"inputs": [[99999999]]}', 422, "Validation"),
        ("/embed", b'{"inputs": "x", "dimensions": 65}', 422, "Validation"),
        ("/embed", b'{"inputs": "x", "prompt_name": "poem"}', 422, "Validation"),
        ("/embed", b'{"inputs": "x", "truncation_direction": "Up"}', 422, "Validation"),
        ("/embed", b'{"inputs": "' + b"x " * 200 + b'", "truncate": false}', 422, "Validation"),
        ("/embed", b'{"inputs": "' + b"x" * 1_000_001 + b'"}', 413, None),
        ("/embed_sparse", b'{"inputs": "x"}', 424, "Backend"),
        ("/rerank", b'{"query": "x", "texts": []}', 400, "Empty"),
        ("/rerank", b'{"query": "x"}', 422, "Validation"),
        ("/rerank", b'{"query": "' + b"x " * 200 + b'", "texts": ["x"]}', 422, "Validation"),
        ("/predict", b'{"inputs": []}', 422, "Validation"),
        ("/predict", b'{"inputs": [["a", "b", "c"]]}', 422, "Validation"),
        ("/similarity", b'{"inputs": {"source_sentence": "x", "sentences": []}}', 400, "Empty"),
        ("/decode", b'{"ids": [99999999]}', 422, "Validation"),
        ("/decode", b'{"ids": [-1]}', 422, "Validation"),
        ("/", b'{"inputs": 5}', 422, "Validation"),
        ("/", b"[]", 422, "Validation"),
    ],
)
def test_a_bad_body_gets_teis_error(
    server: Running, path: str, body: bytes, status: int, kind: str | None
) -> None:
    answer = server.client.post(path, content=body)
    assert answer.status_code == status, answer.text
    if kind is None:
        assert answer.headers["content-type"].startswith("text/plain")
    else:
        assert answer.json()["error_type"] == kind


def test_a_rerank_route_needs_a_reranker(tiny_folder: object) -> None:
    from quaver.serve import ModelSettings, Settings
    from running_server import running

    with running(Settings(model=(ModelSettings(source=str(tiny_folder)),), port=0)) as run:
        answer = run.post("/rerank", {"query": "x", "texts": ["y"]})
    assert answer.status_code == 424
    assert answer.json() == {"error": "model is not a re-ranker model", "error_type": "Backend"}
