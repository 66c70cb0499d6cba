"""Put the quality table of a result into docs/results.md.

    python benchmarks/readme_quality.py benchmarks/results/quality/NAME

Every number is read from results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from quaver.evaluate.model_card import write_between
from quaver.evaluate.table import percent

REPOSITORY = Path(__file__).resolve().parent.parent
START, END = "<!-- quality:start -->", "<!-- quality:end -->"
NAMES = {
    "int8": "Quaver int8, dynamic (default)",
    "dynamic": "Quaver int8, dynamic (default)",
    "static": "Quaver int8, static",
    "openvino-int8": "OpenVINO int8 (NNCF, static, SmoothQuant)",
    "onnxruntime-int8-dynamic": "ONNX Runtime int8 (dynamic)",
}


def table(results: dict[str, Any]) -> str:
    """Return a table with a row for each system: the mean and loss of each kind of task, and the cosines."""
    means = results["means"]
    head = ["all-MiniLM-L6-v2"]
    for kind, found in means.items():
        head += [f"{kind}, {found['metric']}", "difference (95 % interval)"]
    head += ["cosine, mean", "1st percentile"]
    first = [f"{next(iter(f['systems'].values()))['baseline']:.4f}" for f in means.values()]
    rows = [["float32", *(cell for score in first for cell in (score, "")), "", ""]]
    for system in results["systems"]:
        cells = []
        for found in means.values():
            own = found["systems"][system]
            interval = f"{100 * own['low']:+.2f} to {100 * own['high']:+.2f}"
            cells += [f"{own['mean']:.4f}", f"{percent(own['relative'])} ({interval})"]
        # Rounded down, so a value just below a bound is not shown as the bound.
        raw = results["fidelity"][system]["raw"]
        cells += [f"{int(raw[key] * 1e4) / 1e4:.4f}" for key in ("mean", "percentile_1")]
        rows.append([NAMES.get(system, system), *cells])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write between the markers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="folder in benchmarks/results/quality")
    folder = parser.parse_args().results.resolve()
    if not folder.is_relative_to(REPOSITORY / "benchmarks" / "results"):
        sys.exit(f"the results page shows folders of benchmarks/results: got {folder}; move it")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    place = folder.relative_to(REPOSITORY).as_posix()
    counts = [
        f"{found['tasks']} {kind} tasks with "
        f"{sum(t['queries'] for t in results['tasks'] if t['kind'] == kind):,} queries"
        for kind, found in results["means"].items()
    ]
    text = (
        f"{table(results)}\n\n{' and '.join(counts)}, float32 in the same run; 95 % intervals by a "
        f"paired bootstrap over queries. Task by task, with a picture: [{place}](../{place}/results.md); "
        "how it was measured: [Evaluate](guide/evaluate.md)."
    )
    write_between(REPOSITORY / "docs" / "results.md", text, start=START, end=END)


if __name__ == "__main__":
    main()
