"""TEI's dialect over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quaver import CrossEncoder, Embedder
from quaver.embedder import pool_parts
from quaver.reranker import pair_logits
from quaver.serve import ModelSettings, Settings
from running_server import Running, running
from tiny_model import write_tiny_cross_encoder, write_tiny_model

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


def tokens_of(embedder: Embedder, text: str) -> np.ndarray:
    """The vectors of a text's tokens; their mean is the text's."""
    batch = embedder.tokenizer.encode([text])
    first = np.arange(batch.tokens, dtype=np.int32)
    return pool_parts(embedder, batch, np.stack([first, first + 1], axis=1))


def test_embed_all(server: Running, embedder: Embedder) -> None:
    texts = [*DOCUMENTS, "word " * 200]
    answer = server.post("/embed_all", {"inputs": texts})
    assert answer.status_code == 200
    found = [np.float32(each) for each in answer.json()]
    for text, vectors in zip(texts, found, strict=True):
        assert np.array_equal(vectors, tokens_of(embedder, text))
        np.testing.assert_allclose(
            vectors.mean(axis=0), embedder.encode(text, normalize=False), atol=1e-5
        )
    assert int(answer.headers["x-compute-tokens"]) == sum(map(len, found))


def test_options_of_embed_all(server: Running, embedder: Embedder) -> None:
    def embed_all(inputs: object, **options: object) -> np.ndarray:
        answer = server.post("/embed_all", {"inputs": inputs, **options})
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()
        return np.float32(found)

    query = tokens_of(embedder, "query: Paris")
    assert np.array_equal(embed_all("Paris", prompt_name="query"), query)
    ids = embedder.tokenizer.encode(["query: Paris"]).ids.tolist()
    assert np.array_equal(embed_all(ids), query)
    assert np.array_equal(embed_all([ids]), query)
    words = " ".join(f"w{i}" for i in range(300))
    batch = embedder.tokenizer.encode([words], keep="end")
    ids = batch.ids.tolist()
    left = embed_all(words, truncation_direction="Left")
    assert np.array_equal(left, embed_all(ids))
    long = server.post("/embed_all", {"inputs": words, "truncate": False})
    assert (long.status_code, long.json()["error_type"]) == (422, "Validation")


def test_tokens_of_other_kinds_of_model(tmp_path: Path, reranker_folder: Path) -> None:
    """Two poolings are side by side; a Dense module has no vectors of tokens; nor has a reranker."""
    for pooling in ("cls", "lasttoken", "max+mean"):
        folder = write_tiny_model(tmp_path / pooling, pooling=pooling)
        embedder = Embedder.from_pretrained(folder)
        with running(Settings(model=(ModelSettings(source=str(folder)),), port=0)) as run:
            (found,) = run.post("/embed_all", {"inputs": "Paris is in France"}).json()
            info = run.client.get("/info").json()["model_type"]
        assert np.array_equal(np.float32(found), tokens_of(embedder, "Paris is in France")[:, :64])
        assert info["embedding"]["pooling"] == pooling.replace("last", "last_")
    model = ModelSettings(source=str(reranker_folder), task="rerank")
    with running(Settings(model=(model,), port=0)) as run:
        answer = run.post("/embed_all", {"inputs": "x"})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert answer.json()["error"].startswith("model does not give embeddings of tokens")


def test_an_answer_with_too_many_numbers_is_refused(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.serve.service._MOST_NUMBERS", 10_000)
    assert server.post("/embed_all", {"inputs": "Paris"}).status_code == 200
    answer = server.post("/embed_all", {"inputs": ["some words " * 10] * 50})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert "send several requests" in answer.json()["error"]


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


def test_rerank_applies_the_sigmoid_that_the_folder_leaves_out(
    tmp_path: Path, embedder: Embedder, tiny_folder: Path
) -> None:
    """As TEI does, whatever the folder's own activation is; a similarity stays as it is."""
    changes = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    folder = write_tiny_cross_encoder(tmp_path / "plain", changes=changes)
    model = CrossEncoder.from_pretrained(folder)
    assert model.activation == "identity"
    pairs = [("Where is Paris?", text) for text in DOCUMENTS]
    asked = {"query": "Where is Paris?", "texts": DOCUMENTS}
    with running(
        Settings(model=(ModelSettings(source=str(folder), task="rerank"),), port=0)
    ) as run:
        for more, activation in (({}, "sigmoid"), ({"raw_scores": True}, "identity")):
            scores = model.predict(pairs, activation=activation)  # type: ignore[arg-type]
            found = run.post("/rerank", {**asked, **more}).json()
            assert {each["index"]: np.float32(each["score"]) for each in found} == dict(
                enumerate(scores)
            )
        body = {"query": asked["query"], "documents": DOCUMENTS}
        own = run.post("/v2/rerank", body).json()["results"]
        best = max(model.predict(pairs))
        assert np.float32(own[0]["relevance_score"]) == best
    with running(
        Settings(model=(ModelSettings(source=str(tiny_folder), task="rerank"),), port=0)
    ) as run:
        (first, *_) = run.post("/rerank", asked).json()
    query, documents = embedder.encode_query(asked["query"]), embedder.encode_document(DOCUMENTS)
    assert np.float32(first["score"]) == max(embedder.similarity(query, documents))


