"""Threads: what the affinity mask and the control groups leave to this process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from quaver.engine.threads import available_threads, choose_threads
from quaver.errors import InputError
from quaver.system import LINUX


@pytest.mark.parametrize("threads", [0, -1, True, 1.0, "2"])
def test_threads_that_are_no_positive_number(threads: Any) -> None:
    with pytest.raises(InputError, match=f"whole number of at least 1, or None: got {threads!r}"):
        choose_threads(threads)


def test_more_threads_than_make_sense() -> None:
    assert choose_threads(1024) == 1024
    with pytest.raises(InputError, match="at most 1024: got 1025"):
        choose_threads(1025)


linux_only = pytest.mark.skipif(not LINUX, reason="affinity masks and control groups")


@linux_only
def test_the_affinity_mask_bounds_the_threads() -> None:
    code = (
        "import os; from quaver.engine.threads import available_threads, choose_threads;"
        f"os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]);"
        "print(available_threads(), choose_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


V1 = "/sys/fs/cgroup/cpu"
V2 = "/sys/fs/cgroup"
PERIOD = "cpu.cfs_period_us"
QUOTA = "cpu.cfs_quota_us"


@linux_only
@pytest.mark.parametrize(
    ("groups", "files", "most"),
    [
        ("0::/", {f"{V2}/cpu.max": "150000 100000"}, 2),
        ("0::/", {f"{V2}/cpu.max": "20000 100000"}, 1),
        ("0::/", {f"{V2}/cpu.max": "max 100000"}, 8),
        ("0::/", {}, 8),
        ("0::/a/b", {f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {f"{V2}/a/b/cpu.max": "200000 100000", f"{V2}/cpu.max": "500000 100000"}, 2),
        (
            "4:memory:/x\n3:cpu,cpuacct:/",
            {f"{V1}/{QUOTA}": "300000", f"{V1}/{PERIOD}": "100000"},
            3,
        ),
        ("3:cpu:/x", {f"{V1}/x/{QUOTA}": "100000", f"{V1}/x/{PERIOD}": "50000"}, 2),
        ("3:cpu:/gone", {f"{V1}/{QUOTA}": "100000", f"{V1}/{PERIOD}": "50000"}, 2),
        ("3:cpu:/", {f"{V1}/{QUOTA}": "-1", f"{V1}/{PERIOD}": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_the_cgroup_quota_bounds_the_threads(
    groups: str, files: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"/proc/self/cgroup": groups, **files}
    monkeypatch.setattr("quaver.system.quota._read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_threads() == most
