"""Export model folders that sentence-transformers opens with Quaver's engine, without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quaver.disk_space import require_disk_space
from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.models import ModelFolder, ModelKind, find_folder
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder
from quaver.system import written_whole

Task = Literal["embed", "rank", "sparse", "multi-vector"]
TASKS: Mapping[ModelKind, Task] = {
    "embedder": "embed",
    "cross-encoder": "rank",
    "sparse": "sparse",
    "multi-vector": "multi-vector",
}
"""What sentence-transformers' module does with each kind of model."""
CLASSES: Mapping[Task, str] = {
    "embed": "SentenceTransformer",
    "rank": "CrossEncoder",
    "sparse": "SparseEncoder",
    "multi-vector": "MultiVectorEncoder",
}
"""The class of sentence-transformers for each task."""
CONFIG_FILE = "quaver_config.json"
MODEL_FOLDER = "model"
"""The subfolder with the model itself, an ordinary model folder."""

_MODULE = "quaver.integrations.sentence_transformers.QuaverModule"
_LABELS = "1_Dense"
_DENSE = "sentence_transformers.base.modules.dense.Dense"
_COPIED = {".json", ".safetensors", ".txt", ".model", ".md", ".metadata"}
_LICENCES = ("LICENSE", "NOTICE")


def export_sentence_transformers(
    name_or_path: str | Path,
    target: str | Path,
    *,
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
    pooling: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Task:
    """Write a folder for the class of sentence-transformers that opens models of this kind.

    Args:
        name_or_path: model folder or hub id, quantized or not.
        target: a new or empty folder.
        precision: precision of the engine.
        pooling: for a model folder that does not specify it; see `Embedder.from_pretrained`.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        token: hub access token.

    Returns:
        the task, a key of `CLASSES`, which names the class that opens the folder.

    Raises:
        ModelError: the model cannot be loaded.
        InputError: the target is not empty or cannot be written; no partial folder is left.
    """
    goal = Path(target)
    if goal.exists() and (not goal.is_dir() or any(goal.iterdir())):
        raise InputError(f"the target must be a new or empty folder: {goal} is not; choose another")
    found = find_folder(name_or_path, revision, local_files_only, token)
    task = task_of(found.path, pooling)
    settings: dict[str, Any] = {"precision": precision}
    if task == "embed" and pooling is not None:
        settings["pooling"] = pooling
    config, labels = _sentence_transformers_config(found.path, task, settings)
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(goal) as partial:
            copy_model(found.path, partial / MODEL_FOLDER)
            modules = [{"idx": 0, "name": "0", "path": "", "type": _MODULE}]
            if labels > 1:
                _write_labels(partial / _LABELS, labels)
                modules.append({"idx": 1, "name": "1", "path": _LABELS, "type": _DENSE})
            _write(partial / "modules.json", modules)
            _write(partial / "config_sentence_transformers.json", config)
            _write(partial / CONFIG_FILE, {"task": task, **settings})
            if goal.exists():
                goal.rmdir()
    except OSError as error:
        raise InputError(f"cannot write {goal}: {error.strerror or error}") from error
    return task


def task_of(folder: Path, pooling: str | None = None) -> Task:
    """Return a model's task.

    Args:
        folder: the model folder.
        pooling: how the caller pools the tokens of an embedding model, or None.

    Raises:
        ModelError: the folder cannot be read.
        InputError: there is a pooling, and the model has more than one vector for a text.
    """
    return TASKS[ModelFolder.open_any(folder, pooling=pooling).kind]


def copy_model(source: Path, target: Path) -> None:
    """Copy a model folder without code and without weights in other formats.

    Args:
        source: the model folder.
        target: the new folder; its parents are created.

    Raises:
        InputError: the disk has no room for them.
        OSError: a file cannot be read or written.
    """
    files = [file for file in source.rglob("*") if file.is_file() and _is_copied(file)]
    require_disk_space(target, sum(file.stat().st_size for file in files), InputError)
    for file in files:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _is_copied(file: Path) -> bool:
    if file.name.startswith("pytorch_model") and file.suffix == ".bin":
        return next(file.parent.glob("model*.safetensors"), None) is None
    return file.suffix in _COPIED or file.name.startswith(_LICENCES)


def _sentence_transformers_config(
    folder: Path, task: Task, settings: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """Return config_sentence_transformers.json and the number of labels, 1 for other models.

    Loads the model, so a model that does not work is not exported.
    """
    if task == "rank":
        model = CrossEncoder.from_pretrained(folder, **settings)
        kind = {"sigmoid": "Sigmoid", "identity": "Identity"}[model.activation]
        module = "activation" if kind == "Sigmoid" else "linear"
        activation = f"torch.nn.modules.{module}.{kind}"
        return {"model_type": "CrossEncoder", "activation_fn": activation}, model.labels
    config: dict[str, Any]
    if task == "multi-vector":
        tokens = MultiVectorEncoder.from_pretrained(folder, **settings)
        config = {"model_type": "MultiVectorEncoder", "default_prompt_name": None}
        return {**config, **_shared_config(tokens)}, 1
    if task == "sparse":
        sparse = SparseEncoder.from_pretrained(folder, **settings)
        config = {
            "model_type": "SparseEncoder",
            "default_prompt_name": sparse.default_prompt_name,
        }
        return {**config, **_shared_config(sparse)}, 1
    embedder = Embedder.from_pretrained(folder, **settings)
    config = {
        "model_type": "SentenceTransformer",
        "default_prompt_name": embedder.default_prompt_name,
    }
    return {**config, **_shared_config(embedder)}, 1


def _shared_config(model: Embedder | SparseEncoder | MultiVectorEncoder) -> dict[str, Any]:
    return {"prompts": model.prompts, "similarity_fn_name": model.similarity_fn_name}


def _write_labels(folder: Path, labels: int) -> None:
    """Write an identity layer, from which a CrossEncoder reads the number of labels."""
    from safetensors.numpy import save_file

    folder.mkdir()
    config = {
        "in_features": labels,
        "out_features": labels,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "scores",
        "module_output_name": "scores",
    }
    _write(folder / "config.json", config)
    save_file({"linear.weight": np.eye(labels, dtype=np.float32)}, folder / "model.safetensors")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