def test_documents_whose_sigmoid_is_the_same_are_ranked_by_their_logits(tmp_path: Path) -> None:
    folder = write_tiny_cross_encoder(tmp_path / "sure")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = np.float32([60.0])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    expected = [
        each.index for each in CrossEncoder.from_pretrained(folder).rank("Paris", DOCUMENTS)
    ]
    assert expected != sorted(expected)
    with running(
        Settings(model=(ModelSettings(source=str(folder), task="rerank"),), port=0)
    ) as run:
        tei = run.post("/rerank", {"query": "Paris", "texts": DOCUMENTS}).json()
        cohere = run.post("/v2/rerank", {"query": "Paris", "documents": DOCUMENTS}).json()[
            "results"
        ]
    assert {each["score"] for each in tei} == {1.0}
    assert [each["index"] for each in tei] == [each["index"] for each in cohere] == expected


def test_rerank_as_vllm_has_it(server: Running) -> None:
    body = {"query": "x", "documents": DOCUMENTS, "top_n": 2, "model": "ranker"}
    found, expected = server.post("/rerank", body).json(), server.post("/v1/rerank", body).json()
    assert {**found, "id": ""} == {**expected, "id": ""}
    assert server.post("/rerank", {**body, "model": "none"}).status_code == 404
    assert server.post("/rerank", {**body, "top_n": 0}).status_code == 422


def test_predict(server: Running, cross_encoder: CrossEncoder) -> None:
    pair = ("Where is Paris?", DOCUMENTS[0])
    found = server.post("/predict", {"inputs": [list(pair)]}).json()
    assert found[0][0]["label"] == "LABEL_0"
    score = cross_encoder.predict([pair], activation="sigmoid")[0]
    assert found[0][0]["score"] == pytest.approx(float(score), rel=1e-6)
    assert server.post("/predict", {"inputs": list(pair)}).json() == found[0]
    assert len(server.post("/predict", {"inputs": [["a"], ["a", "b"]]}).json()) == 2


