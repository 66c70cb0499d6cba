"""What a results file must hold, so that tables, plots and comparisons find it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from quaver_bench.inputs import case_lengths

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
"""Part to the figures that every row has; they are divided by and drawn on logarithmic axes."""


class BrokenError(ValueError):
    """What is wrong, and where."""


def check(content: Mapping[str, Any]) -> None:
    """Check the content of a results file.

    Args:
        content: the JSON object.

    Raises:
        BrokenError: something is not there, or is not what it must be.
    """
    for key, kind in _RESULT.items():
        _need(content, key, kind, "the result")
    for at, run in enumerate(content["runs"]):
        _check_run(run, f"run {at}")
    for name, facts in content["models"].items():
        _mapping(facts, f"model {name}")
        for key in ("describe", "weights", "pooling"):
            _need(facts, key, _TEXT, f"model {name}")
        if "judged" in facts:
            _need(facts, "judged", _TEXT, f"model {name}")
    for name, why in content["missing"].items():
        _need({name: why}, name, _TEXT, "missing")
    for model, figures in content["quality"].items():
        _mapping(figures, f"quality of {model}")
        for engine, found in figures.items():
            where = f"quality of {model}, {engine}"
            _mapping(found, where)
            _need(found, "ndcg10", _SHOWN, where)
            if "difference" in found:
                _need(found, "difference", _SHOWN, where)
    for at, row in enumerate(content["rows"]):
        _check_row(row, content, f"row {at}")


def _check_run(run: Any, where: str) -> None:
    _mapping(run, where)
    for key, kind in _RUN.items():
        _need(run, key, kind, where)
    for key in ("governor", "allocator", "transparent_huge_pages"):
        _need(run["settings"], key, _TEXT, f"{where}, settings")
    for key, kind in (("instances", _COUNT), ("cpu_model", _TEXT)):
        if key in run:
            _need(run, key, kind, where)


def _check_row(row: Any, content: Mapping[str, Any], where: str) -> None:
    _mapping(row, where)
    for key, kind in _ROW.items():
        _need(row, key, kind, where)
    for key, kind in _PERHAPS.items():
        if key in row and not (row[key] is None and key in _NULL):
            _need(row, key, kind, where)
    for key in ("model", "case", "engine"):
        _need(row, key, _TEXT, where)
    if row["model"] not in content["models"]:
        raise BrokenError(f"{where}: its model is not among the models: {row['model']!r:.80}")
    if row["run"] >= len(content["runs"]):
        raise BrokenError(f"{where}: its run is not among the runs: {row['run']}")
    if row["part"] in ("latency", "throughput"):
        case_lengths(row["case"])
    for name in row["values"]:
        _need(row["values"], name, _NUMBER, f"{where}, values")
    for name in _FIGURES[row["part"]]:
        _need(row["values"], name, _POSITIVE, f"{where}, values")


Kind = tuple[Callable[[Any], bool], str]


def _need(found: Mapping[str, Any], key: str, kind: Kind, where: str) -> None:
    holds, must_be = kind
    if key not in found:
        raise BrokenError(f"{where}: {key!r} must be {must_be}: it is not there")
    if not holds(found[key]):
        raise BrokenError(f"{where}: {key!r} must be {must_be}: got {found[key]!r:.80}")


def _mapping(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise BrokenError(f"{where}: must be an object: got {value!r:.80}")


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(abs(value) <= sys.float_info.max)


def _is_number(value: Any) -> bool:
    """Whether it can be shown; "not a number" can: of vectors that are nothing."""
    return isinstance(value, float) or _finite(value)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_TEXT: Kind = (lambda value: isinstance(value, str), "text")
_COUNT: Kind = (lambda value: _whole(value, 1), "a number from 1")
_INDEX: Kind = (lambda value: _whole(value, 0), "a number from 0")
_NUMBER: Kind = (_finite, "a number")
_SHOWN: Kind = (_is_number, "a number")
_POSITIVE: Kind = (lambda value: _finite(value) and value > 0, "a number above 0")
_OBJECT: Kind = (lambda value: isinstance(value, dict), "an object")
_LIST: Kind = (lambda value: isinstance(value, list), "a list")
_CPUS: Kind = (
    lambda value: isinstance(value, list) and all(_whole(cpu, 0) for cpu in value),
    "a list of CPUs",
)
_RESULT = {"runs": _LIST, "models": _OBJECT, "missing": _OBJECT, "quality": _OBJECT, "rows": _LIST}
_RUN: dict[str, Kind] = {
    **dict.fromkeys(("cpu", "quaver_isa", "commit", "command", "python", "date"), _TEXT),
    **dict.fromkeys(("settings", "environment", "versions"), _OBJECT),
    "cpu_flags": (_texts, "a list of texts"),
    "affinity": _CPUS,
    "threads": _COUNT,
}
_ROW: dict[str, Kind] = {
    "part": (lambda value: value in list(_FIGURES), f"one of {', '.join(_FIGURES)}"),
    "run": _INDEX,
    "values": _OBJECT,
}
_PERHAPS: dict[str, Kind] = {
    "ratio": (
        lambda value: (
            isinstance(value, list)
            and len(value) == 3
            and all(_finite(one) and one > 0 for one in value)
        ),
        "three numbers above 0",
    ),
    "cosine": _SHOWN,
    "padding": (lambda value: _finite(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "rounds": _INDEX,
    "dropped": _INDEX,
    "disturbed": (lambda value: isinstance(value, bool), "true or false"),
    "settings": _OBJECT,
    "ndcg10_difference": _SHOWN,
}
_NULL = ("ratio", "cosine", "padding", "ndcg10_difference")
"""What is null where it was not measured."""
