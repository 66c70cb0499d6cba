"""The description of a run: machine, versions, commit, command."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from quaver import info

PACKAGES = (
    "quaver",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "openvino",
    "nncf",
    "onnx",
    "onnxruntime",
    "torchao",
    "ctranslate2",
    "fastembed",
    "flashrank",
    "onnxscript",
    "llama-cpp-python",
    "gguf",
    "intel-extension-for-pytorch",
    "zentorch",
)
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "QUAVER_ISA", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe_run(
    threads: int,
    command: Sequence[str],
    cpus: Sequence[Sequence[int]] = ((),),
    *,
    random_ids: bool = False,
) -> dict[str, Any]:
    """Describe this machine and this run.

    Args:
        threads: threads of every engine.
        command: the command line, program first.
        cpus: CPUs of each instance, if there are several.
        random_ids: whether the ids are random.

    Returns:
        JSON values, without paths of this machine.
    """
    facts, cpu = info(), _cpu()
    return {
        "cpu": facts["cpu"],
        "cpu_model": f"family {cpu.get('cpu family', '?')} model {cpu.get('model', '?')}",
        "cpu_flags": cpu_flags(),
        "cpus": facts["cpus"],
        "affinity": sorted(os.sched_getaffinity(0)),
        "threads": threads,
        "instances": len(cpus),
        "instance_cpus": [list(mine) for mine in cpus] if len(cpus) > 1 else [],
        "random_ids": random_ids,
        "settings": facts["settings"],
        "kernel": platform.release(),
        "quaver_isa": facts["isa"],
        "compiler": facts["compiler"],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _commit(),
        "command": " ".join(map(_shown, command)),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def cpu_flags() -> list[str]:
    """Return which of FLAGS this CPU has."""
    flags = _cpu().get("flags", "").split()
    return [flag for flag in FLAGS if flag in flags]


def _cpu() -> dict[str, str]:
    """Return the fields of the first CPU in /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str:
    """Return the commit that is checked out here, with "+changes" if the sources differ from it.

    It is empty outside Quaver's repository: an installed package has only a version.
    """
    if not Path("src/quaver_bench").is_dir():
        return ""
    head = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--", "native", "src", "CMakeLists.txt")
    return head + ("+changes" if head and changes else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _shown(argument: str) -> str:
    """Return a word of the command line; only the name of a path outside the working directory."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    resolved, here = path.resolve(), Path.cwd()
    return resolved.relative_to(here).as_posix() if resolved.is_relative_to(here) else path.name