def test_a_long_document_may_keep_its_end(server: Running, cross_encoder: CrossEncoder) -> None:
    query, long = "Where is Paris?", " ".join(f"w{i}" for i in range(300))
    batch = cross_encoder.tokenizer.encode_pairs([(query, long)], keep="end")
    ids = cross_encoder.tokenizer.locate(long).ids.tolist()
    kept = 64 - 3 - len(cross_encoder.tokenizer.locate(query).ids)
    assert batch.ids.tolist()[-1 - kept : -1] == ids[-kept:]
    expected = pair_logits(cross_encoder, batch)[0, 0]
    body = {"truncation_direction": "Left", "raw_scores": True}
    (rank,) = server.post("/rerank", {"query": query, "texts": [long], **body}).json()
    (score,) = server.post("/predict", {"inputs": [query, long], **body}).json()
    assert np.float32(rank["score"]) == np.float32(score["score"]) == expected
    (start,) = server.post("/predict", {"inputs": [query, long], "raw_scores": True}).json()
    assert np.float32(start["score"]) != expected
    alone = cross_encoder.tokenizer.encode([long], keep="end")
    (score,) = server.post("/predict", {"inputs": long, **body}).json()
    assert np.float32(score["score"]) == pair_logits(cross_encoder, alone)[0, 0]


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


class Reads:
    """The characters of the texts that a tokenizer's library is given."""

    def __init__(self, tokenizer: Any) -> None:
        """Stand before a tokenizer's library."""
        self.inner, self.characters = tokenizer._backend, 0

    def __getattr__(self, name: str) -> Any:
        """Return what the library has."""
        return getattr(self.inner, name)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self.inner.encode_batch_fast(texts, **options)


@contextmanager
def reading(run: Running, place: int) -> Iterator[Reads]:
    tokenizer = run.server.state.service.models.all[place].loaded.tokenizer
    reads = Reads(tokenizer)
    tokenizer._backend = reads
    try:
        yield reads
    finally:
        tokenizer._backend = reads.inner


def test_no_option_makes_the_tokenizer_read_a_long_text(server: Running) -> None:
    """One text of 150,000 characters, of which 64 tokens count."""
    long = "text " * 30_000
    with reading(server, 0) as reads:
        refused = server.post("/embed", {"inputs": ["a", long], "truncate": False})
        assert refused.status_code == 422
        assert "Given: more than 64 tokens in entry 1" in refused.json()["error"]
        assert server.post("/embed_all", {"inputs": long, "truncate": False}).status_code == 422
        left = {"inputs": long, "truncation_direction": "Left"}
        assert server.post("/embed", left).status_code == 200
        body = {"texts": [long], "model": "tiny", "input_type": "classification"}
        for truncate, status in (("NONE", 400), ("START", 200), ("END", 200)):
            assert server.post("/v2/embed", {**body, "truncate": truncate}).status_code == status
        assert 0 < reads.characters < 20_000
    with reading(server, 1) as reads:
        for query, options in (
            (long, {}),
            ("a", {"truncate": False}),
            ("a", {"truncation_direction": "Left"}),
        ):
            texts = [f"{long}{i}" for i in range(2)] if query == "a" else ["a", "b", "c"]
            answer = server.post("/rerank", {"query": query, "texts": texts, **options})
            assert answer.status_code == (200 if "truncation_direction" in options else 422)
        assert server.post("/predict", {"inputs": [long, "b"]}).status_code == 422
        assert 0 < reads.characters < 50_000


def test_a_text_that_fits_is_embedded_without_cutting_it(
    server: Running, embedder: Embedder, cross_encoder: CrossEncoder
) -> None:
    fits = "text " * 62
    assert embedder.tokenizer.encode([fits]).tokens == 64
    answer = server.post("/embed", {"inputs": [fits, "a"], "truncate": False})
    assert np.array_equal(np.float32(answer.json()), embedder.encode([fits, "a"]))
    body = {"query": "a", "texts": ["b", "text " * 60], "truncate": False, "raw_scores": True}
    found = server.post("/rerank", body).json()
    expected = cross_encoder.predict([("a", text) for text in body["texts"]], activation="identity")
    assert {each["index"]: np.float32(each["score"]) for each in found} == dict(enumerate(expected))
    assert server.post("/rerank", {**body, "texts": ["text " * 61]}).status_code == 422


