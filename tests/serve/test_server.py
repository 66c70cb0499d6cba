"""The server as a whole: keys, limits, slow clients, overload, probes, metrics and the log."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

import quaver.serve.models as models_of_the_server
from quaver import Embedder, InputError, ModelFolderError, cli
from quaver.serve import (
    ModelSettings,
    Settings,
    check,
    create_app,
    read_settings,
    unknown_variables,
)
from quaver.serve.app import Keys, Log
from quaver.serve.refusal import Refusal
from quaver.serve.server import make_server
from quaver.serve.service import Service
from running_server import Running, running
from tiny_model import write_tiny_model


def changed(settings: Settings, **changes: Any) -> Settings:
    return msgspec.structs.replace(settings, **changes)


def connect(run: Running) -> socket.socket:
    host, port = run.server.addresses[0]
    return socket.create_connection((host, port), timeout=30)


def log_of(run: Running) -> list[Any]:
    return [json.loads(line) for line in run.log.getvalue().splitlines()]


def wait_until(holds: Any) -> None:
    pause = threading.Event()
    while not holds():
        pause.wait(0.01)


# --- Keys -----------------------------------------------------------------------------------------
def test_a_key_of_several_is_needed(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# keys\nsecret-2\n\n  # comment\n\t\n  secret-3 \n")
    with running(changed(settings, api_keys=("secret-1",), api_key_file=str(file))) as run:

        def status(header: str | None, path: str = "/v1/embeddings") -> int:
            headers = {} if header is None else {"authorization": header}
            return run.post(path, {"input": "x", "inputs": "x"}, headers=headers).status_code

        for key in ("secret-1", "secret-2", "secret-3"):
            assert status(f"Bearer {key}") == status(f"bearer  {key}") == status(key) == 200
        for wrong in (None, "", "Bearer", "Bearer secret", "Basic secret-1", "# keys", "# comment"):
            assert status(wrong) == 401, wrong
        assert (
            run.post("/v1/embeddings", {"input": "x"}).json()["error"]["code"] == "invalid_api_key"
        )
        refused = run.post("/embed", {"inputs": "x"})
        assert (refused.status_code, refused.content) == (401, b"")
        assert refused.headers["www-authenticate"] == 'Bearer realm="Quaver"'
        assert run.post("/v2/embed", {"texts": ["x"]}).json()["message"]
        assert run.client.get("/v1/models").status_code == 401
        for path in ("/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs"):
            assert run.client.get(path).status_code == 200
        assert "secret" not in run.log.getvalue()
        assert "security" in run.client.get("/openapi.json").json()["paths"]["/embed"]["post"]


@pytest.mark.parametrize("given", ["secret,", ",secret", ",", " ", "a,,b"])
def test_an_empty_key_is_refused(settings: Settings, given: str) -> None:
    keys = read_settings({}, models=["x"], environ={"QUAVER_API_KEYS": given}).api_keys
    for refused in (keys, ("",), ("a", " ")):
        wrong = changed(settings, api_keys=refused)
        with pytest.raises(InputError, match=r"api_keys\[\d\] is empty; remove the empty entry"):
            check(wrong)
        with pytest.raises(InputError, match="must not be empty"):
            create_app(wrong)
    with pytest.raises(InputError, match="has spaces around it"):
        check(changed(settings, api_keys=("secret ",)))


def test_a_key_that_clients_cannot_send_is_refused(settings: Settings, tmp_path: Path) -> None:
    for key in ("schl\u00fcssel", "a\tb", "\u043a\u043b\u044e\u0447"):
        with pytest.raises(
            InputError, match=r"printable ASCII.*: api_keys\[1\] has another"
        ) as told:
            check(changed(settings, api_keys=("a", key)))
        assert key not in str(told.value)
        file = tmp_path / "keys"
        file.write_text(f"# keys\na b\n{key}\n", encoding="utf-8")
        with pytest.raises(
            InputError, match=r"key 2 of .*keys has another one; make a new key"
        ) as told:
            check(changed(settings, api_key_file=str(file)))
        assert key not in str(told.value)


def test_a_header_without_a_key_matches_none() -> None:
    keys = Keys([""])
    for header in (None, "", "Bearer", "Bearer ", "Basic", "Basic Og=="):
        with pytest.raises(Refusal):
            keys.check(header)


def test_cors_is_off_unless_asked_for(server: Running, settings: Settings) -> None:
    ask = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.client.options("/embed", headers=ask).headers
    with running(changed(settings, cors=("https://example.org",))) as run:
        allowed = run.client.options("/embed", headers=ask)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"


# --- Ways to listen -------------------------------------------------------------------------------
def test_a_unix_socket(settings: Settings, tmp_path: Path, embedder: Embedder) -> None:
    path = tmp_path / "socket"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))  # as a killed server leaves it
    stale.close()
    server_settings = changed(settings, unix_socket=str(path))
    with running(server_settings, unix_socket=path) as run:
        found = run.post("/embed", {"inputs": "Paris"}).json()
        assert np.array_equal(np.float32(found[0]), embedder.encode("Paris"))


def test_a_live_unix_socket_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    own = changed(settings, unix_socket=str(path))
    with running(own, unix_socket=path) as run:
        with pytest.raises(InputError, match=f"another server answers on {path}: end it first"):
            make_server(own, log=Log(io.StringIO()))
        check(own)  # a check before a restart
        assert run.post("/embed", {"inputs": "Paris"}).is_success
    assert not path.exists()
    path.write_text("no socket")
    with pytest.raises(InputError, match="is no socket; remove it"):
        make_server(own, log=Log(io.StringIO()))
    assert path.read_text() == "no socket"


def test_a_socket_that_another_server_made_stays(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        running(changed(settings, unix_socket=str(path)), unix_socket=path),
        socket.socket(socket.AF_UNIX) as other,
    ):
        path.rename(tmp_path / "before")
        other.bind(str(path))
    assert path.exists()


def test_a_port_has_no_effect_with_a_socket() -> None:
    for flags, environ in (
        ({"unix_socket": "s", "port": 80}, {}),
        ({"unix_socket": "s", "host": "::1"}, {}),
        ({"port": 80}, {"QUAVER_UNIX_SOCKET": "s"}),
        ({}, {"QUAVER_UNIX_SOCKET": "s", "QUAVER_PORT": "80"}),
    ):
        with pytest.raises(InputError, match="has no effect with unix_socket"):
            read_settings(flags, models=["x"], environ=environ)
    # As in a container, whose environment has a port.
    environ = {"QUAVER_PORT": "80", "QUAVER_HOST": "0.0.0.0"}
    assert read_settings({"unix_socket": "s"}, models=["x"], environ=environ).unix_socket == "s"


def test_the_help_has_the_defaults_of_the_limits() -> None:
    shown = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "500"}).output
    settings = Settings()
    for name, default in (
        ("max_inputs", "2048"),
        ("queue_requests", "512"),
        ("queue_inputs", "16384"),
        ("queue_tokens", "2000000"),
        ("batch_tokens", "16384"),
        ("max_body", "8MB"),
        ("queue_bytes", "256MB"),
        ("answer_bytes", "256MB"),
        ("queue_time", "30s"),
        ("batch_time", "40ms"),
        ("timeout", "60s"),
        ("grace", "30s"),
    ):
        given = read_settings({name: default}, models=["x"], environ={})
        assert getattr(given, name) == getattr(settings, name)
        (line,) = [each for each in shown.splitlines() if f"--{name.replace('_', '-')} " in each]
        assert f"default: {default}" in line, line


# --- Failures that nobody expected ----------------------------------------------------------------
@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank"])
@pytest.mark.parametrize("odd", ["9" * 30, "[" * 300 + "]" * 300, '{"a":' * 253 + "1" + "}" * 253])
def test_a_document_comes_back_as_it_was_sent(server: Running, path: str, odd: str) -> None:
    document = '{"text": "Paris", "odd": ' + odd + "}"
    body = '{"query": "x", "documents": [' + document + '], "return_documents": true}'
    answer = server.client.post(path, content=body.encode())
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["document"] == json.loads(document)


def test_every_depth_of_a_document_is_answered_or_refused(server: Running) -> None:
    for depth in (*range(240, 270), *range(400, 900, 50), *range(900, 1000)):
        nested = "[" * depth + "]" * depth
        for option in ('"return_documents": true', '"rank_fields": ["odd"]'):
            body = '{"query": "x", "documents": [{"text": "a", "odd": ' + nested + "}], " + option
            answer = server.client.post("/v2/rerank", content=f"{body}}}".encode())
            assert answer.status_code in (200, 400), (depth, answer.text)
            assert answer.status_code == 200 or set(answer.json()) == {"id", "message"}


def test_an_unexpected_failure_has_the_dialects_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a secret text")

    monkeypatch.setattr(Service, "check_count", fail)
    with running(settings) as run:
        for path, body, status, keys in (
            ("/v1/embeddings", {"input": "x"}, 500, {"error"}),
            ("/v2/embed", {"texts": ["x"]}, 500, {"id", "message"}),
            ("/api/embed", {"model": "tiny", "input": "x"}, 500, {"error"}),
            ("/embed", {"inputs": "x"}, 424, {"error", "error_type"}),
        ):
            answer = run.post(path, body, headers={"x-request-id": "mine"})
            assert (answer.status_code, set(answer.json())) == (status, keys)
            assert answer.headers["x-request-id"] == "mine"
            assert "secret" not in answer.text
            counted = f'route="{path}",status="{status}"}} 1.0'
            assert counted in run.client.get("/metrics").text
    lines = [line for line in log_of(run) if line["event"] in ("exception", "request")]
    assert [line["event"] for line in lines] == ["exception", "request"] * 4
    assert {(line["id"], line.get("kind"), line.get("reason")) for line in lines} == {
        ("mine", "RuntimeError", None),
        ("mine", None, "failed"),
    }
    assert "secret" not in run.log.getvalue()


def test_no_path_and_no_method_have_the_dialects_answer(server: Running) -> None:
    for method, path, status in (
        ("GET", "/api/embed", 405),
        ("GET", "/api/none", 404),
        ("DELETE", "/v2/rerank", 405),
        ("GET", "/v2/none", 404),
        ("GET", "/v1/embeddings", 405),
        ("GET", "/v1/none", 404),
        ("GET", "/embed", 405),
        ("GET", "/none", 404),
    ):
        answer = server.client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["x-request-id"]
        if status == 405:
            assert answer.headers["allow"] == "POST"
            assert f"{path} takes POST: got {method}" in answer.text
        if path == "/embed":
            continue  # TEI answers in plain text
        body = answer.json()
        if path.startswith("/api"):
            assert isinstance(body["error"], str)
        elif path.startswith("/v2"):
            assert isinstance(body["message"], str)
        else:
            assert isinstance(body["error"]["message"], str)


@pytest.mark.parametrize(
    "path", ["/v1/embeddings/", "/v2/rerank/", "/api/embed/", "/embed/", "/livez/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_slash_at_the_end_is_another_path(server: Running, path: str, method: str) -> None:
    lines = len(log_of(server))
    answer = server.client.request(method, path, headers={"host": "evil.example"})
    assert answer.status_code == 404
    assert "there is no path" in answer.text
    assert "evil.example" not in f"{answer.headers}{answer.text}"
    assert len(answer.headers["x-request-id"]) == 32
    (line,) = log_of(server)[lines:]
    assert (line["event"], line["status"], line["reason"]) == ("request", 404, "no path")


def test_answers_without_a_route_are_logged_and_counted(settings: Settings) -> None:
    with running(settings) as run:
        run.client.get("/api/none?secret")
        run.client.get("/api/secret")
        run.client.delete("/v2/rerank")
        text = run.client.get("/metrics").text
        lines = [line for line in log_of(run) if line["event"] == "request"]
    assert [(line["status"], line["route"]) for line in lines] == [
        (404, ""),
        (404, ""),
        (405, "/v2/rerank"),
    ]
    assert 'quaver_requests_total{dialect="ollama",route="",status="404"} 2.0' in text
    assert 'quaver_requests_total{dialect="cohere",route="/v2/rerank",status="405"} 1.0' in text
    assert "secret" not in run.log.getvalue()


def test_a_compressed_body_is_refused(server: Running) -> None:
    for path in ("/embed", "/v1/embeddings", "/v2/embed", "/api/embed"):
        answer = server.client.post(
            path, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}
        )
        assert answer.status_code == 415
        assert "send it uncompressed" in answer.text
    plain = {"content-encoding": "identity"}
    assert server.post("/embed", {"inputs": "x"}, headers=plain).is_success


# --- Probes, metrics, the description -------------------------------------------------------------
def test_metrics_count_what_happened(settings: Settings) -> None:
    with running(settings) as run:
        run.post("/embed", {"inputs": ["a", "b"]})
        run.post("/embed", {"inputs": 5})
        text = run.client.get("/metrics").text
    assert 'quaver_requests_total{dialect="tei",route="/embed",status="200"} 1.0' in text
    assert 'quaver_requests_total{dialect="tei",route="/embed",status="422"} 1.0' in text
    assert 'quaver_inputs_total{model="tiny"} 2.0' in text
    assert "quaver_queue_requests 0.0" in text
    assert "quaver_batch_inputs_total 2.0" in text


def test_the_description_names_every_route(server: Running) -> None:
    description = server.client.get("/openapi.json").json()
    assert description["openapi"] == "3.1.0"
    assert {"/embed", "/v1/embeddings", "/v2/rerank", "/api/embed", "/readyz"} <= set(
        description["paths"]
    )
    page = server.client.get("/docs")
    assert "POST /v1/embeddings" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "Attributes:" not in server.client.get("/openapi.json").text + page.text
    fields = description["components"]["schemas"]["SimilarityParameters"]["properties"]
    assert fields["truncate"]["description"] == "false refuses a text that is too long."
    assert "<td>false refuses a text that is too long." in page.text
    assert "list of <a href='#Rank'>Rank</a>" not in page.text  # an answer, not a body


def test_a_field_outside_its_type_is_named_in_words(server: Running) -> None:
    for path, body, says in (
        ("/embed", {"inputs": 5}, "inputs must be a text or a list: got 5"),
        ("/embed", {}, "the body must have inputs: got {}"),
        ("/embed", [], "the body must be"),
        ("/v2/embed", {}, "the body must have texts or inputs: got neither"),
        ("/v2/embed", {"texts": ["x"], "inputs": []}, "got both"),
        (
            "/v2/embed",
            {"texts": ["x"], "output_dimension": 65},
            "output_dimension must be from 1 to 64, the size of tiny's",
        ),
        (
            "/v1/embeddings",
            {"input": "x", "dimensions": 65},
            "dimensions must be from 1 to 64, the size of tiny's",
        ),
        ("/v1/embeddings", {"input": [2**31 - 1]}, "token ids of tiny go"),
        ("/", {"inputs": "x", "dimensions": "3"}, "dimensions must be a whole number: got '3'"),
        (
            "/v1/embeddings",
            {"input": "x", "encoding_format": "hex"},
            "encoding_format must be one of ",
        ),
    ):
        answer = server.post(path, body)
        assert answer.status_code in (400, 422)
        assert says in answer.text.replace("\\", ""), answer.text
        assert "Expected" not in answer.text


def test_requests_have_ids_and_the_log_no_text(settings: Settings) -> None:
    with running(settings) as run:
        secret = "a very secret text"
        named = run.post("/embed", {"inputs": secret}, headers={"x-request-id": "mine-1"})
        assert named.headers["x-request-id"] == "mine-1"
        odd = run.post("/embed", {"inputs": secret}, headers={"x-request-id": 'a"b c'})
        assert len(odd.headers["x-request-id"]) == 32
        run.post("/embed", {"inputs": secret, "prompt_name": secret})
        run.post("/v1/embeddings", {"input": secret, "model": secret})
        run.post("/v1/embeddings", {"input": secret, "encoding_format": secret})
    lines = [json.loads(line) for line in run.log.getvalue().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 200, 422, 404, 400]
    assert requests[0]["id"] == "mine-1"
    assert "secret" not in run.log.getvalue()


# --- Models ---------------------------------------------------------------------------------------
def test_a_model_that_does_not_load_leaves_the_others(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    broken = ModelSettings(source=str(tmp_path / "broken"), name="broken")
    with running(changed(settings, model=(*settings.model, broken))) as run:
        assert run.post("/embed", {"inputs": "x"}).status_code == 200
        ready = run.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["models"]["broken"] == "failed"
        answer = run.post("/v1/embeddings", {"input": "x", "model": "broken"})
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert "the server's log says why" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
        assert "config.json" in run.log.getvalue()


def test_a_model_that_fails_on_demand_is_logged(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    broken = ModelSettings(source=str(tmp_path / "broken"), name="broken", on_demand=True)
    with running(changed(settings, model=(*settings.model, broken))) as run:
        answer = run.post("/api/embed", {"model": "broken", "input": "x"})
        assert answer.status_code == 503
        assert str(tmp_path) not in answer.text
    (line,) = [each for each in log_of(run) if each.get("model") == "broken"]
    assert line["status"] == "failed"
    assert str(tmp_path) in line["error"]


def test_a_model_is_loaded_on_demand_and_unloaded_when_idle(
    settings: Settings, tiny_folder: Path, embedder: Embedder
) -> None:
    late = ModelSettings(source=str(tiny_folder), name="late", on_demand=True)
    with running(changed(settings, model=(*settings.model, late), idle_unload=0.2)) as run:

        def status() -> Any:
            return run.client.get("/readyz").json()["models"]["late"]

        for _ in range(2):
            wait_until(lambda: status() == "unloaded")
            found = run.post("/v1/embeddings", {"input": "Paris", "model": "late"}).json()
            vector = np.float32(found["data"][0]["embedding"])
            assert np.array_equal(vector, embedder.encode("Paris"))


class SlowLoads:
    """Models that load only when they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hold up every load of a model on demand."""
        self.may = {"late": threading.Event(), "later": threading.Event()}
        self.begun: list[str] = []

        def slow(settings: ModelSettings) -> None:
            if settings.name in self.may:
                self.begun.append(settings.name)
                assert self.may[settings.name].wait(60)

        monkeypatch.setattr(models_of_the_server, "_fetch", slow)


def test_waiting_for_a_model_has_limits(
    settings: Settings, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request ends after --timeout while loading goes on; another model's load is not held up."""
    slow = SlowLoads(monkeypatch)
    late, later = (
        ModelSettings(source=str(tiny_folder), name=name, on_demand=True)
        for name in ("late", "later")
    )
    few = changed(settings, model=(*settings.model, late, later), timeout=2, queue_requests=2)
    with running(few) as run, ThreadPoolExecutor(2) as pool:
        scheduler = run.server.state.service.scheduler

        def ask(name: str) -> Any:
            return run.post("/v1/embeddings", {"input": "Paris", "model": name})

        asked = [pool.submit(ask, "late") for _ in range(2)]
        wait_until(lambda: scheduler.waiting.requests == 2)
        assert ask("tiny").status_code == 429
        for each in asked:
            answer = each.result()
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "still being loaded" in answer.json()["error"]["message"]
        assert scheduler.waiting.requests == 0
        slow.may["later"].set()
        wait_until(lambda: ask("later").status_code == 200)
        assert run.client.get("/readyz").json()["models"]["late"] == "loading"
        body = json.dumps({"input": "x", "model": "late"}).encode()
        with connect(run) as client:
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            wait_until(lambda: scheduler.waiting.requests == 1)
        wait_until(lambda: scheduler.waiting.requests == 0)
        slow.may["late"].set()
        wait_until(lambda: ask("late").status_code == 200)
        assert slow.begun == ["late", "later"]


