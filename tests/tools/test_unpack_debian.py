"""tools/unpack_debian.sh, with an apt-get and a dpkg-deb that write what they are called with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "unpack_debian.sh"
APT = """#!/bin/sh
echo "apt-get $*" >> "$CALLS"
[ "$2" = update ] && exit 100  # a source that cannot be read
cp "$APT_CONFIG" "$CALLS.conf"
lists=$(sed -n 's/^Dir::Cache::archives "\\(.*\\)";/\\1/p' "$APT_CONFIG")
touch "$lists/one_1.0_arm64.deb" "$lists/two_2.0_arm64.deb"
exit "$STATUS"
"""
DPKG = """#!/bin/sh
touch "$3/$(basename "$2" .deb)"
"""

Unpack = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, content in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (tools / name).write_text(content)
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    environment["CALLS"] = str(tmp_path / "calls")

    def run(folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, folder, "one"],
            input='APT::Architecture "arm64";\n',
            env={**environment, "STATUS": str(status)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_packages_are_unpacked_with_the_configuration_given(tmp_path: Path, unpack: Unpack) -> None:
    done = unpack(tmp_path / "root")
    assert done.returncode == 0, done.stderr
    assert "could not read all of its sources" in done.stderr
    found = sorted(path.name for path in (tmp_path / "root").iterdir())
    assert found == ["one_1.0_arm64", "two_2.0_arm64"]
    configuration = (tmp_path / "calls.conf").read_text()
    assert configuration.startswith(
        'APT::Architecture "arm64";\nAPT::Install-Recommends "false";\n'
    )
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "calls", "calls.conf", "root"}


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, unpack: Unpack) -> None:
    unpack(tmp_path / "root")
    before = (tmp_path / "calls").read_text()
    assert unpack(tmp_path / "root").returncode == 0
    assert (tmp_path / "calls").read_text() == before


def test_nothing_is_unpacked_if_a_download_fails_and_the_next_run_begins_again(
    tmp_path: Path, unpack: Unpack
) -> None:
    assert unpack(tmp_path / "root", status=100).returncode == 100
    assert not (tmp_path / "root").exists()
    assert unpack(tmp_path / "root").returncode == 0
    assert (tmp_path / "root").is_dir()
