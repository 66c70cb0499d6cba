"""Integration tests run where their framework is installed: `make test-integrations` has the environments."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from golden_folders import unpacked
from tiny_model import write_tiny_cross_encoder

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

HERE = Path(__file__).parent
FRAMEWORKS = {
    "test_haystack_*.py": "haystack",
    "test_haystack_sparse.py": "haystack_integrations.document_stores.qdrant",
    "test_langchain_*.py": "langchain_tests",
    "test_langchain_sparse.py": "langchain_qdrant",
    "test_llamaindex_*.py": "llama_index",
    "test_llamaindex_sparse.py": "llama_index.vector_stores.qdrant",
    "test_sentence_transformers*.py": "sentence_transformers",
    "test_mteb*.py": "mteb",
    "test_chroma.py": "chromadb",
    "test_lancedb.py": "lancedb",
}


def is_installed(library: str) -> bool:
    """Whether a library is there, without importing it; of llama_index.vector_stores.x that is llama_index, too."""
    parent = library.rpartition(".")[0]
    return (not parent or is_installed(parent)) and find_spec(library) is not None


# Nothing is collected where its framework is missing; a run without any test fails.
collect_ignore_glob = [
    pattern for pattern, library in FRAMEWORKS.items() if not is_installed(library)
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


@pytest.fixture(scope="session")
def splade(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random sparse encoder's folder, with a query prompt and a limit of words."""
    return str(unpacked("splade-bert", tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def splade_with_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random sparse encoder whose queries are weighed by a table."""
    return str(unpacked("splade-distilbert", tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random multi-vector model's folder."""
    return str(unpacked("colbert", tmp_path_factory.mktemp("models")))
