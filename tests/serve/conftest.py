"""Models and a server for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quaver import CrossEncoder, Embedder
from quaver.serve import ModelSettings, Settings
from running_server import Running, running
from tiny_model import write_tiny_cross_encoder, write_tiny_model


@pytest.fixture(scope="session")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-reranker")


@pytest.fixture(scope="session")
def embedder(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def cross_encoder(reranker_folder: Path) -> CrossEncoder:
    return CrossEncoder.from_pretrained(reranker_folder)


@pytest.fixture(scope="session")
def settings(tiny_folder: Path, reranker_folder: Path) -> Settings:
    """An embedding model "tiny", also called "text-embedding-3-small", and a reranker."""
    return Settings(
        model=(
            ModelSettings(
                source=str(tiny_folder), name="tiny", aliases=("text-embedding-3-small",)
            ),
            ModelSettings(source=str(reranker_folder), name="ranker", task="rerank"),
        ),
        port=0,
        max_inputs=100,
        max_body=1_000_000,
    )


@pytest.fixture(scope="session")
def server(settings: Settings) -> Iterator[Running]:
    with running(settings) as run:
        yield run


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "other", seed=7)
