"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tiny_model import write_tiny_model

# `pytest --hypothesis-profile thorough --timeout 0` draws as many examples as a release deserves.
# On a busy machine drawing a text may take a second: timing decides no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", UNTIMED, max_examples=200)
settings.register_profile("thorough", UNTIMED, max_examples=10_000)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT folder, for reading only; to change files, `write_tiny_model` your own."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
