"""Sparse encoders and multi-vector models over HTTP, in the dialects that have routes for them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_folders import unpacked
from quaver import MultiVectorEncoder, SparseEncoder, SparseVector
from quaver.errors import PoolingError
from quaver.serve import ModelSettings, Settings, check
from running_server import Running, running

TEXTS = ["the python module has a class", "text and data", "who? the file. what, the list!"]
LONG = "the python module has a class of data " * 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("splade-bert", "splade-distilbert", "splade-modernbert", "colbert"):
        unpacked(name, folder)
    return folder


def of(folder: Path, **options: Any) -> ModelSettings:
    return ModelSettings(source=str(folder), **options)


@pytest.fixture(scope="module")
def sparse(folders: Path) -> SparseEncoder:
    return SparseEncoder.from_pretrained(folders / "splade-bert")


@pytest.fixture(scope="module")
def colbert(folders: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder.from_pretrained(folders / "colbert")


@pytest.fixture(scope="module")
def run(folders: Path, tiny_folder: Path) -> Iterator[Running]:
    """A server with one model of each kind; none says which kind it is."""
    settings = Settings(
        model=(
            of(tiny_folder, name="tiny"),
            of(folders / "splade-bert", name="splade"),
            of(folders / "colbert", name="colbert"),
            of(folders / "colbert", name="maxsim", task="rerank"),
        ),
        port=0,
        cache=1_000_000,
    )
    with running(settings) as server:
        yield server


def pairs(vector: SparseVector) -> list[tuple[int, Any]]:
    return list(zip(vector.indices.tolist(), vector.values, strict=True))


def embed_sparse(run: Running, inputs: Any, **options: Any) -> list[list[tuple[int, Any]]]:
    answer = run.post("/embed_sparse", {"inputs": inputs, **options})
    assert answer.status_code == 200, answer.text
    return [[(w["index"], np.float32(w["value"])) for w in words] for words in answer.json()]


def test_sparse_vectors_are_the_librarys(run: Running, sparse: SparseEncoder) -> None:
    expected = sparse.encode(TEXTS)
    for _ in range(2):  # the second time from the cache
        assert embed_sparse(run, TEXTS) == [pairs(expected[i]) for i in range(len(TEXTS))]
    assert run.server.state.service.scheduler.counts.cached >= len(TEXTS)
    assert embed_sparse(run, TEXTS[0]) == [pairs(expected[0])]
    ids = sparse.tokenizer.encode([TEXTS[0]]).ids.tolist()
    assert embed_sparse(run, [ids]) == [pairs(expected[0])]
    assert embed_sparse(run, ids) == [pairs(expected[0])]
    answer = run.post("/embed_sparse", {"inputs": TEXTS[0]})
    assert int(answer.headers["x-compute-tokens"]) == len(ids)
    assert len(expected[0]) > 1


def test_prompts_and_truncation_of_sparse_vectors(run: Running, sparse: SparseEncoder) -> None:
    assert embed_sparse(run, TEXTS[0], prompt_name="query") == [
        pairs(sparse.encode_query(TEXTS[0]))
    ]
    assert embed_sparse(run, LONG) == [pairs(sparse.encode(LONG))]
    end = sparse.tokenizer.encode([LONG], keep="end").ids.tolist()
    assert embed_sparse(run, LONG, truncation_direction="Left") == embed_sparse(run, [end])
    assert embed_sparse(run, LONG, truncation_direction="Left") != embed_sparse(run, LONG)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": LONG, "truncate": False}, 422, "Validation"),
        ({"inputs": TEXTS, "prompt_name": "title"}, 422, "Validation"),
        ({"inputs": [[10**6]]}, 422, "Validation"),
        ({"inputs": ""}, 422, "Validation"),
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": None}, 422, "Validation"),
    ],
)
def test_a_bad_request_for_sparse_vectors(run: Running, body: Any, status: int, kind: str) -> None:
    answer = run.post("/embed_sparse", body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)


def test_each_route_finds_its_model_and_refuses_the_others(run: Running) -> None:
    """Models are found by what they are; one that is named for something else is refused in the dialect's words."""
    vectors = run.post("/v1/embeddings", {"input": TEXTS}).json()
    assert vectors["model"] == "tiny"
    for model in ("splade", "colbert", "maxsim"):
        refused = run.post("/v1/embeddings", {"input": TEXTS, "model": model})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "model"
        assert run.post("/api/embed", {"input": TEXTS, "model": model}).status_code == 400
        assert run.post("/v2/embed", {"texts": TEXTS, "model": model}).status_code == 400
    for model in ("tiny", "splade", "colbert"):
        body = {"query": "x", "documents": TEXTS, "model": model}
        assert run.post("/v2/rerank", body).status_code == 400
    assert run.post("/v1/multi-vector", {"input": TEXTS, "model": "splade"}).status_code == 400
    shown = run.post("/api/show", {"model": "splade"}).json()
    assert shown["model_info"]["quaver.embedding_length"] > 64


