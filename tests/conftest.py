"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from quaver.documents import Converter
from tiny_model import write_tiny_model

# `make test` draws 20 examples for each property, `make test-long`, which CI runs, 200. For a release:
# pytest -m hypothesis --hypothesis-profile thorough --timeout 0
# On a busy machine drawing a text may take a second: timing decides no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", UNTIMED, max_examples=20)
settings.register_profile("long", UNTIMED, max_examples=200)
settings.register_profile("thorough", UNTIMED, max_examples=10_000)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT folder, for reading only; to change files, `write_tiny_model` your own."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def running_converter() -> Iterator[Converter]:
    """The process that reads documents, started with the first that a test gives it."""
    with Converter() as converter:
        yield converter


@pytest.fixture
def shared_converter(running_converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let updates of an index read in one process: starting one takes longer than most of them."""
    monkeypatch.setattr("quaver.index.reading.Converter", lambda: nullcontext(running_converter))