def test_models_begin_to_load_before_there_is_a_loop(
    settings: Settings, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = write_tiny_model(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    others = (
        ModelSettings(source=str(broken), name="broken"),
        ModelSettings(source=str(tiny_folder), name="late", on_demand=True),
        ModelSettings(source="hub/model", name="of the hub", local_files_only=True),
    )
    opened: list[str] = []
    inner = models_of_the_server._open

    def count(settings: ModelSettings, threads: int | None) -> Any:
        opened.append(settings.name)
        return inner(settings, threads)

    monkeypatch.setattr(models_of_the_server, "_open", count)
    models = models_of_the_server.Models.of(changed(settings, model=(*settings.model, *others)))
    models.begin_early()
    wait_until(lambda: len(opened) == 3)
    asyncio.run(models.load_all(lambda model: None))
    models.close()
    assert sorted(opened) == ["broken", "ranker", "tiny"]
    statuses = {model.name: model.status for model in models.all}
    assert statuses == {
        "tiny": "ready",
        "ranker": "ready",
        "broken": "failed",
        "late": "unloaded",
        "of the hub": "failed",
    }
    assert all(model.load_seconds > 0 for model in models.all if model.loaded)
    bounded = models_of_the_server.Models.of(changed(settings, memory=1))
    bounded.begin_early()
    bounded.close()
    assert len(opened) == 3


def test_a_stopping_server_waits_for_a_model_that_is_read(
    settings: Settings, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Native code on another thread would crash while the process is taken down."""
    late = ModelSettings(source=str(tiny_folder), name="late", on_demand=True)
    begun, may, done = (threading.Event() for _ in range(3))
    inner = models_of_the_server._open

    def slow(settings: ModelSettings, threads: int | None) -> Any:
        if settings.name == "late":
            begun.set()
            assert may.wait(60)
        loaded = inner(settings, threads)
        if settings.name == "late":
            done.set()
        return loaded

    monkeypatch.setattr(models_of_the_server, "_open", slow)
    once = changed(settings, model=(*settings.model, late), grace=0.1)
    with running(once) as run, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(run.post, "/v1/embeddings", {"input": "x", "model": "late"})
        assert begun.wait(60)
        run.server._loop.call_soon_threadsafe(run.server.begin_to_stop)
        assert asked.result().status_code == 503
        assert not done.is_set()
        may.set()
    assert done.is_set()


def test_a_stopping_server_does_not_wait_for_a_download(
    settings: Settings, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowLoads(monkeypatch)
    late = ModelSettings(source=str(tiny_folder), name="late", on_demand=True)
    once = changed(settings, model=(*settings.model, late), grace=0.1)
    with running(once) as run, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(run.post, "/v1/embeddings", {"input": "x", "model": "late"})
        wait_until(lambda: slow.begun == ["late"])
        run.server._loop.call_soon_threadsafe(run.server.begin_to_stop)
        assert asked.result().status_code == 503
        assert run.server.lost == 1
    slow.may["late"].set()


def test_an_embedding_model_can_rerank(settings: Settings, tiny_folder: Path) -> None:
    from quaver import BiEncoderRanker

    model = ModelSettings(source=str(tiny_folder), name="both", task="rerank")
    documents = ["some text", "a query", "another list"]
    expected = BiEncoderRanker.from_pretrained(tiny_folder).rank("query", documents)
    with running(changed(settings, model=(model,))) as run:
        found = run.post("/rerank", {"query": "query", "texts": documents}).json()
    assert [(each["index"], np.float32(each["score"])) for each in found] == [
        (each.index, np.float32(each.score)) for each in expected
    ]


def test_an_embedding_model_that_reranks_cuts_documents_as_asked(
    settings: Settings, tiny_folder: Path, embedder: Embedder
) -> None:
    model = ModelSettings(source=str(tiny_folder), name="both", task="rerank")
    long = " ".join(f"w{i}" for i in range(300))
    with running(changed(settings, model=(model,))) as run:
        query = embedder.encode_query("query")
        for keep, direction in (("start", "Right"), ("end", "Left")):
            batch = embedder.tokenizer.encode(["passage: " + long], keep=keep)
            expected = embedder.similarity(query, embedder.encode_ids(batch.ids, batch.offsets))[0]
            (found,) = run.post(
                "/rerank", {"query": "query", "texts": [long], "truncation_direction": direction}
            ).json()
            assert np.float32(found["score"]) == expected
        body = {"query": "query", "documents": [long], "max_tokens_per_doc": 9}
        (found,) = run.post("/v2/rerank", body).json()["results"]
        batch = embedder.tokenizer.encode(["passage: " + long], longest=11)
        expected = embedder.similarity(query, embedder.encode_ids(batch.ids, batch.offsets))[0]
        assert np.float32(found["relevance_score"]) == expected
        refused = run.post("/rerank", {"query": "query", "texts": [long], "truncate": False})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")


# --- Slow and hostile clients ---------------------------------------------------------------------
def test_clients_that_do_not_finish_are_cut_off(settings: Settings) -> None:
    with running(changed(settings, header_timeout=0.5, body_timeout=0.5)) as run:
        silent, dripping, half, endless = (connect(run) for _ in range(4))
        dripping.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\n")
        half.sendall(b'POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"inputs": "x')
        endless.sendall(b"GET / HTTP/1.1\r\n" + b"X-Padding: " + b"x" * 70_000)
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    dripping.sendall(b"X: y\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            for client in (silent, endless, dripping):
                with client, suppress(ConnectionError):
                    assert client.recv(1000) == b""
            with half:
                assert half.recv(1000).startswith(b"HTTP/1.1 408")
        finally:
            stop.set()
            thread.join()
        assert run.post("/embed", {"inputs": "x"}).status_code == 200


def test_a_large_body_is_refused_before_it_is_read(server: Running) -> None:
    with connect(server) as client:
        client.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413")

    def pieces() -> Any:
        for _ in range(10_000):
            yield b"x" * 10_000

    # Such clients read nothing before they have sent everything.
    for content in (b"x" * 100_000_000, pieces()):
        answer = server.client.post("/embed", content=content)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
    assert server.post("/embed", {"inputs": "x"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/embed", 413), ("/v1/none", 404), ("/openapi.json", 405)]
)
def test_a_client_sees_the_answer_before_its_body_is_sent(
    server: Running, path: str, status: int
) -> None:
    """For any answer that does not wait for the body, also of a client that closes after one request."""
    size = 20_000_000
    for extra in ("", "Connection: close\r\n"):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{extra}\r\n"
        with connect(server) as client:
            client.sendall(head.encode())
            for _ in range(size // 100_000):
                client.sendall(b"x" * 100_000)
            assert client.recv(10_000).startswith(b"HTTP/1.1 %d" % status)


def test_a_client_that_waits_to_send_its_body_need_not(server: Running) -> None:
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with connect(server) as client:
        client.sendall(head % 100_000_000)
        answer = b"".join(iter(lambda: client.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 413")
    with connect(server) as client:
        client.sendall(head % 15)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b'{"inputs": "x"}')
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
        b"POST /v1/none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n{",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
@pytest.mark.parametrize("more", [b"", b"\r\n", b"x" * 10])
def test_a_client_that_stops_after_its_answer_is_cut_off(
    hurried: Running, sent: bytes, more: bytes
) -> None:
    with connect(hurried) as client:
        client.sendall(sent)
        assert client.recv(10_000)
        with suppress(ConnectionError):
            client.sendall(more)
            while client.recv(1000):
                pass


@pytest.fixture(scope="module")
def hurried(settings: Settings) -> Iterator[Running]:
    with running(changed(settings, header_timeout=0.3, body_timeout=0.3)) as run:
        yield run


def test_a_connection_goes_on_after_a_body_that_was_not_read(hurried: Running) -> None:
    body = b'{"inputs": "x"}'
    head = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with connect(hurried) as client:
        for path, status in ((b"v1/none", 404), (b"embed", 200), (b"v1/none", 404)):
            client.sendall(head % (path, len(body)) + body)
            assert client.recv(10_000).startswith(b"HTTP/1.1 %d" % status)
        assert client.recv(1) == b""  # idle


def test_waiting_bodies_have_a_bound(settings: Settings) -> None:
    with running(changed(settings, queue_bytes=100_000)) as run:
        bodies = run.server.state.service.bodies
        head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        with connect(run) as large, connect(run) as other:
            large.sendall(head + b"x" * 90_000)
            wait_until(lambda: bodies.held == 90_000)
            assert "quaver_queue_bytes 90000.0" in run.client.get("/metrics").text
            assert run.post("/embed", {"inputs": "x"}).status_code == 200
            other.sendall(head + b"x" * 20_000)
            answer = other.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"\r\nretry-after: 1\r\n" in answer
            large.sendall(b"x" * 810_000)  # alone, it may have more
            assert large.recv(10_000).startswith(b"HTTP/1.1 400")
        wait_until(lambda: bodies.held == 0)
        assert "quaver_refused_requests_total 1.0" in run.client.get("/metrics").text


def unread(run: Running, count: int) -> socket.socket:
    """Ask for a vector of each token of `count` texts, about 60 KB of JSON each, and read nothing."""
    body = json.dumps({"inputs": ["word " * 62] * count}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(tuple(run.server.addresses[0]))
    head = b"POST /embed_all HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    client.sendall(head % len(body) + body)
    return client


def test_unread_answers_have_a_bound(settings: Settings) -> None:
    larger = changed(settings, max_inputs=2048, answer_bytes=60_000_000)
    with running(larger) as run:
        answers, scheduler = run.server.state.service.answers, run.server.state.service.scheduler
        clients = [unread(run, 400), unread(run, 300)]
        # They are computed, but not sent: the kernel takes a few megabytes of each.
        wait_until(lambda: scheduler.counts.shared >= 698 and not scheduler.waiting.requests)
        wait_until(lambda: run.server.state.in_flight == 0)
        assert 15_000_000 < answers.held < 60_000_000
        assert "quaver_answer_bytes 0.0" not in run.client.get("/metrics").text
        batches = scheduler.counts.batches
        large = run.post("/embed_all", {"inputs": ["other words " * 30] * 800})
        assert (large.status_code, large.headers["retry-after"]) == (429, "1")
        assert large.json()["error_type"] == "Overloaded"
        assert scheduler.counts.batches == batches  # refused before anything is computed
        assert "quaver_refused_requests_total 1.0" in run.client.get("/metrics").text
        for _ in range(3):
            assert run.post("/embed", {"inputs": "a query"}).status_code == 200
        assert run.client.get("/livez").status_code == 200
        for client in clients:
            client.close()
        wait_until(lambda: answers.held == 0)
        assert run.post("/embed_all", {"inputs": ["other words " * 30] * 800}).status_code == 200
        assert answers._large == 0


def test_a_client_that_does_not_read_is_cut_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = threading.Event()
    monkeypatch.setattr("quaver.serve.app.give_back_memory", given_back.set)
    monkeypatch.setattr("quaver.serve.app._GIVE_BACK_SECONDS", 0.05)
    monkeypatch.setattr("quaver.serve.app._GIVE_BACK_BYTES", 10_000_000)
    with running(changed(settings, max_inputs=2048, body_timeout=0.3)) as run:
        answers = run.server.state.service.answers
        with unread(run, 400) as client:
            wait_until(lambda: answers.freed > 0 and answers.held == 0)
            assert given_back.wait(60)
            received = 0
            with suppress(ConnectionError):
                while part := client.recv(2**20):
                    received += len(part)
            assert received < 20_000_000  # of 24
        wait_until(lambda: not run.server.server_state.tasks)
    assert not [line for line in log_of(run) if line["event"] == "exception"]


def test_a_stopping_server_counts_the_answers_that_nobody_read(settings: Settings) -> None:
    with running(changed(settings, max_inputs=2048, grace=0.2)) as run:
        state = run.server.state
        clients = [unread(run, 400) for _ in range(3)]
        wait_until(lambda: sum(each.unread for each in run.server.server_state.connections) == 3)
    for client in clients:
        client.close()
    assert (run.server.unread, run.server.lost, state.service.answers.held) == (3, 0, 0)
    assert not [line for line in log_of(run) if line["event"] in ("exception", "message")]


def test_too_many_connections_are_closed(settings: Settings) -> None:
    with running(changed(settings, max_connections=5)) as run:
        clients = [connect(run) for _ in range(5)]
        with connect(run) as sixth, suppress(ConnectionError):
            assert sixth.recv(10) == b""
        for client in clients:
            client.close()
        wait_until(lambda: not run.server.server_state.connections)
        assert run.client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /embed HTTP/9.9\r\n\r\n",
        b"POST /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::bad HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_broken_http_does_no_harm(server: Running, sent: bytes) -> None:
    with connect(server) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            assert b" 500 " not in client.recv(1000)
    assert server.post("/embed", {"inputs": "x"}).status_code == 200


_OFFERS = (
    # curl --http2, and Java's HttpClient as it is by default
    b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    b"Content-Length: 21\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 21\r\n"
    b"Host: 127.0.0.1:8080\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.13\r\nContent-Type: application/json\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
)


@pytest.mark.parametrize("head", _OFFERS, ids=["curl", "java", "websocket"])
@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(
    server: Running, head: bytes, at_once: int
) -> None:
    body = b'{"input":"some text"}'
    chunked = b"15\r\n%s\r\n0\r\n\r\n" % body
    request = head + (chunked if b"chunked" in head else body)
    lines = len(log_of(server))
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = request * 2 + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        for start in range(0, len(sent), at_once):
            client.sendall(sent[start : start + at_once])
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 3, answers
    assert answers.count(b'"total_tokens"') == 2
    assert {line["event"] for line in log_of(server)[lines:]} == {"request"}


def test_the_server_is_no_proxy(server: Running) -> None:
    for sent in (
        b"CONNECT /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\n\r\n",
    ):
        with connect(server) as client, suppress(ConnectionError):
            client.sendall(sent)
            answer = client.recv(10_000)
            assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405")), answer


# --- Load -----------------------------------------------------------------------------------------
def test_overload_gives_right_answers_or_429(settings: Settings, embedder: Embedder) -> None:
    texts = [f"text {i} of many" for i in range(200)]
    expected = embedder.encode(texts)
    small = changed(settings, queue_requests=4, queue_inputs=60)
    with running(small) as run, ThreadPoolExecutor(24) as pool:
        lane = run.server.state.service.models.all[0].loaded.lane
        compute, pause = lane.compute, threading.Event()

        def slow(batch: Any) -> Any:
            pause.wait(0.01)  # slower than 24 clients, on any machine
            return compute(batch)

        lane.compute = slow

        def ask(i: int) -> int:
            rows = [(i * 7 + k) % 200 for k in range(20)]
            answer = run.post("/embed", {"inputs": [texts[row] for row in rows]})
            if answer.status_code == 200:
                assert np.array_equal(np.float32(answer.json()), expected[rows])
            else:
                assert answer.json() == {
                    "error": "Model is overloaded",
                    "error_type": "Overloaded",
                }
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        statuses = list(pool.map(ask, range(400)))
        assert set(statuses) == {200, 429}
        waiting = run.server.state.service.scheduler.waiting
        assert (waiting.requests, waiting.inputs, waiting.tokens) == (0, 0, 0)


def gated(run: Running, model: int = 0) -> tuple[threading.Event, threading.Event]:
    """Let a model's engine wait, and tell that it does; return what opens it, and what it tells."""
    lane = run.server.state.service.models.all[model].loaded.lane
    compute, opened, entered = lane.compute, threading.Event(), threading.Event()

    def wait(batch: Any) -> Any:
        entered.set()
        assert opened.wait(60)
        return compute(batch)

    lane.compute = wait
    return opened, entered


def test_queries_are_answered_beside_a_bulk_request_that_takes_long(
    settings: Settings, embedder: Embedder
) -> None:
    """A request of 2,048 texts streams through, and shuts nobody out but others of its kind."""
    texts = [f"the text {i} is one of many that are asked for at once" for i in range(2048)]
    queries = [f"query {i}" for i in range(12)]
    larger = changed(settings, max_inputs=2048, batch_tokens=256)
    with running(larger) as run, ThreadPoolExecutor(16) as pool:
        scheduler = run.server.state.service.scheduler
        lane = run.server.state.service.models.all[0].loaded.lane
        opened, entered = gated(run)
        try:
            ended: list[str] = []

            def ask(name: str, given: list[str]) -> httpx.Response:
                answer = run.post("/embed", {"inputs": given})
                ended.append(name)
                return answer

            bulk = pool.submit(ask, "bulk", texts)
            assert entered.wait(60)
            lane.rate = 20.0  # all of them would take half an hour
            asked = [pool.submit(ask, "query", [query]) for query in queries]
            wait_until(lambda: scheduler.waiting.requests == 13 or any(map(Future.done, asked)))
            refused = run.post("/v1/embeddings", {"input": texts[1000:]})
            assert refused.status_code == 429
            assert "may wait about 30 s" in refused.json()["error"]["message"]
            assert refused.headers["retry-after"] == "60"
        finally:
            opened.set()
        for query, each in zip(queries, asked, strict=True):
            assert each.result().status_code == 200
            assert np.array_equal(np.float32(each.result().json()[0]), embedder.encode(query))
        assert bulk.result().status_code == 200
        assert np.array_equal(np.float32(bulk.result().json()), embedder.encode(texts))
        assert ended[-1] == "bulk"
        waiting = scheduler.waiting
        assert (waiting.requests, waiting.inputs, waiting.tokens) == (0, 0, 0)


def test_the_queue_of_one_model_does_not_refuse_requests_to_another(
    settings: Settings, other_model: Path
) -> None:
    models = (*settings.model, ModelSettings(source=str(other_model), name="other"))
    texts = [[f"text {word} {i}, which is one of a hundred" for i in range(100)] for word in "abc"]
    with running(changed(settings, model=models)) as run, ThreadPoolExecutor(16) as pool:
        scheduler, all_models = run.server.state.service.scheduler, run.server.state.service.models
        opened, entered = gated(run)
        try:
            bulk = [pool.submit(run.post, "/v1/embeddings", {"input": each}) for each in texts]
            assert entered.wait(60)
            wait_until(lambda: scheduler.waiting.requests == 3)
            # As fast as the first batch of a cold model: with the others' tokens it would take 3,600 s.
            all_models.all[-1].loaded.lane.rate = 1.0
            body = {"input": "a", "model": "other"}
            asked = [pool.submit(run.post, "/v1/embeddings", body) for _ in range(5)]
            wait_until(lambda: scheduler.waiting.requests == 8 or any(map(Future.done, asked)))
        finally:
            opened.set()
        assert {each.result().status_code for each in (*bulk, *asked)} == {200}


def test_a_client_that_hangs_up_frees_its_place(settings: Settings) -> None:
    with running(changed(settings, batch_tokens=64)) as run:
        scheduler = run.server.state.service.scheduler
        held = threading.Lock()
        lane = run.server.state.service.models.all[0].loaded.lane
        compute = lane.compute

        def slow(batch: Any) -> Any:
            with held:
                return compute(batch)

        lane.compute = slow
        with held:
            body = json.dumps({"inputs": [f"text {i}" for i in range(50)]}).encode()
            with connect(run) as client:
                head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body)
                wait_until(lambda: scheduler.waiting.inputs == 50)
            wait_until(lambda: scheduler.waiting.inputs == 0)
            assert scheduler.counts.abandoned == 1
        assert run.post("/embed", {"inputs": "x"}).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(settings: Settings) -> None:
    with running(changed(settings, timeout=0.1)) as run:
        held = threading.Lock()
        lane = run.server.state.service.models.all[0].loaded.lane
        compute = lane.compute

        def slow(batch: Any) -> Any:
            with held:
                return compute(batch)

        lane.compute = slow
        with held:
            answer = run.post("/embed", {"inputs": "x"})
        assert answer.status_code == 504
        assert run.server.state.service.scheduler.waiting.requests == 0


def test_a_client_may_say_how_urgent_it_is(settings: Settings) -> None:
    with running(changed(settings, batch_tokens=64)) as run:
        service = run.server.state.service
        seen: list[bool] = []
        submit = service.scheduler.submit

        def noted(*arguments: Any, **options: Any) -> Any:
            job = submit(*arguments, **options)
            seen.append(job.interactive)
            return job

        service.scheduler.submit = noted
        few, many = ["x"], [f"some words {i} " * 20 for i in range(80)]
        for texts, header in ((few, None), (many, None), (many, "interactive"), (few, "bulk")):
            headers = {} if header is None else {"x-priority": header}
            assert run.post("/embed", {"inputs": texts}, headers=headers).is_success
        assert seen == [True, False, True, False]
        seen.clear()
        for priority in (0, 1, 999):
            body = {"texts": few, "priority": priority}
            assert run.post("/v2/embed", body, headers={"x-priority": "bulk"}).is_success
        assert seen == [True, False, False]
        refused = run.post("/embed", {"inputs": few}, headers={"x-priority": "now"})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")


# --- Settings -------------------------------------------------------------------------------------
def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        'port = 1\nhost = "file"\ncache = "1MB"\n[[model]]\nsource = "a"\naliases = ["b"]\n'
    )
    environ = {"QUAVER_PORT": "2", "QUAVER_CACHE": "2MB", "QUAVER_API_KEYS": "k1, k2"}
    found = read_settings({"cache": "3MB", "port": None}, file=file, environ=environ)
    assert (found.host, found.port, found.cache) == ("file", 2, 3_000_000)
    assert found.api_keys == ("k1", "k2")
    assert [model.name for model in found.model] == ["a"]
    replaced = read_settings({}, models=["x", "y=z"], rerankers=["r"], file=file, environ={})
    assert [(m.name, m.source, m.task) for m in replaced.model] == [
        ("x", "x", "embed"),
        ("y", "z", "embed"),
        ("r", "r", "rerank"),
    ]


def test_the_shown_settings_can_be_read_again(tmp_path: Path) -> None:
    given = {"api_keys": ["secret"], "idle_unload": "10m", "batch_time": "20ms"}
    found = read_settings(given, models=["m"], environ={})
    assert "secret" not in found.shown()
    file = tmp_path / "shown.toml"
    file.write_text(found.shown())
    again = read_settings({"api_keys": ["secret"]}, file=file, environ={})
    assert again == found
    assert (again.idle_unload, again.batch_time) == (600, 0.02)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cache": "much"}, "cache must be a number with a unit, such as 256MB: got 'much'"),
        ({"grace": "5 weeks"}, "grace must be a number with a unit"),
        ({"port": 99999}, "port must be a whole number <= 65535: got 99999, which --port gives"),
        ({"nonsense": 1}, "has the unknown key nonsense: correct or remove it"),
        ({"api_keys": ["a", 3]}, r"api_keys\[1\] must be a text: got '\*\*\*'"),
        ({"tls_key": "key.pem"}, "TLS needs both"),
        ({"host": ""}, "host must be .*got '', which --host gives"),
        ({"unix_socket": ""}, "unix_socket must be .*got '', which --unix-socket gives"),
        ({"header_timeout": float("inf")}, "header_timeout must be .*got inf"),
        ({"grace": float("inf")}, "grace must be .*got inf"),
        ({"timeout": float("nan")}, "timeout must be .*got nan"),
        ({"idle_unload": "9000000h"}, "idle_unload must be "),
    ],
)
def test_wrong_settings_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_settings(flags, models=["m"], environ={})


