"""Compare the targets of this engine with a folder of results.

    python benchmarks/targets.py benchmarks/results/NAME

Reads results.json, process.json and kernels.json of the folder, and the results of other instruction
sets in its subfolders with their names, and writes targets.md. The targets were set for
two cores with AVX512-VNNI (Zen 5) and AVX-VNNI.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from quaver_bench.engines.registry import OURS
from quaver_bench.kinds import EMBEDDER
from quaver_bench.report import kind_of, machine, share_of_peak, table
from quaver_bench.result import RESULTS, Result, Row, read_result

PEER = "openvino-int8"
BEST = ("openvino-int8-tuned", "openvino-float32-tuned", PEER, "openvino-float32")
SIZES = {"small": "384 x 12", "base": "768 x 12", "large": "1024 x 24"}
"""Size to how the models of its shape are described."""
RATIOS: dict[str, tuple[float, float, float]] = {
    "1x16": (2.6, 2.0, 1.6),
    "1x32": (2.2, 1.8, 1.5),
    "1x256": (1.75, 1.35, 1.25),
    "1x512": (1.75, 1.35, 1.25),
    "32x256": (1.75, 1.3, 1.25),
    "ragged256": (3.0, 2.2, 2.0),
}
AT_BEST: dict[str, tuple[float, float, float]] = {
    "32x256": (1.5, 1.28, 1.2),
    "ragged256": (2.0, 1.6, 1.5),
}
INSTEAD = {"32x256": "8x256", "ragged256": "ragged64"}
"""Replacement of a case that takes too long with the large shape."""
SHARES = {"avx512vnni": (0.80, 0.83, 0.84), "avxvnni": (0.75,) * 3, "avx2": (0.75,) * 3}
TEXT_RATIO = 2.7
_LIMITS = (
    ("peak MB, {model}", "memory.peak_mb", 150.0),
    ("drift of memory over {texts} texts, %", "memory.drift_percent", 5.0),
    ("load {model}, s", "start.from_pretrained_seconds", 0.3),
    ("first query after it, ms", "start.first_query_ms", 10.0),
    ("idle, % of a CPU", "idle.cpu_percent", 0.1),
    ("query beside a busy loop, times as long", "beside_busy_loop.query.largest_ratio", 3.0),
    ("batch beside a busy loop, times as long", "beside_busy_loop.batch.largest_ratio", 3.0),
)
"""The figures of process.json, and their limits."""
DASH = "-"


def main() -> None:
    """Write and print targets.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of results")
    folder: Path = parser.parse_args().results
    result = read_result(folder)
    parts = ["# Targets, and what was reached here", machine(result), *_notes(result)]
    parts += ["## Against OpenVINO", _ratios(result), "## Share of the machine's peak"]
    forced = [read_result(folder / isa) for isa in SHARES if (folder / isa / RESULTS).is_file()]
    parts += [_shares([result, *forced], _read(folder / "kernels.json")), "## Other figures"]
    parts += [_others(result, _read(folder / "process.json"))]
    text = "\n\n".join(parts) + "\n"
    (folder / "targets.md").write_text(text, encoding="utf-8")
    print(text)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _notes(result: Result) -> list[str]:
    isa = result.runs[-1]["quaver_isa"]
    notes = [
        f"Ratios are medians over rounds in turns: how many times as fast {OURS} is. "
        f"{PEER} is static int8 by NNCF over all threads; at its best is the fastest of "
        f"{', '.join(BEST)}, with streams and batch size searched and bf16 where the CPU has it."
    ]
    if "vnni" not in isa:
        notes.append(
            f"The targets are for a CPU with VNNI. This one has {isa} alone, where exact int8 takes "
            "two multiplications and two additions for what VNNI does in one instruction; the "
            "figures show the lead that is left without it."
        )
    return notes


