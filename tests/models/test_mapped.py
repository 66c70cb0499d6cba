"""Pages of mapped files are given back, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quaver.models.mapped import release_pages

PAGE = 4096
SIZE = 64 * PAGE


def _resident_kb(path: Path) -> int:
    """Kilobytes of a mapped file that are in this process's memory."""
    inside = total = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def test_pages_leave_memory_and_come_back(file: Path) -> None:
    mapped = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
    part = mapped[100:].view(np.uint8)
    before = int(part.sum())
    assert _resident_kb(file) == SIZE // 1024
    release_pages(part)
    assert _resident_kb(file) == 0
    assert int(part.sum()) == before


def test_other_arrays_are_left_alone(file: Path) -> None:
    own = np.arange(SIZE)
    release_pages(own)
    assert int(own[-1]) == SIZE - 1
    copy_on_write = np.memmap(file, dtype=np.uint8, mode="c")
    copy_on_write[:] = 7
    release_pages(copy_on_write)
    assert (copy_on_write == 7).all()
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    release_pages(mapped[::2])
    release_pages(mapped[:0])
