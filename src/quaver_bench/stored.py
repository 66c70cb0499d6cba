"""The schema of results.json: what tables, plots and comparisons rely on."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from quaver_bench.inputs import case_lengths
from quaver_bench.kinds import KINDS

Count = Annotated[int, Meta(ge=1)]
Index = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Ratio = Annotated[list[Positive], Meta(min_length=3, max_length=3)]

COMPARED = {
    "latency": ("p50_ms", False),
    "throughput": ("texts_per_second", True),
    "text": ("texts_per_second", True),
    "concurrency": ("queries_per_second", True),
    "start": ("first_vector_seconds", False),
}
"""Part to the figure that two results are compared by, and whether more of it is better."""
_FIGURES = {
    "latency": ("median_ms", "p50_ms", "p95_ms", "p99_ms"),
    "throughput": ("median_ms", "texts_per_second"),
    "text": ("median_ms", "texts_per_second"),
    "concurrency": ("queries_per_second", "p50_ms", "p95_ms", "p99_ms"),
    "start": ("first_vector_seconds",),
}
"""Part to the figures that every row has; they are divisors, and are drawn on logarithmic axes."""
_VALUES = {
    part: msgspec.defstruct(part, [(name, Positive) for name in names])
    for part, names in _FIGURES.items()
}


class BrokenError(ValueError):
    """The content of a results file breaks the schema; the message says where and how."""


class _File(Struct):
    runs: list[Any]
    models: dict[str, Any]
    missing: dict[str, Any]
    quality: dict[str, Any]
    rows: list[Any]


class _Settings(Struct):
    governor: str
    allocator: str
    transparent_huge_pages: str


class _Run(Struct):
    cpu: str
    cpu_flags: list[str]
    quaver_isa: str
    affinity: list[Index]
    threads: Count
    settings: _Settings
    environment: dict[str, Any]
    versions: dict[str, Any]
    commit: str
    command: str
    python: str
    date: str
    cpu_model: str = ""
    instances: Count = 1


class _Model(Struct):
    describe: str
    weights: str
    pooling: str
    judged: str = ""
    kind: str = "embedder"


class _Quality(Struct):
    # Any float: the figures of broken vectors may be nan, and are shown as such.
    ndcg10: float
    difference: float = 0.0


class _Row(Struct, forbid_unknown_fields=True):
    part: Literal["latency", "throughput", "text", "concurrency", "start"]
    model: str
    case: str
    engine: str
    run: Index
    values: dict[str, Any]
    ratio: Ratio | None = None
    cosine: float | None = None
    padding: Share | None = None
    rounds: Index = 0
    dropped: Index = 0
    disturbed: bool = False
    settings: dict[str, Any] = {}
    ndcg10_difference: float | None = None
    score_difference: float | None = None


def check(content: Mapping[str, Any]) -> None:
    """Check the content of a results file.

    Args:
        content: the JSON object.

    Raises:
        BrokenError: a field is missing, or has a wrong type or value.
    """
    _check(_File, content, "the result")
    for at, run in enumerate(content["runs"]):
        _check(_Run, run, f"run {at}")
    for name, facts in content["models"].items():
        _check(_Model, facts, f"model {name}")
        if facts.get("kind", "embedder") not in KINDS:
            raise BrokenError(
                f"model {name}: its kind must be one of {', '.join(KINDS)}: got {facts['kind']!r:.80}"
            )
    for name, why in content["missing"].items():
        _check(str, why, f"missing {name}")
    for model, figures in content["quality"].items():
        _check(dict[str, Any], figures, f"quality of {model}")
        for engine, found in figures.items():
            _check(_Quality, found, f"quality of {model}, {engine}")
    for at, row in enumerate(content["rows"]):
        _check_row(row, content, f"row {at}")


def _check_row(row: Any, content: Mapping[str, Any], where: str) -> None:
    _check(_Row, row, where)
    if row["model"] not in content["models"]:
        raise BrokenError(f"{where}: its model is not among the models: {row['model']!r:.80}")
    if row["run"] >= len(content["runs"]):
        raise BrokenError(f"{where}: its run is not among the runs: {row['run']}")
    if row["part"] in ("latency", "throughput"):
        case_lengths(row["case"])
    _check(_VALUES[row["part"]], row["values"], f"{where}, values")
    for name, value in row["values"].items():
        _check(Number, value, f"{where}, values, {name}")


def _check(kind: Any, value: Any, where: str) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).replace("`", "").partition(" - at $")
        for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", place):
            where += f", {key or index}"
            value = value[key or int(index)]
        reason = reason[0].lower() + reason.partition(", got")[0][1:]
        raise BrokenError(f"{where}: {reason}: got {value!r:.80}") from None
