"""The tiny random models of tests/golden/folders, which `tools/module_folders.py --golden` writes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tiny_model import edit_json

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


def unpacked_with_outputs(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Unpack a model as `unpacked` does, and return its folder and what its own library computed.

    Args:
        name: of the zip file.
        folder: where to.

    Returns:
        the folder, and the content of expected.json: float32 arrays, but lists of texts and of ids.
    """
    path = unpacked(name, folder)
    outputs = json.loads((path / "expected.json").read_text(encoding="utf-8"))
    return path, {
        key: values if key in ("ids", "texts") else np.asarray(values, np.float32)
        for key, values in outputs.items()
    }


def needing_an_instruction(folder: Path) -> Path:
    """Give a reranker with a chat template one that fails without an instruction, and no default for it.

    Args:
        folder: of the reranker.

    Returns:
        the same folder.
    """
    template = (
        "{{ (messages | selectattr('role', 'equalto', 'system') | first).content }}: "
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    edit_json(folder / "config_sentence_transformers.json", default_prompt_name=None)
    return folder
