"""The notebook runs from top to bottom and gives the outputs that it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hub_cache import write_hub_cache
from nbclient import NotebookClient
from shown_output import shows_the_same

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebooks" / "from_model_to_pipeline.ipynb"
MODEL = os.environ.get("QUAVER_TEST_MODEL")


def shown(notebook: Any) -> list[str]:
    """Return the output of each cell, without stderr."""
    found = []
    for cell in notebook.cells:
        outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        found += [output.get("text") or output["data"]["text/plain"] for output in outputs]
    return found


@pytest.mark.skipif(MODEL is None, reason="QUAVER_TEST_MODEL names the real model's folder")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # jupyter's own
def test_the_notebook_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MODEL is not None
    hub = write_hub_cache(tmp_path / "hub", "sentence-transformers/all-MiniLM-L6-v2", Path(MODEL))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stored = nbformat.read(NOTEBOOK, as_version=4)
    expected = shown(stored)
    assert expected, "the notebook must be stored with its outputs"
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(stored, timeout=300, startup_timeout=120, resources=where).execute()
    for before, now in zip(expected, shown(stored), strict=True):
        assert shows_the_same(before, now), (
            f"the notebook shows\n{before}but its code prints\n{now}"
        )


def test_the_notebook_names_no_place_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
