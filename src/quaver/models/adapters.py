"""Adapters of tasks (LoRA): small products of matrices that are added to a model's weights while they are read.

jina-embeddings-v3 has one adapter for each task in the tensors of its own file; PEFT writes each into a folder of its
own. A model runs with one of them, merged: no multiplication is added.

Source:
    Hu et al., LoRA (arXiv 2106.09685); Sturua et al., jina-embeddings-v3 (arXiv 2409.10173); the layout of the file:
    modeling_lora.py of jinaai/xlm-roberta-flash-implementation; of the folders: peft 0.18.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError, ModelFolderError, UnsupportedArchitectureError, WeightsError
from quaver.models.files import AdapterFile, ConfigFile, read_checked
from quaver.models.prompts import document_prompt, query_prompt
from quaver.models.weights_file import ADAPTER_FILE, StoredTensors, read_tensors

RETRIEVAL = "retrieval"
"""Two adapters in one model: one for queries, one for documents."""

_QUERIES, _DOCUMENTS = "retrieval.query", "retrieval.passage"
_INSIDE = ".parametrizations.weight"
_ORIGINAL, _A, _B = f"{_INSIDE}.original", f"{_INSIDE}.0.lora_A", f"{_INSIDE}.0.lora_B"
_PEFT = "base_model.model."
_MOST_TASKS = 64
# Of a table of words only a part is multiplied at a time.
_ROWS_AT_ONCE = 16384


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model.

    Attributes:
        tasks: their names, in the order of the model's file.
        scale: what a product is multiplied with, where the file has them.
        instructions: what goes before the texts of a task.
        folders: the folder of each task, where each has its own; empty where the file has them.
    """

    tasks: tuple[str, ...]
    scale: float = 1.0
    instructions: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def choices(self) -> tuple[str, ...]:
        """What a user may ask for: a task, or retrieval with both of its adapters."""
        both = {_QUERIES, _DOCUMENTS} <= set(self.tasks) and RETRIEVAL not in self.tasks
        return (RETRIEVAL, *self.tasks) if both else self.tasks

    def choose(self, task: str | None, name: str) -> str:
        """Return the task that a model is opened for.

        Args:
            task: what the user asks for; None for retrieval.
            name: of the model, for messages.

        Raises:
            InputError: the model has no such task, or none was named and there is no retrieval.
        """
        chosen = RETRIEVAL if task is None else task
        if chosen not in self.choices:
            raise InputError(
                f"{name} has an adapter for each task, so task must be one of "
                f"{', '.join(self.choices)}: got {task!r}"
            )
        return chosen

    def prompts(self, task: str, given: Mapping[str, str]) -> dict[str, str]:
        """Return the prompts of a model that is opened for a task.

        Args:
            task: the task.
            given: the prompts of its folder by name; those named as a task count where config.json has no
                instructions.
        """
        known = {**given, **self.instructions}
        return {
            **given,
            "query": known.get(self.of_queries(task), query_prompt(given)),
            "document": known.get(self.of_documents(task), document_prompt(given)),
        }

    def of_queries(self, task: str) -> str:
        """Return the adapter of queries."""
        return task if task in self.tasks else _QUERIES

    def of_documents(self, task: str) -> str:
        """Return the adapter of documents."""
        return task if task in self.tasks else _DOCUMENTS

    def merged(
        self, stored: StoredTensors, task: str, *, widen: bool = True
    ) -> Mapping[str, NDArray[Any]]:
        """Return the tensors of a model with one adapter in them.

        Args:
            stored: the tensors of the model's file.
            task: which adapter, one of `tasks`.
            widen: see `read_tensors`.

        Raises:
            WeightsError: an adapter's tensors do not fit the model, or are missing.
        """
        if self.folders:
            return _FromFolder(stored, self.folders[task], widen)
        return _FromFile(stored, self.tasks.index(task), len(self.tasks), self.scale)


def find_adapters(folder: Path, config: ConfigFile) -> Adapters | None:
    """Find the adapters of a model folder.

    Args:
        folder: the folder of config.json.
        config: config.json.

    Returns:
        the adapters, or None.

    Raises:
        ModelFolderError: config.json or a folder of an adapter contradicts itself.
        UnsupportedArchitectureError: an adapter is of another kind than LoRA.
    """
    if config.lora_adaptations:
        names = config.lora_adaptations
        if len(set(names)) < len(names) or config.lora_rank is None or config.lora_alpha is None:
            raise ModelFolderError(
                "config.json of a model with lora_adaptations must name each once, and have lora_rank and "
                f"lora_alpha: got {names!r}, {config.lora_rank!r} and {config.lora_alpha!r}"
            )
        given = config.task_instructions or {}
        return Adapters(tuple(names), config.lora_alpha / config.lora_rank, given)
    places = [*folder.glob("*/adapter_config.json"), *folder.glob("adapters/*/adapter_config.json")]
    if not places:
        return None
    found = {
        place.parent.name.replace("retrieval_", f"{RETRIEVAL}."): place.parent
        for place in sorted(places)
    }
    if len(found) < len(places) or len(places) > _MOST_TASKS:
        raise ModelFolderError(
            f"{folder} must have at most {_MOST_TASKS} folders of adapters, each with a name of its own: it "
            f"has {len(places)}"
        )
    for place in found.values():
        _scale(place)  # refuses what is no LoRA
    return Adapters(tuple(found), instructions={}, folders=found)


