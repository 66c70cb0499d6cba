"""Drivers, a node and an executor are killed, and a disk is full: benchmarks/bulk/chaos.py, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bulk" / "chaos.py"
ROWS = 4000


@pytest.mark.timeout(400)
@pytest.mark.parametrize("engine", ["local", "ray", "spark"])
def test_every_row_is_there_once_whatever_is_killed(engine: str, tmp_path: Path) -> None:
    library = {"local": "pyarrow", "ray": "ray", "spark": "pyspark"}[engine]
    if find_spec(library) is None:
        pytest.skip(f"needs {library}, which `make test-bulk` installs")
    record = tmp_path / "record.json"
    line = [sys.executable, SCRIPT, "--rows", str(ROWS), "--engines", engine, "--out", record]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(record.read_text())
    story = found["engines"][engine]
    assert found["rows"] == ROWS
    first, second = story["outputs_at_death_of_driver"]
    assert 0 < first < second < found["outputs"]
    assert story["killed"].startswith("one of")
    assert second <= story["outputs_before_the_last_run"] < found["outputs"]
    assert story["same_checksums"]
    assert story["every_row_once"]
    when_full = story["outputs_when_the_disk_was_full"]
    if when_full is not None:  # a disk of its own needs root
        assert second <= when_full < found["outputs"]
