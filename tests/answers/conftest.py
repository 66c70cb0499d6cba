"""A store to ask, and an endpoint that answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_server import ChatServer, chat_server
from quaver import Embedder, Index


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture(scope="module")
def store(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "tea.md").write_text(
        "# Tea\n\nThe list of files.\n\n# Milk\n\nThe dict of strings.\n"
    )
    (folder / "c.jsonl").write_text(
        '{"title": "Chat", "text": "Each function returns an error."}\n'
    )
    path = tmp_path_factory.mktemp("stores") / "kb"
    with Index.create(path, Embedder.from_pretrained(tiny_folder)) as index:
        index.update(folder)
    return path