@pytest.mark.parametrize("before", [[], ["a"]])
def test_what_may_not_be_cut_is_not_classified(server: Running, before: list[str]) -> None:
    fits = "text " * (60 if before else 62)
    whole, long = [[*before, fits]], [[*before, fits + "text"]]
    for inputs, truncate, status in ((long, None, 200), (long, False, 422), (whole, False, 200)):
        answer = server.post("/predict", {"inputs": inputs, "truncate": truncate})
        assert answer.status_code == status
        if status == 422:
            assert "at most 64 tokens when truncate is off" in answer.json()["error"]


def test_a_text_without_a_place_to_cut_has_a_bound(server: Running, settings: Settings) -> None:
    with running(msgspec.structs.replace(settings, max_characters=10_000)) as run:
        solid = "-" * 20_000
        for options in ({}, {"truncate": False}, {"truncation_direction": "Left"}):
            answer = run.post("/embed", {"inputs": ["a", solid], **options})
            assert answer.status_code == 422
            assert "at most 10000 characters" in answer.json()["error"]
        answer = run.post("/rerank", {"query": solid, "texts": ["a", "b"]})
        assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
        for path, body in (
            ("/tokenize", {"inputs": ["some text " * 600] * 2}),
            ("/decode", {"ids": [[5] * 6000, [5] * 6000]}),
        ):
            answer = run.post(path, body)
            assert answer.status_code == 422
            assert "may have at most 10000" in answer.json()["error"]


def test_what_is_done_aside_has_places_in_the_queue(settings: Settings) -> None:
    """/tokenize and /decode: refused beyond the limits, given up in time and with their client."""
    with running(msgspec.structs.replace(settings, queue_requests=2, timeout=0.3)) as run:
        scheduler = run.server.state.service.scheduler
        held, begun, steps = threading.Event(), threading.Event(), []

        def wait() -> None:
            begun.set()
            assert held.wait(60)

        tokenizer = run.server.state.service.models.all[0].loaded.tokenizer
        pieces = tokenizer.pieces

        def noted(text: str, **options: Any) -> Any:
            steps.append(text)
            wait()
            return pieces(text, **options)

        tokenizer.pieces = noted
        body = {"inputs": ["a", "b", "c"]}
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(run.post, "/tokenize", body) for _ in range(2)]
            begun.wait(60)
            while scheduler.waiting.requests < 2:
                pass
            assert run.post("/decode", {"ids": [5]}).status_code == 429
            late = [each.result() for each in asked]
            assert {answer.status_code for answer in late} == {504}
            assert all("retry-after" in answer.headers for answer in late)
        assert scheduler.waiting.requests == 0
        held.set()
        assert run.post("/decode", {"ids": [5]}).status_code == 200
        assert steps == ["a"]  # no other step of a request that was given up


def test_info_and_probes(server: Running) -> None:
    answer = server.client.get("/info")
    info = answer.json()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["model_id"] == info["served_model_name"] == "tiny"
    assert "/" not in answer.text  # no folder of the server's machine
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
        ("/embed_all", b"{}", 422, "Validation"),
        ("/embed_all", b'{"inputs": []}', 400, "Empty"),
        ("/embed_all", b'{"inputs": [[]]}', 422, "Validation"),
        ("/embed_all", b'{"inputs": [[99999999]]}', 422, "Validation"),
        ("/embed_all", b'{"inputs": "x", "prompt_name": "poem"}', 422, "Validation"),
        ("/embed_all", b'{"inputs": "x", "truncation_direction": "Up"}', 422, "Validation"),
        ("/embed_sparse", b'{"inputs": "x"}', 424, "Backend"),
        ("/embed_sparse", b'{"inputs": 5}', 422, "Validation"),
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
    with running(Settings(model=(ModelSettings(source=str(tiny_folder)),), port=0)) as run:
        answer = run.post("/rerank", {"query": "x", "texts": ["y"]})
    assert answer.status_code == 424
    assert answer.json() == {"error": "model is not a re-ranker model", "error_type": "Backend"}
