"""The models of an evaluation: which class each is, what its column is called, who runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from quaver.cli.options import cache_folder
from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.evaluate import (
    IndexSystem,
    PairSystem,
    System,
    VectorCache,
    VectorSystem,
    is_quantized_folder,
    quaver_key,
)
from quaver.integrations.mteb import MtebCrossEncoder, MtebEncoder
from quaver.models import ModelFolder
from quaver.reranker import CrossEncoder
from quaver.store import Mode

Model: TypeAlias = Embedder | CrossEncoder


@dataclass(frozen=True)
class Models:
    """What is measured.

    Attributes:
        baseline: in float32.
        systems: what is compared with it: the models, then other engines.
        ours: names of the models among them, in the order they were given.
        loaded: the baseline and the models themselves.
        described: for the record.
    """

    baseline: System
    systems: list[System]
    ours: list[str]
    loaded: list[Model]
    described: dict[str, str]

    def for_mteb(self) -> tuple[Any, dict[str, Any]]:
        """Return the baseline and the models behind mteb's protocols.

        Raises:
            InputError: other engines are compared, which do not have these protocols.
        """
        if len(self.systems) > len(self.ours):
            raise InputError(
                "other engines are compared on retrieval and reranking only: leave --compare out, "
                "or the other tasks"
            )
        wrapped = [
            MtebEncoder(model) if isinstance(model, Embedder) else MtebCrossEncoder(model)
            for model in self.loaded
        ]
        return wrapped[0], dict(zip(self.ours, wrapped[1:], strict=True))


def load_models(
    names: Sequence[str],
    baseline: str | None,
    *,
    others: Sequence[str],
    calibration: str | None,
    cache: Path | None,
    through: Mode | None,
    settings: dict[str, Any],
) -> Models:
    """Load everything that is measured.

    Args:
        names: folders or hub ids of the models to run in int8.
        baseline: of the model to run in float32; None takes the only model itself.
        others: engines to compare with.
        calibration: texts for those that need some.
        cache: folder that keeps vectors, or None.
        through: search mode of an index, or None for the models alone.
        settings: pooling, max_seq_length and threads.

    Returns:
        The models.

    Raises:
        InputError: the arguments contradict each other.
        ModelError: a model cannot be loaded.
    """
    if baseline is None:
        if len(names) != 1 or is_quantized_folder(Path(names[0])):
            raise InputError(
                "a loss is measured against the model in float32: say which with --baseline"
            )
        baseline = names[0]
    kept = None if cache is None else VectorCache(cache)
    base = _load(baseline, "float32", settings)
    models = [_load(name, "int8", settings) for name in names]
    columns = ["int8"] if len(names) == 1 else [Path(name).name for name in names]
    described = {"float32": base.source}
    systems: list[System] = []
    for column, model in zip(columns, models, strict=True):
        if isinstance(model, Embedder) != isinstance(base, Embedder):
            raise InputError(
                f"a model and its baseline must be of one sort: {model.name} is "
                f"{_sort(model)}, {base.name} is {_sort(base)}"
            )
        described[column] = model.source
        systems.append(_system(column, model, kept, through))
    if others:
        if not isinstance(base, Embedder):
            raise InputError("--compare takes embedding models: got a cross-encoder")
        from quaver_bench.peers import peer_systems

        graphs = cache_folder("evaluate") if cache is None else cache / "graphs"
        systems += peer_systems(others, base, calibration=calibration, graphs=graphs, kept=kept)
    return Models(
        baseline=_system("float32", base, kept, through),
        systems=systems,
        ours=columns,
        loaded=[base, *models],
        described=described,
    )


def _load(name: str, precision: Any, settings: dict[str, Any]) -> Model:
    """Load a cross-encoder if the folder says it is one, else an embedder."""
    if ModelFolder.open(name).is_classifier:
        rest = {key: value for key, value in settings.items() if key != "pooling"}
        return CrossEncoder.from_pretrained(name, precision=precision, **rest)
    return Embedder.from_pretrained(name, precision=precision, **settings)


def _system(name: str, model: Model, cache: VectorCache | None, through: Mode | None) -> System:
    if isinstance(model, CrossEncoder):
        if through is not None:
            raise InputError("--store measures an embedding model's index: got a cross-encoder")
        return PairSystem(name, model)
    if through is not None:
        return IndexSystem(name, model, mode=through)
    return VectorSystem(name, model, cache=cache, key=quaver_key(model) if cache else "")


def _sort(model: Model) -> str:
    return "an embedding model" if isinstance(model, Embedder) else "a cross-encoder"
