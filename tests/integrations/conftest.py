"""Integration tests run where their framework is installed: `make test-integrations` has the environments."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tiny_model import write_tiny_cross_encoder

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

HERE = Path(__file__).parent
FRAMEWORKS = {
    "test_haystack_*.py": "haystack",
    "test_langchain_*.py": "langchain_tests",
    "test_llamaindex_*.py": "llama_index",
    "test_sentence_transformers*.py": "sentence_transformers",
    "test_mteb*.py": "mteb",
    "test_chroma.py": "chromadb",
    "test_lancedb.py": "lancedb",
}
# Nothing is collected where its framework is missing; a run without any test fails.
collect_ignore_glob = [
    pattern for pattern, library in FRAMEWORKS.items() if find_spec(library) is None
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a store, in memory where the system has a place: every write waits for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> str:
    """The tiny model's folder as frameworks take it."""
    return str(tiny_folder)


@pytest.fixture(scope="session")
def tiny_cross(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random cross-encoder's folder."""
    return str(write_tiny_cross_encoder(tmp_path_factory.mktemp("models") / "cross"))