def _model(result: Result, size: str) -> str | None:
    """Return the embedding model of a size: a real one, else a shape with random weights."""
    found = {
        facts["weights"]: name
        for name, facts in result.models.items()
        if facts["describe"].startswith(f"{SIZES[size]},") and kind_of(facts) is EMBEDDER
    }
    return found.get("real") or found.get("random")


def _row(result: Result, model: str | None, case: str, engine: str) -> Row | None:
    """Return the row of a case, or of its replacement."""
    for wanted in (case, INSTEAD.get(case)):
        for row in result.rows:
            if (row.model, row.case, row.engine) == (model, wanted, engine):
                return row
    return None


def _ratios(result: Result) -> str:
    real = next(
        (
            name
            for name, facts in result.models.items()
            if facts["weights"] == "real" and kind_of(facts) is EMBEDDER
        ),
        None,
    )
    models = [(real, 0), *((_model(result, size), at) for at, size in enumerate(SIZES))]
    lines = []
    for model, at in models:
        if model is None:
            continue
        for title, peers, wanted in (
            (PEER, (PEER,), RATIOS),
            ("OpenVINO at its best", BEST, AT_BEST),
        ):
            for case, targets in wanted.items():
                found = [row for peer in peers if (row := _row(result, model, case, peer))]
                ratios = [row.ratio[0] for row in found if row.ratio]
                shown = found[0].case if found else case
                against = title if len(found) < 2 else f"{title} ({_best(found)})"
                lines.append(
                    [model, shown, against, *_judged(min(ratios, default=None), targets[at])]
                )
    return table(["model", "case", "against", "target", "here", ""], lines, words=3)


def _best(rows: Sequence[Row]) -> str:
    return min(rows, key=lambda row: row.ratio[0] if row.ratio else 0.0).engine


def _judged(found: float | None, target: float, *, most: bool = False) -> list[str]:
    sign = "<=" if most else ">="
    if found is None:
        return [f"{sign} {target:g}", DASH, "not measured"]
    reached = found <= target if most else found >= target
    return [f"{sign} {target:g}", f"{found:.3g}", "reached" if reached else "below"]


def _shares(results: Sequence[Result], kernels: dict[str, Any]) -> str:
    peaks = {found["isa"]: found for found in kernels.get("kernels", [])}
    lines = []
    for result, (at, size) in product(results, enumerate(SIZES)):
        row = _row(result, _model(result, size), "32x256", OURS)
        if row is None or row.settings["isa"] not in peaks:
            continue
        isa, threads = row.settings["isa"], row.settings["threads"]
        share = share_of_peak(row, {isa: peaks[isa]["peak_gmacs"]})
        case = f"{row.model}, {row.case}, {threads} threads"
        lines.append([isa, case, *_judged(share, SHARES[isa][at])])
    for isa, found in peaks.items():
        for shape in found["shapes"]:
            case = f"{shape['shape']}, {shape['rows']} x {shape['inputs']} x {shape['outputs']}"
            lines.append([isa, f"sums alone, {case}", *_judged(shape["sum_of_peak"], 0.9)])
            lines.append([isa, f"with epilogue, {case}", *_judged(shape["linear_of_peak"], 0.9)])
    head = ["instruction set", "what", "target", "here", ""]
    return table(head, lines, words=2) if lines else "Not measured: `make bench-kernels`."


def _others(result: Result, process: dict[str, Any]) -> str:
    lines = []
    for row in result.rows:
        if row.part == "text" and row.engine == PEER and row.ratio:
            lines.append([f"text to vectors, {row.case}", *_judged(row.ratio[0], TEXT_RATIO)])
    for what, path, most in _LIMITS:
        part, *keys = path.split(".")
        if found := process.get(part):
            value = found
            for key in keys:
                value = value[key]
            lines.append([what.format(**found), *_judged(value, most, most=True)])
    return table(["what", "target", "here", ""], lines) if lines else "Not measured."


if __name__ == "__main__":
    main()
