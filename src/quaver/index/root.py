"""The name under which a folder's passages are stored."""

from __future__ import annotations

from pathlib import Path

from quaver.errors import DocumentError


def root_of(folder: Path) -> str:
    """Return the root under which a folder without a name is stored: its absolute path.

    Args:
        folder: the folder; it need not exist.

    Returns:
        the path with links resolved.

    Raises:
        DocumentError: the path cannot be written as text.
    """
    root = str(folder.expanduser().resolve())
    try:
        root.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"a folder's path must be valid UTF-8: got {root!a}; rename it, or give it a name"
        ) from error
    return root