def _scale(folder: Path) -> float:
    """Return what the products of a PEFT adapter are multiplied with."""
    where = folder / "adapter_config.json"
    config = read_checked(AdapterFile, where)
    if config is None or config.r is None or config.lora_alpha is None:
        raise ModelFolderError(
            f"{where} must have r and lora_alpha, the rank and scale of the adapter"
        )
    own = {
        "peft_type": config.peft_type not in (None, "LORA"),
        "use_dora": bool(config.use_dora),
        "bias": config.bias not in (None, "none"),
        "rank_pattern": bool(config.rank_pattern),
        "alpha_pattern": bool(config.alpha_pattern),
        "modules_to_save": bool(config.modules_to_save),
        "fan_in_fan_out": bool(config.fan_in_fan_out),
    }
    for key, refused in own.items():
        if refused:
            raise UnsupportedArchitectureError(
                f"{where} has {key}={getattr(config, key)!r}; supported are LoRA adapters of weights, one rank "
                "and scale for all"
            )
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


class _Merged(Mapping[str, NDArray[Any]]):
    """Tensors of a model, each with its adapter's product when it is taken."""

    def __init__(self, stored: StoredTensors) -> None:
        self._stored = stored
        self._names: dict[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _FromFile(_Merged):
    """With adapters inside the model's file, all tasks of a tensor stacked."""

    def __init__(self, stored: StoredTensors, task: int, tasks: int, scale: float) -> None:
        super().__init__(stored)
        self._task, self._tasks, self._scale = task, tasks, scale
        for name in stored:
            if name.endswith(_ORIGINAL):
                self._names[f"{name.removesuffix(_ORIGINAL)}.weight"] = name
            elif _INSIDE not in name:
                self._names[name] = name
        if not any(name.endswith(_ORIGINAL) for name in stored):
            raise WeightsError(
                "config.json says lora_adaptations, but the weights have no adapters "
                f"(tensors ending with {_A!r}); are these the weights that belong to it?"
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        stored = self._names[name]
        weight = self._stored[stored]
        if not stored.endswith(_ORIGINAL):
            return weight
        start = stored.removesuffix(_ORIGINAL)
        a, b = (self._part(f"{start}{end}") for end in (_A, _B))
        # A table is looked up by its rows, so its adapter is stored the other way round.
        left, right = (a, b) if start.endswith("_embeddings") else (b, a)
        return _plus(weight, left, right, self._scale, name)

    def _part(self, name: str) -> NDArray[np.float32]:
        if name not in self._stored:
            raise WeightsError(f"tensor {name!r} is missing from the weights; download them again")
        stacked = self._stored[name]
        if stacked.ndim != 3 or len(stacked) != self._tasks:
            raise WeightsError(
                f"tensor {name!r} must have three axes, the first for {self._tasks} tasks: got "
                f"{stacked.shape}"
            )
        part: NDArray[np.float32] = stacked[self._task]
        return part


class _FromFolder(_Merged):
    """With the adapter that PEFT has written into a folder."""

    def __init__(self, stored: StoredTensors, folder: Path, widen: bool) -> None:
        super().__init__(stored)
        self._scale = _scale(folder)
        self._products: dict[str, dict[str, NDArray[Any]]] = {}
        adapter = read_tensors(folder, widen=widen, single=ADAPTER_FILE)
        self._names = {name: name for name in stored}
        for name in adapter:
            start, kind, end = name.removeprefix(_PEFT).partition(".lora_")
            full = f".{start}.weight"
            target = next(
                (n for n in stored if f".{n}".endswith(full) or full.endswith(f".{n}")), None
            )
            if not kind or end.removesuffix(".weight") not in (
                "A",
                "B",
                "embedding_A",
                "embedding_B",
            ):
                raise WeightsError(
                    f"{folder} has the tensor {name!r}, which is no part of a LoRA adapter"
                )
            if target is None:
                raise WeightsError(
                    f"{folder} adapts {start!r}, which the model does not have; does it belong to this model?"
                )
            self._products.setdefault(target, {})[end.removesuffix(".weight")] = adapter[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        weight, parts = self._stored[name], self._products.get(name)
        if parts is None:
            return weight
        a, b = parts.get("A"), parts.get("B")
        if a is None or b is None:
            a, b = parts.get("embedding_B"), parts.get("embedding_A")
            a, b = (None if part is None else part.T for part in (a, b))
        if a is None or b is None:
            raise WeightsError(
                f"the adapter of {name!r} must have both of its matrices: it has one"
            )
        return _plus(weight, b, a, self._scale, name)


def _plus(
    weight: NDArray[Any],
    left: NDArray[Any],
    right: NDArray[Any],
    scale: float,
    name: str,
) -> NDArray[np.float32]:
    """Return weight + scale * left @ right."""
    if (*left.shape[:1], *right.shape[1:]) != weight.shape or left.shape[1:] != right.shape[:1]:
        raise WeightsError(
            f"the adapter of {name!r} must multiply to {weight.shape}: got {left.shape} and {right.shape}"
        )
    total = np.array(weight, np.float32)
    right = right.astype(np.float32) * np.float32(scale)
    for first in range(0, len(total), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        total[rows] += left[rows].astype(np.float32) @ right
    return total
