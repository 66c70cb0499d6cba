"""The operating system: what Quaver asks of it, each in one module with a form for Linux and a portable one."""

from __future__ import annotations

from quaver.system.cpus import (
    allowed_cpus,
    core_count,
    cpu_caches,
    cpu_cores,
    keep_to,
    numa_nodes,
    parse_cpus,
    smt_siblings,
)
from quaver.system.files import open_to_read, sync, write_at
from quaver.system.limits import allow_files, limit_seconds, limit_worker, memory_limit
from quaver.system.locks import LockedFile
from quaver.system.memory import give_back_memory
from quaver.system.processes import has_ended, is_running, machine, start_of
from quaver.system.quota import cpu_quota
from quaver.system.switch import LINUX
from quaver.system.tuning import allocator, governor, transparent_huge_pages
from quaver.system.whole import written_whole

__all__ = [
    "LINUX",
    "LockedFile",
    "allocator",
    "allow_files",
    "allowed_cpus",
    "core_count",
    "cpu_caches",
    "cpu_cores",
    "cpu_quota",
    "give_back_memory",
    "governor",
    "has_ended",
    "is_running",
    "keep_to",
    "limit_seconds",
    "limit_worker",
    "machine",
    "memory_limit",
    "numa_nodes",
    "open_to_read",
    "parse_cpus",
    "smt_siblings",
    "start_of",
    "sync",
    "transparent_huge_pages",
    "write_at",
    "written_whole",
]
