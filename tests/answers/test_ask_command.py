"""`quaver ask`: what it prints where, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chat_server import ChatServer
from quaver import cli


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_without_a_model_the_prompt_is_printed(store: Path) -> None:
    code, out, err = call("ask", store, "Where is the list of files?", "-k", 2)
    assert (code, err) == (0, "quaver: nothing was sent: name an endpoint with --llm\n")
    assert out.startswith("--- system\nYou answer questions")
    assert '<passage id="1" source="' in out
    assert "Question: Where is the list of files?" in out


def test_nothing_is_sent_where_nothing_is_found(store: Path, server: ChatServer) -> None:
    for more in ([], ["--llm", server.url], ["--llm", server.url, "--show-prompt"]):
        code, out, err = call("ask", store, "list", "--filter", "sourec=tea.md", *more)
        assert (code, out) == (0, "nothing found\n")
        assert err == f"quaver: no passage in {store} has a field 'sourec'\n"
    _, out, err = call("ask", store, "list", "--filter", "sourec=tea.md", "--json")
    assert (json.loads(out)["passages"], json.loads(out)["answer"], err) == ([], "", "")
    assert server.requests == []


def test_an_answer_is_printed_with_its_sources(
    store: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answer = ["It is \x1b[31m", "here [1]."]
    code, out, err = call("ask", store, "list of files", "--llm", server.url, "-k", 1)
    assert (code, err) == (0, "")
    assert out.startswith("It is \ufffd[31mhere [1].\n\n[1] ")
    assert "--- system" not in out
    assert server.requests[0][1]["Authorization"] == "Bearer secret"
    code, out, _ = call("ask", store, "list", "--llm", server.url, "--show-prompt")
    assert (code, "--- system" in out) == (0, True)
    assert "secret" not in out


def test_wrong_citations_are_told(store: Path, server: ChatServer) -> None:
    server.answer = ["So it is [7]."]
    code, _, err = call("ask", store, "list", "--llm", server.url, "-k", 1)
    assert (code, " ".join(err.split())) == (
        0,
        "quaver: the answer cites 7, but the passages are 1 to 1: do not rely on it",
    )
    server.answer = ["Who knows."]
    assert "cites no passage" in call("ask", store, "list", "--llm", server.url)[2]


def test_json_for_programs(store: Path, server: ChatServer) -> None:
    question = ("ask", store, "list", "--llm", server.url, "--json", "--llm-model", "m")
    code, out, _ = call(*question)
    answer = json.loads(out)
    assert (code, answer["citations"]) == (0, [1, 2])
    page = (Path(__file__).parents[2] / "docs" / "guide" / "ask.md").read_text(encoding="utf-8")
    (keys,) = re.findall(r"`--json` \| one document: (.*) \|", page)
    assert list(answer) == re.findall("`(.+?)`", keys)
    assert answer["answer"] == "Boil it [1], twice [2]."
    assert set(answer["prompt"][0]) == {"role", "content"}
    assert answer["passages"][0]["source"]
    assert server.requests[0][2]["model"] == "m"
    best = answer["passages"][0]["score"]
    code, out, _ = call(*question, "--min-score", best)
    assert [hit["score"] for hit in json.loads(out)["passages"]] == [best]


def test_a_prompt_from_a_file(store: Path, server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Be brief.\n---\n{question}\n{passages}")
    assert call("ask", store, "list", "--llm", server.url, "--prompt", path)[0] == 0
    assert server.requests[1][2]["messages"][0]["content"] == "Be brief."
    code, _, err = call("ask", store, "list", "--prompt", tmp_path / "no.txt")
    assert (code, "cannot be read" in err) == (1, True)


def test_an_endpoint_that_refuses_is_one_line(store: Path, server: ChatServer) -> None:
    server.script = [401]
    code, out, err = call("ask", store, "list", "--llm", server.url)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("quaver: error: http://127.0.0.1:")
