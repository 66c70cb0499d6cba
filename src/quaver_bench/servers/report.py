"""The tables and the picture of a comparison of servers, made from servers.json alone."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quaver.errors import InputError, needs_extra
from quaver_bench.servers.registry import OURS

RESULTS = "servers.json"

Row = Mapping[str, Any]
_KEY = ("server", "case", "connections", "load")
_MEDIANS = (
    "requests_per_second",
    "p50_ms",
    "p99_ms",
    "resident_mb",
    "server_cpus",
    "client_cpus",
    "cosine",
    "rank_correlation",
)
_BATCH_MS = 40.0
"""What `--batch-time` is by default: a batch that a query may have to wait for."""
_TITLES = {
    ("query", "query"): "Queries of 16 tokens",
    ("bulk", "bulk"): "Bulk requests of 64 texts of 128 tokens",
    ("mix", "query"): "Queries while two connections send bulk requests",
    ("mix", "bulk"): "The bulk requests of these two connections",
    ("rerank", "rerank"): "Reranking 50 passages of 100 tokens",
}


def write_report(folder: Path) -> None:
    """Write servers.md and, with matplotlib, servers.png and servers.svg; print the tables.

    Args:
        folder: has servers.json.

    Raises:
        InputError: there is none, or it is something else.
    """
    result = read_results(folder)
    text = markdown(result)
    (folder / "servers.md").write_text(text, encoding="utf-8")
    print(text)
    try:
        draw(result, folder)
    except ImportError as error:
        print(f"no picture was drawn: {error}", file=sys.stderr)


def read_results(folder: Path) -> dict[str, Any]:
    """Return what servers.json has.

    Raises:
        InputError: there is none, or it is something else.
    """
    path = folder / RESULTS
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the results {path}: {error}") from error
    if not isinstance(result, dict) or result.get("kind") != "servers":
        raise InputError(f"{path} must be a comparison of servers: it is something else")
    return result


def rows_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each server, case, number of connections and load: medians over rounds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in result["rows"]:
        groups.setdefault(tuple(row[name] for name in _KEY), []).append(row)
    found = []
    for key, rows in groups.items():
        sound = [row for row in rows if "failed" not in row]
        merged: dict[str, Any] = dict(zip(_KEY, key, strict=True))
        if not sound:
            found.append(merged | {"failed": rows[0]["failed"]})
            continue
        for name in _MEDIANS:
            values = [row[name] for row in sound if name in row]
            if values:
                merged[name] = statistics.median(values)
        merged["statuses"] = {s for row in sound for s in row["statuses"]}
        found.append(merged)
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """Return the tables."""
    rows = rows_of(result)
    models, run = result["models"], result["run"]
    lines = ["# Servers on this CPU", "", f"Embedding: {models['embed']}."]
    if models["rerank"]:
        lines[-1] += f" Reranking: {models['rerank']}."
    lines += ["", "## Quaver's server and its library", "", *_own(result, rows)]
    for (case, load), title in _TITLES.items():
        here = [row for row in rows if (row["case"], row["load"]) == (case, load)]
        if here:
            lines += ["", f"## {title}", "", *_table(here, case, load)]
    lines += ["", "## The servers", "", *_servers(result)]
    for name, why in result["missing"].items():
        lines += ["", f"Not measured: {name}: {why}"]
    client = max((row.get("client_cpus", 0.0) for row in rows), default=0.0)
    lines += [
        "",
        f"{result['seconds']:g} s a case after a warm-up; {run['threads']} threads for every server, and the client "
        f"on the same CPUs: it used at most {client:.2f} of one. Every connection sends its next request when "
        "it has the answer to the last one. Bold: how many times as many requests a second Quaver answers. "
        "The cosine is that of the answers to float32, and the rank correlation Spearman's with float32. "
        f"{run['cpu']}, {run['cpu_model']}, Quaver on {run['quaver_isa']}; commit {run['commit']}; "
        f"{run['date']}.",
        "",
        f"    python {run['command']}",
        "",
    ]
    return "\n".join(lines)


_SAME = {
    "query_p50_ms": "median of a query, ms",
    "queries_per_second": "queries a second: one batch; {connections} connections",
    "bulk_texts_per_second": "texts a second, 64 x 128 tokens",
}


def _own(result: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """Yield the server's own cost: it and the library in turns, and a query alone and beside bulk requests."""
    beside = result.get("library")
    if beside:
        turns = beside["turns"]
        yield "| | library | server | server and library, turn by turn |"
        yield "| --- | ---: | ---: | ---: |"
        for name, title in _SAME.items():
            pairs = [(turn["library"][name], turn["server"][name]) for turn in turns]
            library, server = (statistics.median(side) for side in zip(*pairs, strict=True))
            if name == "query_p50_ms":
                found = [ours - own for own, ours in pairs]
                extra = (
                    f"{statistics.median(found):+.2f} ms ({min(found):+.2f} to {max(found):+.2f})"
                )
                cells = f"{library:.2f} | {server:.2f}"
            else:
                found = [ours / own for own, ours in pairs]
                extra = f"{statistics.median(found):.0%} ({min(found):.0%} to {max(found):.0%})"
                cells = f"{library:,.0f} | {server:,.0f}"
            yield f"| {title.format(connections=beside['connections'])} | {cells} | {extra} |"
        yield ""
        yield (
            f"Medians of {len(turns)} turns, each of which has both one after the other; in parentheses the least "
            f"and the greatest. Commit {beside['run']['commit']}; {beside['run']['date']}."
        )
        yield ""
    ours = {
        (row["case"], row["connections"], row["load"]): row
        for row in rows
        if row["server"] == OURS and "failed" not in row
    }
    one, mixed = ours.get(("query", 1, "query")), ours.get(("mix", 1, "query"))
    if one and mixed:
        yield (
            f"The 99th percentile of a query is {one['p99_ms']:.1f} ms alone and {mixed['p99_ms']:.1f} ms under bulk "
            f"load; three times the first and a batch of {_BATCH_MS:g} ms would be "
            f"{3 * one['p99_ms'] + _BATCH_MS:.1f} ms."
        )


