"""Put the speed table and the plot of a result into README.md.

    python benchmarks/readme.py benchmarks/results/NAME

Every number is read from the result's rows; what was not measured is a dash.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quaver.bench.report import caption, summary
from quaver.bench.result import read_result

REPOSITORY = Path(__file__).resolve().parent.parent
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def main() -> None:
    """Write between the markers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of quaver bench in benchmarks/results")
    folder = parser.parse_args().results.resolve()
    if not folder.is_relative_to(REPOSITORY / "benchmarks" / "results"):
        sys.exit(f"the README shows folders of benchmarks/results: got {folder}; move it")
    result = read_result(folder)
    place = folder.relative_to(REPOSITORY).as_posix()
    picture = f"![Latency over length]({place}/latency.svg)\n\n"
    shown = picture if (folder / "latency.svg").is_file() else ""
    source = f"All engines, parts and settings: [{place}/results.md]({place}/results.md)."
    text = f"{summary(result)}\n\n{shown}{caption(result)} {source}"
    readme = REPOSITORY / "README.md"
    content = readme.read_text(encoding="utf-8")
    if content.count(START) != 1 or content.count(END) != 1:
        sys.exit(f"{readme.name} must hold {START} and {END} once each; add them")
    before, _, rest = content.partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
