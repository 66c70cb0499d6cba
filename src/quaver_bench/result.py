"""The result: rows and the runs they come from; read, write and merge."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from quaver.errors import InputError
from quaver_bench.stored import BrokenError, check
from quaver_bench.whole_files import written_whole

KIND, FORMAT = "quaver bench", 1
RESULTS = "results.json"
PARTS = ("latency", "throughput", "text", "concurrency", "start")
SOUND = 0.8
"""Lowest mean cosine to float32 of vectors that still are the model's: the worst measured int8 has 0.88."""
FARTHEST = 2.0
"""Largest mean difference to float32, in logits, of scores that still are the model's."""


def rounded(value: float, digits: int = 5) -> float:
    """Return a number rounded to a number of significant digits."""
    return float(f"{value:.{digits}g}")


@dataclass
class Row:
    """One engine in one case.

    Attributes:
        part: one of PARTS.
        model: the model's name; a key of `Result.models`.
        case: such as "1x16", "32x256", "ragged256", a corpus, "4 clients", "start".
        engine: name of a form.
        run: index in `Result.runs`.
        values: name with unit to number, such as "median_ms", "p99_ms", "tokens_per_second".
        ratio: how many times as fast Quaver int8 is: median, lower and upper quartile over rounds;
            None for Quaver int8 itself, without rounds, and if the vectors are not the model's.
        cosine: mean cosine to float32 on the same texts; None if not measured.
        padding: share of the computed tokens that is padding, 0 to 1; None if unknown.
        rounds: number of rounds that count.
        dropped: number of rounds dropped because of other programs.
        disturbed: whether other programs disturbed most rounds, so all of them count.
        settings: settings of the engine.
        ndcg10_difference: difference to float32 in NDCG@10 on judged texts; None without such texts.
        score_difference: mean absolute difference to the scores of float32, in logits; None for vectors.
    """

    part: str
    model: str
    case: str
    engine: str
    run: int
    values: dict[str, float]
    ratio: list[float] | None = None
    cosine: float | None = None
    padding: float | None = None
    rounds: int = 0
    dropped: int = 0
    disturbed: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    ndcg10_difference: float | None = None
    score_difference: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identity of the row: a later row with the same key replaces it."""
        return self.part, self.model, self.case, self.engine

    @property
    def sound(self) -> bool:
        """Whether vectors or scores are the model's, or were not compared with float32; False for nan."""
        near = self.cosine is None or self.cosine >= SOUND
        return near and (self.score_difference is None or self.score_difference <= FARTHEST)

    @property
    def distance(self) -> str:
        """The figure that compares vectors or scores with float32, in words; "" if there is none."""
        if self.score_difference is not None:
            return f"mean difference of scores to float32 {self.score_difference:.2f}"
        return "" if self.cosine is None else f"mean cosine to float32 {self.cosine:.2f}"

    def compare(self, median: float, low: float, high: float) -> None:
        """Set the ratio, unless the vectors are not the model's: then the speed means nothing.

        Args:
            median: how many times as fast Quaver int8 is.
            low: lower quartile over the rounds.
            high: upper quartile.
        """
        self.ratio = [round(float(x), 4) for x in (median, low, high)] if self.sound else None


@dataclass
class Result:
    """A results file.

    Attributes:
        runs: machine, versions, commit and command of each run of `quaver bench`.
        models: name to "describe", "weights", "pooling" and "kind", and "judged" if judged texts were
            ranked.
        missing: engine, or engine and case, to the reason why it was not measured.
        quality: model to engine to figures on judged texts: "ndcg10", and "difference" to float32.
        rows: the rows.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    quality: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows; they replace rows of the same part, model, case and engine."""
        by_key = {row.key: row for row in self.rows}
        by_key |= {row.key: row for row in rows}
        self.rows = list(by_key.values())

    def merge(self, other: Result) -> None:
        """Add another result's runs and rows; its rows replace those of the same key."""
        offset = len(self.runs)
        self.runs += other.runs
        for name, facts in other.models.items():
            self.models[name] = {**self.models.get(name, {}), **facts}
        self.missing |= other.missing
        for model, figures in other.quality.items():
            self.quality.setdefault(model, {}).update(figures)
        self.add(Row(**{**asdict(row), "run": row.run + offset}) for row in other.rows)

    def drop_unused(self) -> None:
        """Drop runs without rows, and reasons for engines that have rows."""
        used = sorted({row.run for row in self.rows})
        place = {run: index for index, run in enumerate(used)}
        self.runs = [self.runs[run] for run in used] or self.runs[-1:]
        for row in self.rows:
            row.run = place[row.run]
        found = {row.engine for row in self.rows}
        found |= {f"{row.engine} ({row.model}, {row.case})" for row in self.rows}
        self.missing = {key: why for key, why in self.missing.items() if key not in found}

    def rate(self) -> None:
        """Set every row's difference in NDCG@10 on judged texts."""
        for row in self.rows:
            found = self.quality.get(row.model, {}).get(row.engine, {})
            row.ndcg10_difference = found.get("difference")

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            InputError: the file cannot be written.
        """
        content = {"kind": KIND, "format": FORMAT, **asdict(self)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error


def read_result(path: Path) -> Result:
    """Read a results file.

    Args:
        path: the file, or the folder of results.json.

    Returns:
        the result.

    Raises:
        InputError: the file cannot be read, or is not a result of `quaver bench`.
    """
    file = path / RESULTS if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read results: {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"results must be JSON: {file}: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"results must be written by quaver bench: {file} is not")
    if content.get("format") != FORMAT:
        raise InputError(
            f"results must have format {FORMAT}: {file} has {content.get('format')!r}; measure again"
        )
    try:
        check(content)
        rows = [Row(**row) for row in content["rows"]]
        names = {f.name for f in fields(Result)} - {"rows"}
        return Result(**{name: content[name] for name in names}, rows=rows)
    except (BrokenError, InputError, TypeError) as error:
        raise InputError(f"results are broken: {file}: {error}") from error
