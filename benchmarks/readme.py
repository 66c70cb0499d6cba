"""Put the speed table and the plot of a result into README.md.

    python benchmarks/readme.py benchmarks/results/NAME

Every number is read from the result's rows; what was not measured is a dash. `make test` compares
the README with the files that it names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quaver_bench.result import read_result
from quaver_bench.summary import caption, summary

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def section(place: str) -> str:
    """Return what stands between the markers for a folder of results.

    Args:
        place: the folder, from the root of the repository.
    """
    result = read_result(REPOSITORY / place)
    shown = ""
    if (REPOSITORY / place / "latency.svg").is_file():
        shown = f"![Latency over length]({place}/latency.svg)\n\n"
    source = f"All engines, parts, settings and versions: [{place}/results.md]({place}/results.md)."
    return f"{summary(result)}\n\n{shown}{caption(result)} {source}"


def parted(content: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the markers."""
    if content.count(START) != 1 or content.count(END) != 1:
        sys.exit(f"{README.name} must hold {START} and {END} once each; add them")
    before, _, rest = content.partition(START)
    inside, _, after = rest.partition(END)
    return before, inside.strip(), after


def main() -> None:
    """Write between the markers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of quaver bench in benchmarks/results")
    folder = parser.parse_args().results.resolve()
    if not folder.is_relative_to(REPOSITORY / "benchmarks" / "results"):
        sys.exit(f"the README shows folders of benchmarks/results: got {folder}; move it")
    text = section(folder.relative_to(REPOSITORY).as_posix())
    before, _, after = parted(README.read_text(encoding="utf-8"))
    README.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
