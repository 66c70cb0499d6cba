"""The speed figures of the README are those of the files that it names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "benchmarks" / "readme.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_holds_what_the_results_hold() -> None:
    readme = script()
    _, shown, _ = readme.parted(readme.README.read_text(encoding="utf-8"))
    found = re.search(r"\[(benchmarks/results/[\w.-]+)/results\.md\]", shown)
    assert found, "README's table must name its folder of results; run make bench"
    assert shown == readme.section(found[1]), "run benchmarks/readme.py on that folder"


def test_a_readme_without_markers_is_told() -> None:
    with pytest.raises(SystemExit, match="once each"):
        script().parted("no marker")
