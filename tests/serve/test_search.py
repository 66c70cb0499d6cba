"""The search API: stores listed, searched, read and asked, beside the library's own answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import quaver.serve.models as models_of_the_server
from chat_server import ANSWER, ChatServer, chat_server
from golden_folders import unpacked
from quaver import (
    CrossEncoder,
    Embedder,
    Index,
    InputError,
    MultiVectorEncoder,
    SparseEncoder,
    StoreError,
)
from quaver.index import Library
from quaver.serve import ModelSettings, Settings, check, read_settings
from quaver.serve.settings import StoreSettings
from quaver.serve.stores import _ASKING, with_store_models
from quaver.store import read_filter
from running_server import Running, running
from tiny_model import write_tiny_model

WORDS = ("list", "dict", "function", "error", "file", "string", "text", "number")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "guide").mkdir()
    (folder / "a.md").write_text("# List\n\nThe list of files.\n\n# Dict\n\nThe dict of strings.\n")
    (folder / "b.txt").write_text("Each function returns an error.")
    sections = "\n\n".join(
        f"# Part {i}\n\nNumber {i} is a {WORDS[i % len(WORDS)]} of texts." for i in range(12)
    )
    (folder / "guide" / "long.md").write_text(sections)
    (folder / "mail.eml").write_text(
        "From: ada@example.org\nDate: Mon, 3 Mar 2025 10:00:00 +0000\nSubject: Text\n\nA list of text.\n"
    )
    (folder / "old.eml").write_text(
        "From: bob@example.org\nDate: Fri, 3 Mar 2023 10:00:00 +0000\nSubject: File\n\nAn error in a file.\n"
    )
    return folder


@pytest.fixture(scope="module")
def store(folder: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "kb"
    with Index.create(path, embedder) as index:
        index.update(folder)
        index.add_texts(
            ["A loose text about a dict."], metadata=[{"language": "en"}], ids=["loose"]
        )
    return path


@pytest.fixture(scope="module")
def stored(settings: Settings, store: Path) -> Settings:
    return msgspec.structs.replace(settings, store=(StoreSettings(location=str(store)),))


@pytest.fixture(scope="module")
def run(stored: Settings) -> Iterator[Running]:
    with running(stored) as run:
        yield run


@pytest.fixture(scope="module")
def index(store: Path) -> Iterator[Index]:
    with Index.open(store, read_only=True) as index:
        yield index


def plain(hits: Any) -> Any:
    return json.loads(json.dumps([asdict(hit) for hit in hits]))


def found(run: Running, **body: Any) -> Any:
    answer = run.post("/v1/stores/kb/search", {"query": "a list of text", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


# --- Searching ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "own"),
    [
        ("hybrid", "hybrid"),
        ("words", "bm25"),
        ("vectors", "dense"),
        ("bm25", "bm25"),
        ("dense", "dense"),
    ],
)
def test_hits_are_the_librarys(run: Running, index: Index, mode: str, own: Any) -> None:
    for k in (1, 3, 50):
        assert found(run, mode=mode, k=k) == plain(index.search("a list of text", k=k, mode=own))


def store_with_token_models(embedder: Embedder, folder: Path, tmp_path: Path) -> Path:
    """Index a folder with sparse and token vectors; their models are unpacked beside the store."""
    path = tmp_path / "kb"
    sparse = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path), threads=1)
    multi = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path), threads=1)
    with Index.create(path, embedder, sparse=sparse, multi=multi) as made:
        made.update(folder)
    return path


def test_sparse_and_token_vectors_are_searched(
    settings: Settings, embedder: Embedder, folder: Path, tmp_path: Path
) -> None:
    path = store_with_token_models(embedder, folder, tmp_path)
    served = msgspec.structs.replace(settings, store=(StoreSettings(location=str(path)),))
    with running(served) as run, Index.open(path, embedder, read_only=True) as index:
        for mode in ("sparse", "dense+sparse", "dense+bm25+sparse"):
            for options in ({}, {"maxsim": True, "candidates": 9}):
                wanted = index.search("a list of text", k=4, mode=mode, **options)  # type: ignore[arg-type]
                assert found(run, mode=mode, k=4, **options) == plain(wanted)
                assert wanted
        # Its models are served as all others are, and count.
        (library,) = run.server.state.stores.all  # type: ignore[union-attr]
        assert library.index.encoders.loaded() == (None, None)
        models = run.server.state.service.models
        assert {each.name: each.task for each in models.all} == {
            "tiny": "embed",
            "ranker": "rerank",
            "splade-bert": "sparse",
            "colbert": "multi-vector",
        }
        assert models.memory.held == sum(each.loaded.nbytes for each in models.all)


def test_a_stores_model_of_other_settings_is_served_beside_the_one_given(
    settings: Settings, embedder: Embedder, folder: Path, tmp_path: Path
) -> None:
    source = unpacked("splade-bert", tmp_path)
    sparse = SparseEncoder.from_pretrained(source, max_seq_length=12, threads=1)
    least = SparseEncoder.from_pretrained(source, max_active_dims=3, threads=1)
    stores = []
    for name, encoder in (("short", sparse), ("few", least)):
        with Index.create(tmp_path / name, embedder, sparse=encoder) as made:
            made.add_texts(["a list of text"])
        stores.append(StoreSettings(location=str(tmp_path / name)))
    given = ModelSettings(source=str(source), on_demand=True)
    served = msgspec.structs.replace(settings, model=(*settings.model, given), store=tuple(stores))
    found = with_store_models(served).model[len(settings.model) :]
    assert [(each.name, each.max_seq_length) for each in found] == [
        ("splade-bert", None),
        ("splade-bert of short", 12),
    ]


def test_a_stores_models_that_are_served_are_not_loaded_again(
    settings: Settings, embedder: Embedder, folder: Path, tmp_path: Path
) -> None:
    path = store_with_token_models(embedder, folder, tmp_path)
    models = (
        *settings.model,
        ModelSettings(source=str(tmp_path / "splade-bert"), on_demand=True),
        ModelSettings(source=str(tmp_path / "colbert")),
    )
    served = msgspec.structs.replace(
        settings, model=models, store=(StoreSettings(location=str(path)),)
    )
    with running(served) as run, Index.open(path, embedder, read_only=True) as index:
        for options in ({}, {"maxsim": True}):
            wanted = index.search("a list of text", k=4, mode="dense+sparse", **options)  # type: ignore[arg-type]
            assert found(run, mode="dense+sparse", k=4, **options) == plain(wanted)
        (library,) = run.server.state.stores.all  # type: ignore[union-attr]
        assert library.index.encoders.loaded() == (None, None)
        assert [model.status for model in run.server.state.service.models.all] == ["ready"] * 4


@pytest.mark.parametrize("given", [True, False])
def test_a_stores_model_that_does_not_fit_is_not_loaded_past_the_bound(
    given: bool,
    settings: Settings,
    embedder: Embedder,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = store_with_token_models(embedder, folder, tmp_path)
    inner = models_of_the_server.needed_bytes

    def needed(model: ModelSettings) -> int:
        return 10**9 if model.name == "splade-bert" else inner(model)

    monkeypatch.setattr(models_of_the_server, "needed_bytes", needed)
    sparse = ModelSettings(source=str(tmp_path / "splade-bert"), on_demand=True)
    served = msgspec.structs.replace(
        settings,
        model=(*settings.model, sparse) if given else settings.model,
        store=(StoreSettings(location=str(path)),),
        memory=10**8,
    )
    with running(served) as run:
        refused = run.post("/v1/stores/kb/search", {"query": "a list", "mode": "sparse"})
        assert refused.status_code == 503
        assert "splade-bert needs 1000.0 MB" in refused.json()["error"]["message"]
        (library,) = run.server.state.stores.all  # type: ignore[union-attr]
        assert library.index.encoders.loaded() == (None, None)
        assert found(run, mode="words")


def test_reranked_hits_are_the_librarys(
    run: Running, index: Index, cross_encoder: CrossEncoder
) -> None:
    wanted = plain(index.search("a list of text", k=4, ranker=cross_encoder, candidates=8))
    for rerank in (True, "ranker"):
        hits = found(run, k=4, rerank=rerank, candidates=8)
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in wanted]
        assert [hit["score"] for hit in hits] == pytest.approx(
            [hit["score"] for hit in wanted], rel=1e-6
        )
    assert found(run, k=4, rerank="") == found(run, k=4, rerank=True)


@pytest.mark.parametrize(
    "filter",
    [
        "source=a.md",
        ["source=a.md", "start>0"],
        {"source": "a.md"},
        {"field": "source", "operator": "in", "value": ["a.md", "b.txt"]},
        {"or": [{"source": "b.txt"}, {"and": [{"source": "a.md"}, "heading=Dict"]}]},
        {"not": {"source": "guide/long.md"}},
        {"language": "en"},
    ],
)
def test_filters(run: Running, index: Index, filter: Any) -> None:
    wanted = plain(index.search("a list of text", k=50, filter=read_filter(filter)))
    assert found(run, k=50, filter=filter) == wanted
    assert 0 < len(wanted) < len(found(run, k=50))


def test_a_lowest_score(run: Running) -> None:
    hits = found(run, k=50, mode="vectors")
    least = hits[2]["score"]
    assert found(run, k=50, mode="vectors", min_score=least) == [
        hit for hit in hits if hit["score"] >= least
    ]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"query": " "}, "query", "must not be empty"),
        ({"query": "x" * 10_001}, "query", "at most 10000 characters"),
        ({"query": "x", "filter": "nonsense"}, "filter", "must be a field"),
        ({"query": "x", "filter": 5}, "filter", "filter"),
        ({"query": "x", "filter": [5]}, "filter", "got 5"),
        ({"query": "x", "filter": {"page": [1]}}, "filter", "page"),
        (
            {"query": "x", "filter": {"field": "a", "operator": "~", "value": 1}},
            "filter",
            "operator",
        ),
        ({"query": "x", "filter": {"field": 3, "operator": "<", "value": 1}}, "filter", "field"),
        ({"query": "x", "k": 0}, "k", ">= 1"),
        ({"query": "x", "k": 1001}, "k", "<= 1000"),
        ({"query": "x", "mode": "magic"}, "mode", "mode"),
        ({"query": "x", "filters": {}}, None, "filters"),
        ({}, "query", "query"),
        ({"query": "x", "rerank": "nobody"}, "model", "no model is named"),
        ({"query": "x", "mode": "dense+sparse"}, None, "no sparse vectors: add them"),
        ({"query": "x", "maxsim": True}, None, "no token vectors: add them"),
        ({"query": "x", "maxsim": True, "rerank": True}, "maxsim", "either maxsim or rerank"),
    ],
)
def test_a_request_outside_its_rule_is_refused(
    run: Running, body: Any, field: str | None, says: str
) -> None:
    answer = run.post("/v1/stores/kb/search", body)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404)
    assert error["field"] == field
    assert says in error["message"]


def test_filters_nested_too_deeply_are_refused(run: Running) -> None:
    for depth in (30, 30_000):
        content = '{"query":"x","filter":' + "[" * depth + "]" * depth + "}"
        answer = run.client.post("/v1/stores/kb/search", content=content)
        assert answer.status_code == 400, answer.text


def test_half_of_a_surrogate_pair_is_refused(run: Running) -> None:
    answer = run.client.post("/v1/stores/kb/search", content=b'{"query":"\\ud800","mode":"words"}')
    assert answer.status_code == 400


def test_an_unknown_store(run: Running) -> None:
    for path in ("/v1/stores/other", "/v1/stores/other/documents", "/v1/stores/other/passages/x"):
        answer = run.client.get(path)
        assert answer.status_code == 404
        assert "here are kb" in answer.json()["error"]["message"]
    assert run.post("/v1/stores/other/search", {"query": "x"}).status_code == 404


# --- Reading --------------------------------------------------------------------------------------
def test_the_stores_are_listed(run: Running, index: Index, folder: Path) -> None:
    listed = run.client.get("/v1/stores").json()
    assert listed["answers"] is False
    (entry,) = listed["stores"]
    assert entry == run.client.get("/v1/stores/kb").json()
    status = index.status()
    assert (entry["name"], entry["passages"], entry["files"]) == ("kb", status.passages, 5)
    assert entry["folders"][0]["root"] == str(folder)
    assert entry["updated"]


def test_documents_are_listed(run: Running) -> None:
    whole = run.client.get("/v1/stores/kb/documents").json()
    assert [each["source"] for each in whole["documents"]] == [
        "loose",
        "a.md",
        "b.txt",
        "guide/long.md",
        "mail.eml",
        "old.eml",
    ]
    assert whole["total"] == 6
    long = whole["documents"][3]
    assert (long["title"], long["kind"], long["passages"]) == ("Part 0", "md", 12)
    page = run.client.get("/v1/stores/kb/documents?kind=md&offset=1&limit=1").json()
    assert page == {"documents": [long], "total": 2}
    assert run.client.get("/v1/stores/kb/documents?prefix=guide/").json()["total"] == 1
    assert run.client.get("/v1/stores/kb/documents?offset=x").status_code == 400
    assert run.client.get("/v1/stores/kb/documents?other=1").status_code == 400


def test_a_passage_is_read_with_its_neighbors(run: Running) -> None:
    (hit,) = found(run, query="Number 5", mode="words", k=1, filter={"heading": "Part 5"})
    answer = run.client.get(f"/v1/stores/kb/passages/{hit['id']}?before=2&after=1").json()
    assert [each["heading"] for each in answer["passages"]] == [
        "Part 3",
        "Part 4",
        "Part 5",
        "Part 6",
    ]
    assert (answer["first"], answer["total"]) == (3, 12)
    del hit["score"]
    assert answer["passages"][2] == hit
    loose = run.client.get("/v1/stores/kb/passages/loose?before=5&after=5").json()
    assert [each["id"] for each in loose["passages"]] == ["loose"]
    assert run.client.get("/v1/stores/kb/passages/nothing").status_code == 404
    assert run.client.get("/v1/stores/kb/passages/loose?before=-1").status_code == 400


def test_a_part_of_a_document_is_read(run: Running) -> None:
    path = "/v1/stores/kb/document"
    answer = run.client.get(path, params={"source": "guide/long.md", "first": 10}).json()
    assert [each["heading"] for each in answer["passages"]] == ["Part 10", "Part 11"]
    assert (answer["first"], answer["total"]) == (10, 12)
    assert run.client.get(path, params={"source": "../secret"}).status_code == 404
    assert run.client.get(path).status_code == 400
    assert run.client.get(path, params={"source": "loose"}).json()["total"] == 1


# --- Stores that change ---------------------------------------------------------------------------
def test_an_update_by_another_process_is_seen(
    settings: Settings, embedder: Embedder, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("The list of files.")
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(docs)
    served = msgspec.structs.replace(
        settings, store=(StoreSettings(location=str(tmp_path / "kb"), name="mine"),)
    )
    with running(served) as run:

        def sources() -> set[str]:
            body = {"query": "a list", "mode": "words"}
            hits = run.post("/v1/stores/mine/search", body).json()["hits"]
            return {hit["source"] for hit in hits}

        assert sources() == {"a.md"}
        assert run.client.get("/v1/stores/mine/documents").json()["total"] == 1
        (docs / "b.md").write_text("Another list of files.")
        with Index.open(tmp_path / "kb", embedder) as index:  # needs the writer's lock
            index.update(docs)
        assert sources() == {"a.md", "b.md"}
        assert run.client.get("/v1/stores/mine/documents").json()["total"] == 2
        for path in sorted((tmp_path / "kb").iterdir()):
            path.unlink()
        answer = run.post("/v1/stores/mine/search", {"query": "a list", "mode": "words"})
        assert answer.status_code == 500
        assert answer.json()["error"]["message"].endswith("the server's log says why")
        assert str(tmp_path) not in answer.text
        (line,) = [
            json.loads(each) for each in run.log.getvalue().splitlines() if "refusal" in each
        ]
        assert str(tmp_path / "kb") in line["message"]
        assert line["id"] == answer.headers["x-request-id"]
        assert run.post("/embed", {"inputs": "x"}).status_code == 200
        with Index.create(tmp_path / "kb", embedder, passage_tokens=20) as index:
            index.add_texts(["A list once more."])
        assert sources() == {""}


def test_searches_go_on_while_a_store_is_written(
    settings: Settings, embedder: Embedder, tmp_path: Path
) -> None:
    with Index.create(tmp_path / "kb", embedder) as index:
        index.add_texts(["a list of text"], ids=["0"])
        served = msgspec.structs.replace(
            settings, store=(StoreSettings(location=str(tmp_path / "kb")),)
        )
        ended = threading.Event()

        def write() -> None:
            number = 1
            while not ended.is_set():
                index.add_texts([f"a list of {number} texts"], ids=[str(number)])
                number += 1

        with running(served) as run, ThreadPoolExecutor(9) as pool:
            writing = pool.submit(write)

            def search(number: int) -> int:
                body = {
                    "query": "a list",
                    "k": 1000,
                    "mode": ("words", "vectors", "hybrid")[number % 3],
                }
                return len(run.post("/v1/stores/kb/search", body).json()["hits"])

            try:
                counts = list(pool.map(search, range(60)))
            finally:
                ended.set()
            writing.result()
            assert min(counts) >= 1
            assert search(1) == index.store.count()


def test_a_store_that_cannot_be_served(settings: Settings, store: Path, tmp_path: Path) -> None:
    def served(*locations: Path) -> Settings:
        stores = tuple(StoreSettings(location=str(each)) for each in locations)
        return msgspec.structs.replace(settings, store=stores)

    with pytest.raises(StoreError, match="there is none at"):
        check(served(tmp_path / "nothing"))
    other = tmp_path / "kb"
    other.mkdir()
    manifest = json.loads((store / "quaver.json").read_text())
    (other / "quaver.json").write_text(json.dumps({**manifest, "format_version": 2}))
    with pytest.raises(StoreError, match="format version 2"):
        check(served(other))
    with pytest.raises(InputError, match="names of stores must differ"):
        check(served(store, store))


def test_the_model_of_a_store_is_served(
    store: Path, settings: Settings, tmp_path: Path, index: Index
) -> None:
    named = StoreSettings(location=str(store))
    with running(Settings(store=(named,), port=0)) as run:
        assert found(run) == plain(index.search("a list of text"))
        assert len(run.client.get("/v1/models").json()["data"]) == 1
        refused = run.post("/v1/stores/kb/search", {"query": "x", "rerank": True})
        assert refused.status_code == 400
        assert "--rerank" in refused.json()["error"]["message"]
    moved = tmp_path / "kb"
    moved.mkdir()
    for path in store.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    for name in ("quaver.json", "state.json"):
        text = (moved / name).read_text()
        assert name != "quaver.json" or json.loads(text)["model"]
    gone = json.loads((moved / "quaver.json").read_text())
    gone["model"] = str(tmp_path / "gone")
    (moved / "quaver.json").write_text(json.dumps(gone))
    served = StoreSettings(location=str(moved))
    with running(msgspec.structs.replace(settings, store=(served,))) as run:
        assert found(run) == plain(index.search("a list of text"))
        assert set(run.client.get("/readyz").json()["models"]) == {"tiny", "ranker"}
    other = ModelSettings(source=str(write_tiny_model(tmp_path / "other", seed=7)))
    with running(Settings(model=(other,), store=(served,), port=0)) as run:
        answer = run.post("/v1/stores/kb/search", {"query": "x"})
        assert answer.status_code == 503
        assert "made with gone, and no model" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
        assert "name it with --model" in answer.json()["error"]["message"]
        assert found(run, mode="words")


def test_several_stores_keys_and_the_description(
    settings: Settings, store: Path, tmp_path: Path, embedder: Embedder
) -> None:
    with Index.create(tmp_path / "other", embedder) as index:
        index.add_texts(["only here"])
    stores = (
        StoreSettings(location=str(store), name="first"),
        StoreSettings(location=str(tmp_path / "other")),
    )
    with running(msgspec.structs.replace(settings, store=stores, api_keys=("key",))) as run:
        assert run.client.get("/v1/stores").status_code == 401
        assert run.client.get("/v1/stores").json()["error"]["reason"] == "unauthorized"
        run.client.headers["authorization"] = "Bearer key"
        names = [each["name"] for each in run.client.get("/v1/stores").json()["stores"]]
        assert names == ["first", "other"]
        hits = run.post("/v1/stores/other/search", {"query": "here"}).json()["hits"]
        assert [hit["text"] for hit in hits] == ["only here"]
        described = run.client.get("/openapi.json").json()["paths"]
        parameters = described["/v1/stores/{name}/documents"]["get"]["parameters"]
        assert {each["name"]: each["in"] for each in parameters} == {
            "name": "path",
            "prefix": "query",
            "root": "query",
            "kind": "query",
            "offset": "query",
            "limit": "query",
        }
        assert "/v1/stores/{name}/passages/{id}" in described


# --- Asking ---------------------------------------------------------------------------------------
def events_of(answer: httpx.Response) -> list[tuple[str, Any]]:
    events = []
    for block in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((lines["event"], json.loads(lines["data"])))
    return events


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


def test_without_a_language_model_the_prompt_is_shown(run: Running) -> None:
    answer = run.post("/v1/stores/kb/ask", {"question": "a list of text", "k": 3})
    assert answer.headers["content-type"].startswith("text/event-stream")
    (first, passages), (second, prompt), (third, end) = events_of(answer)
    assert (first, second, third) == ("passages", "prompt", "answer")
    assert passages["passages"] == found(run, k=3)
    assert "a list of text" in prompt["prompt"][-1]["content"]
    assert end == {"answer": "", "citations": [], "unknown_citations": []}
    document = run.post(
        "/v1/stores/kb/ask", {"question": "a list of text", "k": 3, "stream": False}
    ).json()
    assert document["passages"] == passages["passages"]
    assert document["prompt"] == prompt["prompt"]
    assert run.post("/v1/stores/kb/ask", {"question": ""}).status_code == 400
    assert run.post("/v1/stores/kb/ask", {"question": "x", "filter": "?"}).status_code == 400


def test_an_answer_is_streamed_with_citations(stored: Settings, chat: ChatServer) -> None:
    settings = msgspec.structs.replace(stored, llm=chat.url, llm_key="secret")
    with running(settings) as run:
        events = events_of(run.post("/v1/stores/kb/ask", {"question": "a list", "k": 2}))
        names = [name for name, _ in events]
        assert (names[:2], names[-1], set(names[2:-1])) == (
            ["passages", "prompt"],
            "answer",
            {"text"},
        )
        assert "".join(data["text"] for name, data in events if name == "text") == "".join(ANSWER)
        assert events[-1][1] == {
            "answer": "".join(ANSWER),
            "citations": [1, 2],
            "unknown_citations": [],
        }
        assert chat.requests[-1][1]["Authorization"] == "Bearer secret"
        asked = len(chat.requests)
        nothing = run.post("/v1/stores/kb/ask", {"question": "x", "filter": "source=none"})
        assert events_of(nothing)[-1] == (
            "answer",
            {"answer": "", "citations": [], "unknown_citations": []},
        )
        assert len(chat.requests) == asked
        assert "secret" not in run.log.getvalue()


@pytest.mark.parametrize(
    "step", ["cut", "empty", "garbage", "error-event", "html", "moved", 401, 500]
)
def test_an_endpoint_that_fails_ends_the_answer_with_an_error(
    stored: Settings, chat: ChatServer, step: Any
) -> None:
    chat.script = [step]
    with running(msgspec.structs.replace(stored, llm=chat.url, llm_model="only")) as run:
        events = events_of(run.post("/v1/stores/kb/ask", {"question": "a list", "k": 2}))
        name, data = events[-1]
        assert (name, data["error"]["reason"]) == ("error", "upstream")
        assert data["error"]["message"]
        document = run.post("/v1/stores/kb/ask", {"question": "a list", "k": 2, "stream": False})
        assert document.status_code == 502


def test_an_endpoint_that_hangs(stored: Settings, chat: ChatServer) -> None:
    chat.script = ["silent"]
    settings = msgspec.structs.replace(stored, llm=chat.url, llm_model="only", llm_timeout=0.2)
    with running(settings) as run:
        (*_, (name, data)) = events_of(run.post("/v1/stores/kb/ask", {"question": "a list"}))
        assert (name, data["error"]["reason"]) == ("error", "upstream")
        assert run.post("/v1/stores/kb/search", {"query": "a list"}).status_code == 200


def test_a_reader_of_an_answer_who_goes_away_frees_its_place(
    stored: Settings, chat: ChatServer
) -> None:
    chat.answer = ["word "] * 100_000
    settings = msgspec.structs.replace(stored, llm=chat.url, llm_model="only")
    with running(settings) as run:
        for _ in range(20):  # more than may ask at once
            body = {"question": "a list", "k": 2}
            with run.client.stream("POST", "/v1/stores/kb/ask", json=body) as answer:
                assert answer.status_code == 200
                for line in answer.iter_lines():
                    if line == "event: text":
                        break
            deadline = time.monotonic() + 30
            while run.server.state.stores._asking._value < _ASKING and time.monotonic() < deadline:
                time.sleep(0.01)
            assert run.server.state.stores._asking._value == _ASKING


@pytest.mark.parametrize("in_time", [True, False])
def test_a_stopping_server_ends_the_answers_that_it_streams(
    stored: Settings, chat: ChatServer, in_time: bool
) -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[str]:
        yield "Boil "
        go_on.wait(60)
        yield "it [1]."

    chat.answer = pieces()
    settings = msgspec.structs.replace(stored, llm=chat.url, llm_model="only")
    if not in_time:
        settings = msgspec.structs.replace(settings, grace=0.2)
    with running(settings) as run:
        server, lines = run.server, []
        body = {"question": "a list", "k": 2}
        try:
            with run.client.stream("POST", "/v1/stores/kb/ask", json=body) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    if line != "event: text" or lines.count(line) > 1:
                        continue
                    assert server._loop is not None
                    server._loop.call_soon_threadsafe(server.begin_to_stop)
                    if in_time:  # it still answers, and says that it stops
                        with httpx.Client(base_url=run.url) as other:
                            while other.get("/readyz").status_code == 200:
                                time.sleep(0.01)
                            assert other.post("/embed", json={"inputs": "x"}).status_code == 503
                        go_on.set()
        except httpx.RemoteProtocolError:
            assert not in_time
        finally:
            go_on.set()
    assert ("event: answer" in lines) == in_time
    assert server.lost == (not in_time)
    assert server.state.in_flight == 0


# --- The library ----------------------------------------------------------------------------------
def test_facets_narrow_down(store: Path, folder: Path) -> None:
    library = Library(store, name="kb")
    facets = {
        facet.name: {each.label: each.passages for each in facet.values}
        for facet in library.catalog().facets
    }
    assert facets["folder"] == {
        f"{folder.name}/guide": 12,
        folder.name: 5,
        "(no folder)": 1,
    }
    assert facets["kind"] == {"md": 14, "eml": 2, "txt": 1, "(other)": 1}
    assert facets["date"] == {"2023": 1, "2025": 1}
    assert facets["from"] == {"ada@example.org": 1, "bob@example.org": 1}
    for facet in library.catalog().facets:
        for each in facet.values:
            chosen = library.narrowed({facet.name: [each.value]})
            assert library.index.store.count(chosen) == each.passages, (facet.name, each.label)
    both = library.narrowed({"kind": ["eml", "txt"], "date": ["2025"]})
    assert library.index.store.count(both) == 1
    assert library.narrowed({}) is None
    with pytest.raises(InputError, match="no passage has kind 'exe'"):
        library.narrowed({"kind": ["exe"]})
    with pytest.raises(InputError, match="no passage has nothing"):
        library.narrowed({"nothing": ["x"]})
    library.close()


# --- Settings -------------------------------------------------------------------------------------
def test_stores_of_flags_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_text('llm = "http://x/v1"\n[[store]]\nlocation = "/kb"\nname = "of file"\n')
    assert read_settings({}, file=file, environ={}).store == (
        StoreSettings(location="/kb", name="of file"),
    )
    environ = {"QUAVER_STORE": "/a/one,two=/b", "QUAVER_LLM_KEY": "secret"}
    settings = read_settings({}, file=file, environ=environ)
    assert [each.name for each in settings.store] == ["one", "two"]
    assert "secret" not in settings.shown()
    settings = read_settings({}, stores=["x=qdrant://h:1/c", "qdrant://h:1/other"], environ={})
    assert [each.name for each in settings.store] == ["x", "other"]
    for flags, says in (
        ({"llm": "http://x"}, "llm has no effect without store"),
        ({"allow_update": True}, "allow_update has no effect without store"),
    ):
        with pytest.raises(InputError, match=says):
            read_settings(flags, environ={})
    with pytest.raises(InputError, match="a store is given as LOCATION or NAME=LOCATION"):
        read_settings({}, stores=["x="], environ={})
