"""The types of the native module are those of its bindings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def declarations(path: Path) -> dict[str, str]:
    """Return the source of each class, method, function and variable, without its format."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{i}": ast.unparse(part) for i, part in enumerate(node.body)}
        elif not isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr)):
            found[ast.unparse(node).splitlines()[0]] = ast.unparse(node)
    return found


def test_the_stub_is_what_nanobind_writes(tmp_path: Path) -> None:
    pytest.importorskip("nanobind.stubgen")
    stub = tmp_path / "_native.pyi"
    command = ["-q", "-m", "quaver._native", "-p", str(ROOT / "native/stub.pat"), "-o", str(stub)]
    subprocess.run([sys.executable, "-m", "nanobind.stubgen", *command], check=True)
    kept = declarations(ROOT / "src/quaver/_native.pyi")
    assert kept == declarations(stub), "the bindings changed: make stub"