def test_a_server_of_a_sparse_encoder_alone(folders: Path, sparse: SparseEncoder) -> None:
    with running(Settings(model=(of(folders / "splade-bert"),), port=0)) as run:
        info = run.client.get("/info").json()
        assert info["model_type"] == {"embedding": {"pooling": "splade"}}
        assert info["max_input_length"] == sparse.max_seq_length
        root = run.post("/", {"inputs": TEXTS})
        assert root.json() == run.post("/embed_sparse", {"inputs": TEXTS}).json()
        for path in ("/embed", "/embed_all"):
            refused = run.post(path, {"inputs": TEXTS})
            assert (refused.status_code, refused.json()["error_type"]) == (424, "Backend")
        assert run.post("/v1/embeddings", {"input": TEXTS}).status_code == 400
        (tokens,) = run.post("/tokenize", {"inputs": TEXTS[0]}).json()
        assert [token["id"] for token in tokens] == sparse.tokenizer.encode([TEXTS[0]]).ids.tolist()


def test_a_server_without_a_sparse_encoder(tiny_folder: Path) -> None:
    with running(Settings(model=(of(tiny_folder),), port=0)) as run:
        refused = run.post("/embed_sparse", {"inputs": TEXTS})
        assert (refused.status_code, refused.json()["error_type"]) == (424, "Backend")
        assert "SPLADE" in refused.json()["error"]
        refused = run.post("/v1/multi-vector", {"input": TEXTS})
        assert (refused.status_code, refused.json()["error"]["type"]) == (
            400,
            "invalid_request_error",
        )


def test_queries_that_a_table_weighs(folders: Path) -> None:
    model = SparseEncoder.from_pretrained(folders / "splade-distilbert")
    assert model.queries_without_model
    queries = [*TEXTS, "data data and text"]
    expected = model.encode_query(queries)
    with running(Settings(model=(of(folders / "splade-distilbert"),), port=0)) as run:
        found = embed_sparse(run, queries, prompt_name="query")
        assert found == [pairs(expected[i]) for i in range(len(queries))]
        assert embed_sparse(run, TEXTS) != found[:3]


def test_a_masked_language_model_is_sparse_if_its_settings_say_so(folders: Path) -> None:
    folder = folders / "splade-modernbert"
    for path in (*folder.glob("*sentence*"), folder / "modules.json"):
        path.unlink(missing_ok=True)
    model = SparseEncoder.from_pretrained(folder)
    settings = of(folder, task="sparse", on_demand=True)
    with running(Settings(model=(settings,), port=0)) as run:
        assert embed_sparse(run, TEXTS[0]) == [pairs(model.encode(TEXTS[0]))]


def test_a_masked_language_model_alone_says_what_to_state(folders: Path, tmp_path: Path) -> None:
    folder = unpacked("splade-bert", tmp_path)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    with running(Settings(model=(of(folder), of(folders / "colbert")), port=0)) as run:
        (failed, _) = run.server.state.service.models.all
        assert failed.error is not None
        assert 'task = "sparse"' in failed.error
    with pytest.raises(PoolingError, match='task = "sparse" if it is a sparse encoder'):
        check(Settings(model=(of(folder),)))
    check(Settings(model=(of(folder, task="sparse", name="a"), of(folders / "splade-bert"))))


def test_settings_that_a_kind_does_not_have_fail_the_model(folders: Path) -> None:
    wrong = of(folders / "splade-bert", name="splade", normalize=True)
    right = of(folders / "colbert", name="colbert")
    with running(Settings(model=(wrong, right), port=0)) as run:
        answer = run.post("/embed_sparse", {"inputs": TEXTS})
        assert answer.status_code == 503
        assert "splade could not be loaded: the server's log says why" in answer.json()["error"]
        assert "normalize has no effect on splade" in run.log.getvalue()
        assert run.post("/v1/multi-vector", {"input": TEXTS}).status_code == 200


