"""Every update of an index reads its documents in the same process; the tests share a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from quaver import Embedder


@pytest.fixture(autouse=True)
def one_process_reads(shared_converter: None) -> None:
    """See `shared_converter`; how such a process starts and ends is tested with the documents."""


@pytest.fixture(scope="session")
def embedder(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder, threads=1)
