"""The blocks of the integrations' pages that search sparse vectors run, with tiny random models, and find a text."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "integrations"
LIBRARIES = {
    "haystack.md": ("haystack", "haystack_integrations.document_stores.qdrant"),
    "langchain.md": ("langchain_core", "langchain_qdrant"),
    "llamaindex.md": ("llama_index", "llama_index.vector_stores.qdrant"),
    "others.md": ("qdrant_client",),
}
TEXTS = ("Paris is the capital of France.", "Lyon is the third largest city of France.")
SECTION = re.compile(r"\n## Sparse vectors[^\n]*\n(.+?)(?=\n## |\Z)", re.DOTALL)
BLOCK = re.compile(r"```python\n(.+?)```", re.DOTALL)


def content_of(hit: Any) -> Any:
    """The text of a hit of any framework; of Qdrant's client the position."""
    for name in ("content", "page_content", "text", "id"):
        found = getattr(hit, name, None)
        if found is not None:
            return found
    raise AssertionError(hit)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
@pytest.mark.parametrize(
    "page", [page for page, names in LIBRARIES.items() if all(map(find_spec, names))]
)
def test_a_block_runs(page: str, tiny: str, splade: str) -> None:
    section = SECTION.search((DOCS / page).read_text(encoding="utf-8"))
    assert section, f"{page} has no heading about sparse vectors"
    (block,) = (block for block in BLOCK.findall(section[1]) if "\nfound = " in block)
    code = block.replace("sentence-transformers/all-MiniLM-L6-v2", tiny)
    code = code.replace("naver/splade-v3", splade).replace("embedding_dim=384", "embedding_dim=64")
    assert tiny in code or page == "others.md"
    names: dict[str, Any] = {}
    exec(compile(code, page, "exec"), names)
    (hit,) = names["found"]
    assert content_of(hit) in (*TEXTS, 0, 1)
