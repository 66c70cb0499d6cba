"""The protocol of an endpoint, and every way it can fail."""

from __future__ import annotations

import socket

import pytest

from chat_server import ChatServer
from quaver import ChatModel, LanguageModelError
from quaver.answers import Message
from quaver.errors import InputError

QUESTION = [Message("user", "How?")]


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


@pytest.mark.parametrize("step", ["ok", "json"])
def test_an_answer_arrives_in_pieces_or_whole(server: ChatServer, step: str) -> None:
    server.script = [step]
    pieces: list[str] = []
    answer = ChatModel(server.url, key="k").complete(QUESTION, on_text=pieces.append)
    assert answer == "".join(pieces) == "Boil it [1], twice [2]."
    (models, headers, _), (path, _, body) = server.requests
    assert (models, path) == ("/v1/models", "/v1/chat/completions")
    assert headers["Authorization"] == "Bearer k"
    assert body["model"] == "only"
    assert body["messages"] == [{"role": "user", "content": "How?"}]


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_an_address_may_be_short(server: ChatServer, end: str) -> None:
    url = server.url.removesuffix("/v1") + end
    assert ChatModel(url, model="m").complete(QUESTION)
    assert server.requests[0][0] == "/v1/chat/completions"
    assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "http://", "http://[x", "file:///etc"]
)
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(InputError, match="an endpoint must be an address like"):
        ChatModel(url)


def test_several_models_must_be_chosen_from(server: ChatServer) -> None:
    server.models = ["a", "b"]
    with pytest.raises(LanguageModelError, match=r"several models, name one \(--llm-model\): a, b"):
        ChatModel(server.url).complete(QUESTION)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (401, r"refused with 401 \(because 401\); it needs a key"),
        (404, r"refused with 404 \(because 404\); check the address"),
        (400, r"refused with 400 \(because 400\)$"),
        ("moved", "moved to http://127.0.0.1:1/elsewhere: use that address"),
        ("garbage", "did not answer in JSON"),
        ("html", "did not answer in JSON"),
        ("error-event", "the endpoint refused: out of memory"),
        ("empty", "answered nothing"),
        ("cut", "broke off after 5 characters: the stream ended before the answer did"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    server: ChatServer, step: object, message: str
) -> None:
    server.script = [step]
    with pytest.raises(LanguageModelError, match=message):
        ChatModel(server.url, model="m").complete(QUESTION)
    assert len(server.requests) == 1


def test_a_busy_endpoint_is_asked_again(server: ChatServer, no_waiting: list[float]) -> None:
    server.script = [500, (429, 7), (503, 9999), "ok"]
    assert ChatModel(server.url, model="m").complete(QUESTION).startswith("Boil")
    assert no_waiting == [0.5, 7, 30]


def test_it_ends_when_an_endpoint_stays_busy(server: ChatServer, no_waiting: list[float]) -> None:
    server.script = [500]
    with pytest.raises(LanguageModelError, match=r"refused with 500 .*; tried 3 times"):
        ChatModel(server.url, model="m", retries=2).complete(QUESTION)
    assert no_waiting == [0.5, 1.0]


def test_a_silent_endpoint_is_given_up(server: ChatServer, no_waiting: list[float]) -> None:
    server.script = ["silent"]
    with pytest.raises(LanguageModelError, match=r"cannot be reached: timed out; tried 2 times"):
        ChatModel(server.url, model="m", timeout=0.2, retries=1).complete(QUESTION)


def test_an_endpoint_that_is_not_there(no_waiting: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LanguageModelError, match=r"cannot be reached: .*refused; tried 4 times"):
        ChatModel(f"http://127.0.0.1:{port}").complete(QUESTION)
