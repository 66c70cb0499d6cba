"""An answer from a store, and its citations."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_server import ChatServer
from quaver import ChatModel, Index
from quaver import ask as ask_index
from quaver.answers.answer import citations


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a [2]. b [1][2].", [2, 1]),
        ("[1, 3; 5] and [2-4]", [1, 3, 5, 2, 4]),
        ("`a[0]` and ```\nb[7]\n``` but [3]", [3]),
        ("[2020-9999]", [2020, 9999]),
        ("none, [x], [ ], [1.5]", []),
    ],
)
def test_citations_are_found(text: str, numbers: list[int]) -> None:
    assert citations(text) == numbers


def test_an_answer_tells_cited_from_made_up(store: Path, server: ChatServer) -> None:
    server.answer = ["True [1], also [2], and [9]."]
    with Index.open(store) as index:
        answer = ask_index(index, "list", llm=ChatModel(server.url), k=2)
        assert (answer.cited, answer.unknown) == ((1, 2), (9,))
        assert [passage.text for passage in answer.passages] == [
            found.text for found in index.search("list", k=2)
        ]
        prompt_only = ask_index(index, "list", k=2)
    assert (prompt_only.text, prompt_only.cited) == ("", ())
    assert prompt_only.messages == answer.messages
