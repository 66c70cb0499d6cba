"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT folder for reading only; a test that changes files writes its own with `write_tiny_model`."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