def _table(rows: Sequence[Row], case: str, load: str) -> Iterator[str]:
    counts = sorted({row["connections"] for row in rows})
    found = {(row["server"], row["connections"]): row for row in rows}
    right = "rank correlation" if load == "rerank" else "cosine"
    title = ("requests/s", "p50 ms", "p99 ms")
    heads = [f"{what}, {count}" for count in counts for what in title]
    yield f"| connections: | {' | '.join(heads)} | {right} |"
    yield "| --- |" + " ---: |" * (len(heads) + 1)
    for server in dict.fromkeys(row["server"] for row in rows):
        cells = []
        for count in counts:
            row = found.get((server, count))
            if row is None or "failed" in row:
                cells += ["failed" if row else "-", "-", "-"]
                continue
            cells.append(_rate(row, found.get((OURS, count))))
            cells += [_ms(row["p50_ms"]), _ms(row["p99_ms"])]
        values = [
            row["rank_correlation" if load == "rerank" else "cosine"]
            for row in rows
            if row["server"] == server and ("cosine" in row or "rank_correlation" in row)
        ]
        yield f"| {server} | {' | '.join(cells)} | {f'{min(values):.4f}' if values else '-'} |"


def _rate(row: Row, ours: Row | None) -> str:
    rate = row["requests_per_second"]
    text = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
    if row["server"] != OURS and ours is not None and "failed" not in ours and rate:
        text += f" **{ours['requests_per_second'] / rate:.2f}**"
    refused = row["statuses"] - {"200"}
    return f"{text} (also {', '.join(sorted(refused))})" if refused else text


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _servers(result: Mapping[str, Any]) -> Iterator[str]:
    yield "| server | computes | start, s | memory at start, MB | largest, MB | versions |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    for name, facts in result["servers"].items():
        packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        yield (
            f"| {name} | {facts['computes']} | {facts['start_seconds']:.1f} | {facts['start_mb']:,.0f} | "
            f"{facts['largest_mb']:,.0f} | {packages} |"
        )


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw bars for each server: queries with one and with many connections, bulk, reranking.

    Args:
        result: the comparison.
        folder: for servers.png and servers.svg.

    Returns:
        the files.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    with needs_extra("bench"):
        import matplotlib
        from matplotlib.figure import Figure
    rows = [row for row in rows_of(result) if "failed" not in row]
    queries = sorted({row["connections"] for row in rows if row["case"] == "query"})
    panels: list[tuple[str, str, int, int]] = []
    for count in dict.fromkeys((queries[0], queries[-1]) if queries else ()):
        connections = "1 connection" if count == 1 else f"{count} connections"
        panels.append((f"queries/s, {connections}", "query", count, 1))
    for case, title, times in (
        ("bulk", "texts/s, bulk", 64),
        ("rerank", "passages/s, reranking", 50),
    ):
        counts = [row["connections"] for row in rows if row["case"] == case]
        if counts:
            panels.append((title, case, max(counts), times))
    names = [name for name in result["servers"] if any(row["server"] == name for row in rows)]
    files = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "quaver", "font.size": 10}):
        height = 0.32 * len(names) + 1.0
        figure = Figure(figsize=(8.0, 2 * height), layout="constrained")
        axes = figure.subplots(2, 2, squeeze=False).ravel()
        for place, axis in enumerate(axes):
            if place >= len(panels):
                axis.set_axis_off()
                continue
            title, case, count, times = panels[place]
            values = {
                row["server"]: row["requests_per_second"] * times
                for row in rows
                if (row["case"], row["load"], row["connections"]) == (case, case, count)
            }
            colors = ["#0072B2" if name == OURS else "#9aa5ad" for name in names]
            axis.barh(range(len(names)), [values.get(name, 0) for name in names], color=colors)
            for at, name in enumerate(names):
                shown = f" {values[name]:,.0f}" if name in values else " none"
                axis.text(values.get(name, 0), at, shown, va="center", fontsize=9)
            axis.set_yticks(range(len(names)), names if place % 2 == 0 else [""] * len(names))
            axis.set_title(title, fontsize=10)
            axis.invert_yaxis()
            axis.set_xlim(0, 1.2 * max(values.values(), default=1))
            axis.spines[["top", "right", "bottom"]].set_visible(False)
            axis.set_xticks([])
        for suffix, metadata in (("png", None), ("svg", {"Date": None})):
            files.append(folder / f"servers.{suffix}")
            figure.savefig(files[-1], dpi=150, metadata=metadata)
    return files
