"""The tiny random models of tests/golden/folders, which `tools/module_folders.py --golden` writes."""

from __future__ import annotations

import zipfile
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "folders"


def unpacked(name: str, folder: Path) -> Path:
    """Unpack a model into a new folder of its name, and return that.

    Args:
        name: of the zip file.
        folder: where to.
    """
    with zipfile.ZipFile(GOLDEN / f"{name}.zip") as packed:
        packed.extractall(folder / name)
    return folder / name
