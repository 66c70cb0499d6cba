"""What a result needs beside its numbers: machine, versions, commit, command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from models import REPOSITORY

PACKAGES = (
    "quaver",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "openvino",
    "nncf",
    "onnx",
    "onnxruntime",
)
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "QUAVER_ISA", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")
FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)


def describe_run(threads: int) -> dict[str, Any]:
    """Describe this machine and this run.

    Args:
        threads: threads pinned in every engine.

    Returns:
        JSON values; no path of this machine among them.
    """
    import quaver

    info = quaver.info()
    return {
        "cpu": info["cpu"],
        "cpu_flags": [flag for flag in FLAGS if flag in _cpu_flags()],
        "cpus": info["cpus"],
        "affinity": sorted(os.sched_getaffinity(0)),
        "threads": threads,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "allocator": Path(os.environ.get("LD_PRELOAD", "") or "malloc of libc").name,
        "kernel": platform.release(),
        "quaver_isa": info["isa"],
        "compiler": info["compiler"],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
        "command": _command(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpu_flags() -> set[str]:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str:
    """The checked-out commit, "+changes" behind it when the engine's sources differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--", "native", "src", "CMakeLists.txt")
    return (head or "unknown") + ("+changes" if changes else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _command() -> str:
    """The command line with paths as seen from the repository."""
    return " ".join(["python", *(_relative(argument) for argument in sys.argv)])


def _relative(argument: str) -> str:
    path = Path(argument)
    if not path.is_absolute() and not path.exists():
        return argument
    path = path.resolve()
    if path.is_relative_to(REPOSITORY):
        return path.relative_to(REPOSITORY).as_posix()
    return path.name


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
