"""Make tables from results files.

    python benchmarks/report.py benchmarks/results/NAME.json             # Markdown on stdout
    python benchmarks/report.py benchmarks/results/NAME.json --readme    # into README.md

Every number is read from the file; what was not measured is a dash.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engines import PEERS
from models import REPOSITORY

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
COLUMNS = PEERS
Row = dict[str, Any]


def main() -> None:
    """Print the tables, or put the short one into README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON of cases.py")
    parser.add_argument("--readme", action="store_true", help="write into README.md")
    options = parser.parse_args()
    result = json.loads(options.results.read_text(encoding="utf-8"))
    if result.get("kind") != "cases":
        sys.exit(f"results must be of cases.py: {options.results} has kind={result.get('kind')!r}")
    if not options.readme:
        print(f"{summary(result)}\n\n{details(result)}\n\n{caption(result)}")
        return
    file = options.results.resolve()
    if not file.is_relative_to(REPOSITORY / "benchmarks" / "results"):
        sys.exit(f"the README shows files of benchmarks/results: got {options.results}; move it")
    source = f"From [{file.name}]({file.relative_to(REPOSITORY).as_posix()})."
    write_between(REPOSITORY / "README.md", f"{summary(result)}\n\n{caption(result)} {source}")


def summary(result: dict[str, Any]) -> str:
    """Return one line for each case: Quaver int8, its peers and everyone's quality.

    Args:
        result: a results file of cases.py.

    Returns:
        A Markdown table.
    """
    peers = [peer for peer in COLUMNS if any(row["peer"] == peer for row in result["rows"])]
    head = ["model", "texts x tokens", "Quaver int8"]
    lines = [_cells([*head, *peers]), _cells(["---", "---", "---:", *["---:"] * len(peers)])]
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in result["rows"]:
        if row["ours"] == "quaver-int8":
            groups.setdefault((row["model"], row["case"]), {})[row["peer"]] = row
    for by_peer in groups.values():
        first = next(iter(by_peer.values()))
        ours = f"{_time(first['ours_ms'])} ({first['ours_cosine']:.4f})"
        mark = " *" if first["disturbed"] else ""
        cells = [_peer(by_peer.get(peer)) for peer in peers]
        lines.append(_cells([_model(first), first["title"] + mark, ours, *cells]))
    return "\n".join(lines)


def details(result: dict[str, Any]) -> str:
    """Return one line for each pair that was measured.

    Args:
        result: a results file of cases.py.

    Returns:
        A Markdown table.
    """
    head = "model|case|engine|ms|cosine|peer|ms|cosine|ratio|quartiles|rounds (dropped)|padding"
    lines = [_cells(head.split("|")), _cells(["---"] * 12)]
    for row in result["rows"]:
        low, high = row["ratio_quartiles"]
        settings = row["settings"]["peer"]
        peer = row["peer"] + (f", batch {settings['batch']}" if "tuned" in row["peer"] else "")
        lines.append(
            _cells(
                [
                    _model(row),
                    row["title"],
                    row["ours"],
                    f"{row['ours_ms']:.2f}",
                    f"{row['ours_cosine']:.5f}",
                    peer,
                    f"{row['peer_ms']:.2f}",
                    f"{row['peer_cosine']:.5f}",
                    f"{row['ratio']:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{row['rounds']} ({row['dropped_rounds']})"
                    + (", disturbed" if row["disturbed"] else ""),
                    f"{100 * row['peer_padding']:.0f} %",
                ]
            )
        )
    return "\n".join(lines)


def caption(result: dict[str, Any]) -> str:
    """Return what the numbers mean and where they come from.

    Args:
        result: a results file of cases.py.

    Returns:
        A paragraph.
    """
    run = result["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    held = ", ".join(f"{name}={value}" for name, value in run["environment"].items())
    parts = [
        "Milliseconds for one call, median; in brackets the mean cosine to torch float32 on the "
        "same texts. Bold: how many times as fast Quaver int8 is, the median over rounds in which "
        "the engines took turns in one process. Other engines get texts sorted by length in padded "
        "batches.",
        "Random weights serve for speed at shapes whose weights are not at hand; their cosine says "
        "nothing about retrieval."
        if any(r["weights"] == "random" for r in result["rows"])
        else "",
        "* Other programs took more than 5 % of the CPUs."
        if any(row["disturbed"] for row in result["rows"])
        else "",
        f"{run['cpu']} ({', '.join(run['cpu_flags'])}), Quaver on {run['quaver_isa']}, "
        f"{run['threads']} threads on CPUs {', '.join(map(str, run['affinity']))}"
        + (f", {held}" if held else "")
        + f"; {versions}; commit {run['commit']}; {run['date']}; `{run['command']}`.",
        *(f"{name} was not measured: {why}." for name, why in result["missing"].items()),
    ]
    return " ".join(part for part in parts if part)


def write_between(readme: Path, text: str) -> None:
    """Put text between the markers of README.md.

    Args:
        readme: the file.
        text: what comes between START and END.
    """
    content = readme.read_text(encoding="utf-8")
    if content.count(START) != 1 or content.count(END) != 1:
        sys.exit(f"{readme.name} must hold {START} and {END} once each; add them")
    before, _, rest = content.partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def _peer(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{_time(row['peer_ms'])} ({row['peer_cosine']:.4f}) **{row['ratio']:.2f}**"


def _model(row: Row) -> str:
    return f"{row['model']} ({row['describe']})"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _cells(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
