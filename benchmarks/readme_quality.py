"""Put the quality tables of all records into README.md, docs/results.md and docs/guide/quantize.md.

    python benchmarks/readme_quality.py

The records are the folders of benchmarks/results/quality that benchmarks/quality.py wrote, and the files of
benchmarks/results/schemes that benchmarks/rounding.py --schemes wrote. Every number is read from them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from quaver.evaluate import write_between
from quaver.evaluate.table import percent

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = REPOSITORY / "benchmarks" / "results" / "quality"
README = REPOSITORY / "README.md"
RESULTS_PAGE = REPOSITORY / "docs" / "results.md"
SCHEMES_PAGE = REPOSITORY / "docs" / "guide" / "quantize.md"
SCHEMES = REPOSITORY / "benchmarks" / "results" / "schemes"
START, END = "<!-- quality:start -->", "<!-- quality:end -->"
DEFAULT = "dynamic"
GOAL = 0.001  # the mean of all sets is to be within this share of float32's
NAMES = {
    DEFAULT: "**Quaver int8, dynamic (default)**",
    "calibrated": "Quaver int8, dynamic, calibrated (GPTQ)",
    "static": "Quaver int8, static",
    "openvino-int8": "OpenVINO int8 (NNCF, static, SmoothQuant)",
    "onnxruntime-int8-dynamic": "ONNX Runtime int8 (dynamic)",
}
KINDS = {
    "embedder": "embeddings",
    "cross-encoder": "a cross-encoder",
    "sparse": "sparse vectors",
    "multi-vector": "a vector for each token",
}


def records() -> dict[str, dict[str, Any]]:
    """Return the results by folder, from the root of the repository: embedders first, then by name.

    Records of `quaver evaluate` alone, of earlier forms of int8, are left out.
    """
    found = {}
    for file in sorted(RECORDS.glob("*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if "kind" not in results["run"]:
            continue
        found[file.parent.relative_to(REPOSITORY).as_posix()] = results
    kinds = list(KINDS)
    order = sorted(found, key=lambda p: (kinds.index(found[p]["run"]["kind"]), p.lower()))
    return {place: found[place] for place in order}


def largest() -> dict[str, dict[str, Any]]:
    """Return the record of each model with the most queries; a model may have another with more schemes and engines."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, results in records().items():
        model = results["run"]["model"]
        if model not in found or (
            results["overall"]["queries"] > found[model][1]["overall"]["queries"]
        ):
            found[model] = place, results
    return dict(found.values())


def results_section() -> str:
    """Return the results page's text between the markers: a table for each model."""
    parts = [_overview()]
    main = largest()
    for place, results in records().items():
        run = results["run"]
        smaller = "" if place in main else ", on smaller sets"
        parts.append(f"### {run['model']}: {KINDS[run['kind']]}{smaller}")
        parts.append(_table(results))
        text = (
            f"{_counts(results)}; {run['machine']} Task by task, with a picture: "
            f"[{place}](../{place}/results.md)."
        )
        parts.append(" ".join([text, *([run["note"]] if run["note"] else [])]))
    parts.append(
        "float32 in the same run, on the same queries; 95 % intervals by a paired bootstrap over queries, drawn within "
        "each set. Cosines are rounded down. Centred: less the mean of the float32 documents. How it was measured: "
        "[Evaluate](guide/evaluate.md)."
    )
    return "\n\n".join(parts)


