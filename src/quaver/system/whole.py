"""Files and folders that are there whole or not at all, whenever a process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from quaver.system.processes import is_running


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file or folder under another name, which becomes `path` when the block ends.

    A loss of power can still leave half of it, unless the block calls `sync`. What was left by processes
    that were killed is removed first. Two threads of a process must not write the same path at once.

    Args:
        path: the file, which may exist, or the folder, which does not or is empty; its parent exists.

    Yields:
        a hidden path beside it, where nothing is. What is there when the block fails is removed.

    Raises:
        OSError: the block wrote nothing, or what it wrote cannot be renamed.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    for left in path.parent.glob(f".{escape(path.name)}.partial-*"):
        pid = left.name.rpartition("-")[2]
        # In a container, the next process often has the same number.
        if left == partial or (pid.isdigit() and not is_running(int(pid))):
            _remove(left)
    try:
        yield partial
        partial.replace(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
