"""Files and folders that are there whole or not at all, whenever a run is killed.

`quaver.system`, which is not public, has the same with other names: engines here go by the suffix of a file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file or folder under another name, which becomes `path` when the block ends.

    Args:
        path: the file, which may exist, or the folder, which does not; its parent exists.

    Yields:
        a path beside it with the same suffix, where nothing is. What is there when the block fails is removed.

    Raises:
        OSError: the block wrote nothing, or what it wrote cannot be renamed.
    """
    part = path.with_name(f"part-{path.name}")
    _remove(part)  # of a run that was killed
    try:
        yield part
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
