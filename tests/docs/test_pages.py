"""The first code block of a page runs and prints the output that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_cache import write_hub_cache
from shown_output import shows_the_same

DOCS = Path(__file__).parents[2] / "docs"
LIBRARIES = {
    "integrations/haystack.md": "haystack",
    "integrations/langchain.md": "langchain_core",
    "integrations/llamaindex.md": "llama_index",
    "guide/embed.md": "quaver",
    "guide/migration.md": "quaver",
    "guide/quantize.md": "quaver",
    "guide/rerank.md": "quaver",
    "integrations/mteb.md": "mteb",
    "integrations/others.md": "quaver",
    "integrations/sentence-transformers.md": "sentence_transformers",
}
PAGES = [page for page, library in LIBRARIES.items() if find_spec(library)]
GUIDE = {
    f"guide/{path.name}"
    for path in (DOCS / "guide").glob("*.md")
    if path.read_text(encoding="utf-8").split("\n\n", 2)[1].startswith("```python")
}
MODEL = os.environ.get("QUAVER_TEST_MODEL")

FIRST_BLOCK = re.compile(r"\A# [^\n]+\n\n```python\n(.+?)```\n\n((?:    [^\n]*\n)+)", re.DOTALL)


def test_every_guide_that_begins_with_code_is_run() -> None:
    assert {page for page in LIBRARIES if page.startswith("guide/")} == GUIDE


@pytest.mark.skipif(MODEL is None, reason="QUAVER_TEST_MODEL names the real model's folder")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(300)
def test_a_page_begins_with_code_that_works(page: str, tmp_path: Path) -> None:
    assert MODEL is not None
    begins = FIRST_BLOCK.match((DOCS / page).read_text(encoding="utf-8"))
    assert begins, (
        f"{page} must begin with a heading, a block of Python, and its output, indented by 4"
    )
    code, output = begins.groups()
    hub = write_hub_cache(tmp_path / "hub", "sentence-transformers/all-MiniLM-L6-v2", Path(MODEL))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shows_the_same(output, done.stdout), (
        f"{page} shows\n{output}but the code prints\n{done.stdout}"
    )
