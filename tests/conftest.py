"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT folder, for reading only; to change files, `write_tiny_model` your own."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