def _overview() -> str:
    """Return a table with a row for each model: what the default costs over all sets, and whether that is the goal."""
    goal = f"within ±{100 * GOAL:g} %"
    head = ["int8 against float32", "sets", "queries", "retrieval, NDCG@10", "reranking, MAP"]
    lines = [
        f"| {' | '.join([*head, 'all sets', goal])} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for results in largest().values():
        overall = results["overall"]
        cells = [
            results["run"]["model"] + (" \\*" if results["run"]["note"] else ""),
            str(overall["tasks"]),
            f"{overall['queries']:,}",
            *_kinds(results),
            _difference(overall["systems"][DEFAULT]),
            _verdict(overall["systems"][DEFAULT]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = (
        "The mean difference of the default form over all sets, with its 95 % interval. Queries are averaged within "
        "a set, and then the sets, so each set counts once, large or small; NDCG@10 and MAP enter the mean of all sets "
        f'as they are. {goal.capitalize()}: "yes" if the whole interval is; "the mean" if the mean is, but not the '
        'whole interval; "no" if the mean is not. \\* Restored weights: see below.'
    )
    return "\n".join(lines) + "\n\n" + text


def _kinds(results: dict[str, Any]) -> list[str]:
    """Return what the default costs in retrieval and in reranking; blank where there is no such set."""
    found = [results["means"].get(kind) for kind in ("retrieval", "reranking")]
    return ["" if each is None else _difference(each["systems"][DEFAULT]) for each in found]


def _verdict(found: dict[str, float]) -> str:
    if found["low"] >= -GOAL and found["high"] <= GOAL:
        return "yes"
    return "the mean" if abs(found["relative"]) <= GOAL else "no"


def _table(results: dict[str, Any]) -> str:
    """Return a table with a row for each system: the mean and loss of each kind of task, and how close it stays."""
    means, fidelity = results["means"], results["fidelity"]
    head = [""]
    for kind, found in means.items():
        head += [f"{kind}, {found['metric']}", "difference (95 % interval)"]
    both = results["overall"]["systems"] if len(means) > 1 else {}
    head += ["all sets (95 % interval)"] if both else []
    cosines = any(found["raw"] for found in fidelity.values())
    head += ["cosine, mean", "centred", "1st percentile"] if cosines else []
    overlap = "retrieval" in means
    head += ["top 10 in common"] if overlap else ["same first"]
    logits = any(found.get("score_difference") is not None for found in fidelity.values())
    logits = logits and results["run"]["kind"] == "cross-encoder"
    head += ["score, mean difference"] if logits else []
    first = [f"{next(iter(f['systems'].values()))['baseline']:.4f}" for f in means.values()]
    blank = [""] * (len(head) - 1 - 2 * len(first))
    rows = [["float32", *(cell for score in first for cell in (score, "")), *blank]]
    for system in results["systems"]:
        cells = []
        for found in means.values():
            own = found["systems"][system]
            cells += [f"{own['mean']:.4f}", _difference(own)]
        cells += [_difference(both[system])] if both else []
        near = fidelity[system]
        if cosines:
            raw, centred = near["raw"], near["centred"]
            cells += [_down(v) for v in (raw["mean"], centred["mean"], raw["percentile_1"])]
        cells.append(f"{100 * near['overlap_10' if overlap else 'same_first']:.1f} %")
        cells += [f"{near['score_difference']:.3f}"] if logits else []
        rows.append([NAMES.get(system, system), *cells])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def readme_section() -> str:
    """Return the README's text between the markers: a row for each model in the default form of int8."""
    lines = [
        "| int8 against float32 | retrieval, NDCG@10 | reranking, MAP | all sets | mean cosine |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    restored = False
    found = list(largest().values())
    queries = [task["queries"] for results in found for task in results["tasks"]]
    sets = [results["overall"]["tasks"] for results in found]
    for results in found:
        run, overall = results["run"], results["overall"]
        cells = [*_kinds(results), _difference(overall["systems"][DEFAULT])]
        raw = results["fidelity"][DEFAULT]["raw"]
        restored |= bool(run["note"])
        name = run["model"] + (" \\*" if run["note"] else "")
        lines.append(f"| {name} | {' | '.join(cells)} | {_down(raw['mean']) if raw else ''} |")
    text = (
        "\n".join(lines)
        + "\n\nRelative differences with 95 % intervals, paired over queries; float32 in the same run. A mean counts "
        f"each set once: {_range(sets)} sets a model, with {_range(queries)} queries each. "
        "Task by task, with other schemes and engines: [docs/results.md](docs/results.md#what-int8-costs)."
    )
    star = " \\* Weights that had been rounded to eight bits once before: see there."
    return text + star if restored else text


def _range(counts: list[int]) -> str:
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def schemes_section() -> str:
    """Return the text between the markers of the page on quantizing: how near each scheme stays."""
    found = {
        file.relative_to(REPOSITORY).as_posix(): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(SCHEMES.glob("*.json"))
    }
    # Those that were calibrated on the kinds of text that they read come first.
    order = sorted(
        found, key=lambda p: (-len(found[p]["calibration"]), "difference" in str(found[p]))
    )
    first = found[order[0]]
    forms = [row["form"] for row in first["rows"]]
    lines = [["", *forms], ["---", *["---:"] * len(forms)]]
    for place in order:
        record = found[place]
        cells = [_near(row) for row in record["rows"]]
        cells += [""] * (len(forms) - len(cells))
        lines.append([f"[{record['model']}](../../{place})", *cells])
    kinds, text = (
        ", ".join(source.partition("/")[0] for source in first[key])
        for key in ("texts", "calibration")
    )
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + "\n\nMean cosine to float32, the same of vectors less their mean, 1st percentile; of a cross-encoder the "
        f"mean difference of its scores. {first['inputs']} texts of five kinds ({kinds}), at most "
        f"{first['longest']} tokens each. Calibrated on {first['calibrated_on']} others of {text}, unless the row says "
        "something else. `python benchmarks/rounding.py MODEL TEXTS ... --schemes --calibration TEXTS ...`, "
        f"{first['isa']}."
    )


def _near(row: dict[str, Any]) -> str:
    if "difference" in row:
        return f"{row['difference']:.3f}"
    mean, centred = (1 - row[key] / 1e4 for key in ("loss", "centred"))
    return ", ".join(_down(value) for value in (mean, centred, row["p1"]))


def _difference(found: dict[str, float]) -> str:
    interval = f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}"
    return f"{percent(found['relative'])} ({interval})"


def _down(value: float) -> str:
    # Rounded down, so a value just below a bound is not shown as the bound.
    return f"{int(value * 1e4) / 1e4:.4f}"


def _counts(results: dict[str, Any]) -> str:
    parts = []
    for kind in results["means"]:
        tasks = [task for task in results["tasks"] if task["kind"] == kind]
        names = ", ".join(task["task"] for task in tasks)
        queries = sum(task["queries"] for task in tasks)
        count = f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}"
        parts.append(f"{kind}: {count} with {queries:,} queries ({names})")
    return "; ".join(parts)


def main() -> None:
    """Write between the markers."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    write_between(README, readme_section(), start=START, end=END)
    write_between(RESULTS_PAGE, results_section(), start=START, end=END)
    write_between(SCHEMES_PAGE, schemes_section(), start=START, end=END)


if __name__ == "__main__":
    main()