def test_names_must_differ() -> None:
    from quaver.serve import create_app

    models = tuple(ModelSettings(source=source, name="same") for source in "ab")
    with pytest.raises(InputError, match="'same' is given twice"):
        create_app(Settings(model=models))
    with pytest.raises(InputError, match="a server needs a model"):
        create_app(Settings())


def test_a_model_is_not_named_by_its_folder(tmp_path: Path, tiny_folder: Path) -> None:
    names = {
        "BAAI/bge-small-en-v1.5": "BAAI/bge-small-en-v1.5",
        str(tmp_path / "missing" / "e5"): "e5",
        "~/models/e5": "e5",
        "./e5": "e5",
        str(tiny_folder): tiny_folder.name,
    }
    for source, name in names.items():
        settings = ModelSettings(source=source)
        assert settings.name == name
        assert settings.hub_id == (source if source == name else None)


def test_what_fails_inside_a_model_names_no_folder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter, for one, is read with the first query."""

    def fail(*arguments: Any) -> Any:
        raise ModelFolderError(f"{tmp_path} has no adapter")

    monkeypatch.setattr("quaver.serve.loaded.pool_tokenized", fail)
    with running(settings) as run:
        answer = run.post("/v1/embeddings", {"input": "x"})
        assert answer.status_code == 500
        assert str(tmp_path) not in answer.text
        assert "log says why" in answer.json()["error"]["message"]
    (line,) = [each for each in log_of(run) if each["event"] == "refusal"]
    assert line["id"] == answer.headers["x-request-id"]
    assert line["message"] == f"{tmp_path} has no adapter"


def test_a_wrong_setting_is_said_to_come_from_its_place(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('grace = "soon"\nthreads = 0\n')
    environ = {"QUAVER_PORT": "tcp://10.0.0.1:80"}
    with pytest.raises(InputError, match="which the variable QUAVER_PORT gives"):
        read_settings({}, models=["m"], environ=environ)
    with pytest.raises(InputError, match="which --max-inputs gives"):
        read_settings({"max_inputs": 0}, models=["m"], environ={})
    file.write_text("threads = 0\n")
    with pytest.raises(InputError, match=f"in {re.escape(str(file))}"):
        read_settings({}, models=["m"], file=file, environ={})
    file.write_text('[[model]]\nsource = ""\n')
    with pytest.raises(InputError, match="length >= 1"):
        read_settings({}, file=file, environ={})
    with pytest.raises(InputError) as caught:
        read_settings({"api_keys": 3}, environ={})
    assert "api-keys" in str(caught.value)


def test_misspelt_variables_are_told() -> None:
    environ = {
        "QUAVER_CACHE": "1MB",
        "QUAVER_ISA": "avx2",
        "QUAVER_MODEL": "a",
        "QUAVER_MAX_INPUT": "3",
        "QUAVER_WHATEVER_THIS_IS": "4",
        "QUAVER_SERVICE_HOST": "10.0.0.1",
        "QUAVER_PAGE_PORT": "tcp://10.0.0.1:80",
        "QUAVER_PORT_80_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    one, two = unknown_variables(environ)
    assert one.endswith("no effect: did you mean QUAVER_MAX_INPUTS?")
    assert two.startswith("the variable QUAVER_WHATEVER_THIS_IS is no setting")


def test_what_a_start_would_refuse_is_checked_without_one(tmp_path: Path) -> None:
    one = ModelSettings(source="some/model", name="a")
    check(Settings(model=(one,)))
    with pytest.raises(InputError, match="'a' is given twice"):
        check(Settings(model=(one, one)))
    with pytest.raises(InputError, match="a server needs a model"):
        check(Settings())
    with pytest.raises(InputError, match="cannot read the API keys"):
        check(Settings(model=(one,), api_key_file=str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"cannot use the TLS certificate .*No such file"):
        check(Settings(model=(one,), tls_certificate="none.pem", tls_key="none.key"))
    (tmp_path / "no.pem").write_text("no certificate")
    wrong = str(tmp_path / "no.pem")
    with pytest.raises(InputError, match="both must be PEM files"):
        check(Settings(model=(one,), tls_certificate=wrong, tls_key=wrong))