def multi_vectors(run: Running, **body: Any) -> list[Any]:
    answer = run.post("/v1/multi-vector", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "colbert"
    return [np.float32(each["embeddings"]) for each in answer.json()["data"]]


def test_multi_vectors_are_the_librarys(run: Running, colbert: MultiVectorEncoder) -> None:
    texts = [*TEXTS, LONG]
    documents, queries = colbert.encode_document(texts), colbert.encode_query(texts)
    for side, expected in (("document", documents), ("query", queries)):
        found = multi_vectors(run, input=texts, input_type=side)
        assert len(found) == len(texts)
        for i, vectors in enumerate(found):
            assert np.array_equal(vectors, expected[i])
    (alone,) = multi_vectors(run, input=TEXTS[0], dimensions=colbert.dimension)
    assert np.array_equal(alone, documents[0])
    answer = run.post("/v1/multi-vector", {"input": TEXTS[0], "embedding_type": "base64"}).json()
    rows = [np.frombuffer(base64.b64decode(v), "<f4") for v in answer["data"][0]["embeddings"]]
    assert np.array_equal(np.stack(rows), documents[0])
    assert answer["usage"]["prompt_tokens"] >= len(rows)
    both = {"input": TEXTS[0], "embedding_type": ["base64", "float"]}
    (entry,) = run.post("/v1/multi-vector", both).json()["data"]
    assert entry["embeddings"]["base64"] == answer["data"][0]["embeddings"]
    assert np.array_equal(np.float32(entry["embeddings"]["float"]), documents[0])


@pytest.mark.parametrize(
    "body",
    [
        {"input": [[1, 2]]},
        {"input": []},
        {"input": ""},
        {"input": TEXTS, "input_type": "title"},
        {"input": TEXTS, "dimensions": 3},
        {"input": LONG, "truncate": False},
        {"input": 5},
    ],
)
def test_a_bad_request_for_multi_vectors(run: Running, body: Any) -> None:
    answer = run.post("/v1/multi-vector", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_server_of_a_multi_vector_model_alone(folders: Path, colbert: MultiVectorEncoder) -> None:
    with running(Settings(model=(of(folders / "colbert", name="colbert"),), port=0)) as run:
        for options, expected in (
            ({}, colbert.encode_document(TEXTS)),
            ({"prompt_name": "query"}, colbert.encode_query(TEXTS)),
        ):
            found = run.post("/embed_all", {"inputs": TEXTS, **options}).json()
            for i, vectors in enumerate(found):
                assert np.array_equal(np.float32(vectors), expected[i])
            assert run.post("/", {"inputs": TEXTS, **options}).json() == found
        unknown = run.post("/embed_all", {"inputs": TEXTS, "prompt_name": "title"})
        assert unknown.status_code == 422
        assert run.post("/embed_all", {"inputs": [[5, 6]]}).status_code == 422
        assert run.post("/embed", {"inputs": TEXTS}).status_code == 424
        assert run.client.get("/info").json()["max_input_length"] == colbert.max_seq_length


def test_a_multi_vector_model_reranks_by_maxsim(run: Running, colbert: MultiVectorEncoder) -> None:
    documents = [*TEXTS, LONG]
    query = "a class of data"
    expected = colbert.similarity(colbert.encode_query(query), colbert.encode_document(documents))
    ranked = run.post("/rerank", {"query": query, "texts": documents}).json()
    assert [each["index"] for each in ranked] == np.argsort(-expected, kind="stable").tolist()
    assert np.array_equal(np.float32([each["score"] for each in ranked]), np.sort(expected)[::-1])
    body = {"query": query, "documents": documents, "model": "maxsim"}
    results = run.post("/v2/rerank", body).json()["results"]
    assert [each["index"] for each in results] == [each["index"] for each in ranked]
    short = run.post("/v2/rerank", {**body, "max_tokens_per_doc": 4}).json()["results"]
    scores = {each["index"]: each["relevance_score"] for each in short}
    # The words of the prompt, "text:", are two of them.
    cut = colbert.similarity(colbert.encode_query(query), colbert.encode_document("the python"))
    assert np.float32(scores[3]) == cut
    long = run.post("/rerank", {"query": query, "texts": documents, "truncate": False})
    assert long.status_code == 422
    assert run.post("/predict", {"inputs": "x"}).status_code == 424
