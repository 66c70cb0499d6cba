"""How bodies are written: the same JSON as in one piece, with room for other requests in between."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from quaver.serve import Settings
from quaver.serve.http import check_values, interactive, json_of, list_of, object_of, rows_of
from quaver.serve.refusal import Refusal
from quaver.serve.scheduler import Length
from quaver.serve.service import _IDS_AT_ONCE, _items
from running_server import Running, running


async def counted(written: Any) -> tuple[Any, int]:
    """Return what a coroutine returns, and how often another task could run meanwhile."""
    turns = 0
    over = False

    async def others() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    result = await written
    over = True
    await task
    return result, turns


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (7, 5000), (2048, 384), (3, 40_000)])
def test_vectors_are_written_in_pieces(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    written, turns = asyncio.run(counted(rows_of(vectors, shape[1])))
    assert b"".join(written) == json_of(vectors)
    assert np.array_equal(np.float32(json.loads(b"".join(written))).reshape(shape), vectors)
    pieces = -(-shape[0] // max(1, 2**14 // shape[1]))
    assert turns >= pieces - 1


def test_vectors_that_are_the_start_of_longer_ones_keep_their_digits() -> None:
    vectors = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)[:, :3]
    assert b"".join(asyncio.run(rows_of(vectors, 3))) == json_of(vectors.copy())


def test_rows_take_their_form_when_it_is_their_turn() -> None:
    taken: list[int] = []

    def form(i: int) -> dict[str, int]:
        taken.append(i)
        return {"index": i}

    async def stop() -> None:
        task = asyncio.create_task(rows_of(range(1000), 2**13, form=form))
        while not taken:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stop())
    assert 0 < len(taken) < 10


def test_an_object_of_written_parts() -> None:
    parts = {"a": [b"[1,", b"2]"], 'b"': [b"{}"]}
    three = b"".join(object_of(parts, {"c": None}))
    assert json.loads(three) == {"a": [1, 2], 'b"': {}, "c": None}
    assert json.loads(b"".join(object_of(parts, {}))) == {"a": [1, 2], 'b"': {}}
    assert json.loads(b"".join(list_of([[b"[", b"1]"], [b"2"]]))) == [[1], 2]
    assert list_of([]) == [b"[", b"]"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/embed", "/api/embed", "/embed"])
def test_a_large_answer_is_that_of_small_ones(
    settings: Settings, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.serve.http._NUMBERS_AT_ONCE", 64)
    monkeypatch.setattr("quaver.serve.http._BYTES_AT_ONCE", 1000)
    texts = [f"text {i}" for i in range(90)]
    names = {"/v2/embed": "texts", "/embed": "inputs"}
    with running(settings) as run:

        def ask(some: list[str]) -> Any:
            answer = run.post(path, {names.get(path, "input"): some, "model": "tiny"})
            assert answer.status_code == 200
            assert int(answer.headers["content-length"]) == len(answer.content)
            assert len(answer.headers["x-request-id"]) == 32
            found = answer.json()
            if path == "/v1/embeddings":
                return [each["embedding"] for each in found["data"]]
            if path == "/v2/embed":
                return found["embeddings"]["float"]
            return found if path == "/embed" else found["embeddings"]

        assert ask(texts) == ask(texts[:40]) + ask(texts[40:])
        assert run.log.getvalue().count('"event":"request"') == 3


def counts(value: Any) -> tuple[int, int]:
    """Count the lists, objects and fields of a value, and its commas, without looking at JSON."""
    if not isinstance(value, (list, dict)):
        return 0, 0
    inner = [counts(each) for each in (value.values() if isinstance(value, dict) else value)]
    named = 1 + (len(value) if isinstance(value, dict) else 0) + sum(each[0] for each in inner)
    return named, max(0, len(value) - 1) + sum(each[1] for each in inner)


def refused(body: bytes, named: int, values: int, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr("quaver.serve.http._MOST_NAMED", named)
    monkeypatch.setattr("quaver.serve.http._MOST_VALUES", values)
    try:
        asyncio.run(check_values(body, 0))
    except Refusal as refusal:
        return refusal.message
    return None


TRICKY = [
    {
        "input": ["[{:,", 'a"[[', "\\", "\\\\", '\\"', "", "[", '"', ",,,"],
        "b": [{"c": [1, 2, [3]]}],
    },
    [[[]], {}, {"a": {"b:": ":"}}, 'x\\"[,', "\\" * 9, "\\" * 8 + '"[[['] * 5,
    {"\\": [["\u00e9[", "\U0001f600,"]], '"': -1.5e300, "[": None},
]


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 64, 2**18])
@pytest.mark.parametrize("value", TRICKY)
def test_values_of_a_body_are_counted_outside_its_texts(
    value: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.serve.http._BYTES_AT_ONCE", at_once)
    named, values = counts(value)
    for body in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()):
        assert len(body) > named
        assert refused(body, named, values, monkeypatch) is None
        message = refused(body, named - 1, values, monkeypatch)
        assert f"{named - 1} lists" in str(message)
        message = refused(body, named, values - 1, monkeypatch)
        assert f"{values - 1} values" in str(message)


def test_long_texts_and_many_token_ids_are_allowed() -> None:
    texts = json.dumps({"input": ["[{:," * 10_000, "8" * 100_000, 'say "[": ' * 50_000]}).encode()
    ids = json.dumps({"input": [[30522] * 256] * 2048}).encode()
    for body in (texts, ids):
        asyncio.run(check_values(body, 2048))


def test_a_body_is_counted_in_pieces() -> None:
    body = json.dumps({"input": "[{:," * 2_000_000}).encode()
    _, turns = asyncio.run(counted(check_values(body, 2048)))
    assert turns >= len(body) // 2**18 - 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/embeddings", b'{"input": [%s[]]}' % (b"[]," * 300_000), 413),
        ("/v1/embeddings", b'{"input": "x", "other": [%s[]]}' % (b"[]," * 300_000), 413),
        ("/embed", b'{"inputs": [%s[]]}' % (b"[]," * 300_000), 413),
        ("/", b'{"inputs": "x", "a": {%s}}' % b",".join(b'"%d":1' % i for i in range(90_000)), 413),
        ("/api/embed", b'{"model": "tiny", "input": "x", "options": {"a": [%s[]]}}', 413),
        ("/v2/rerank", b'{"query": "x", "documents": [{"a": [%s[]]}]}', 413),
        ("/v2/rerank", b'{"query": "x", "documents": [{"a": [%s]}]}' % (b"8" * 90_000), 400),
    ],
)
def test_a_body_of_very_many_values_is_refused_before_it_is_read(
    server: Running, path: str, body: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(decoder: Any, content: bytes) -> Any:
        raise AssertionError("the body is decoded")

    if b"%s" in body:
        body %= b"[]," * 300_000
    monkeypatch.setattr("quaver.serve.http.decode", decode)
    answer = server.client.post(path, content=body)
    assert answer.status_code == status
    assert "may have at most" in answer.text
    assert '"exception"' not in server.log.getvalue()


@pytest.mark.parametrize("given", ["0", "7", "999", " bulk ", "Interactive", 0, None])
def test_a_priority(given: str | int | None) -> None:
    first = {"0": True, "Interactive": True, 0: True, None: None}
    assert interactive(given) is first.get(given, False)


@pytest.mark.parametrize("given", ["\u00b2", "\u00b3", "\u0664", "1000", "-1", "", "1.0", 1000, -1])
def test_a_wrong_priority_is_refused(given: str | int) -> None:
    """Also digits that are no numbers, such as a superscript, which a header may have."""
    with pytest.raises(Refusal, match="a priority is interactive, bulk, or 0"):
        interactive(given)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/embed", "/embed", "/api/embed"])
def test_a_priority_that_is_no_ascii_is_no_failure(server: Running, path: str) -> None:
    body = {"input": "x", "inputs": "x", "texts": ["x"], "model": "tiny"}
    answer = server.client.post(path, json=body, headers={"x-priority": b"\xb2"})
    assert answer.status_code == (422 if path == "/embed" else 400)
    assert '"exception"' not in server.log.getvalue()


def test_token_ids_are_checked_in_pieces(embedder: Any) -> None:
    ids = [5, 6, 7] * 20
    many = [ids] * (4 * _IDS_AT_ONCE // len(ids))

    async def check() -> tuple[Any, int]:
        return await counted(_items(embedder, many, "", Length(truncate="start"), "input", "tiny"))

    items, turns = asyncio.run(check())
    assert turns >= 3
    assert items == [np.array(ids, np.int32).tobytes()] * len(many)
