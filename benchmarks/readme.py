"""Put the figures of a result into README.md, docs/index.md and docs/results.md.

    python benchmarks/readme.py benchmarks/results/NAME

Every number is read from the rows of the result; a dash means not measured. `make test` compares the pages with the
files that they name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quaver_bench.result import read_result
from quaver_bench.summary import caption, short_caption, short_table, summary

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
HOME_PAGE = REPOSITORY / "docs" / "index.md"
RESULTS_PAGE = REPOSITORY / "docs" / "results.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def readme_section(place: str) -> str:
    """Return the README's text between the markers.

    Args:
        place: the folder of results, from the root of the repository.
    """
    result = read_result(REPOSITORY / place)
    return f"{_overview(place)}\n\n{short_table(result)}\n\n{short_caption(result)}"


def home_section(place: str) -> str:
    """Return the text of the documentation's first page between the markers; see `readme_section`."""
    return _overview(f"../{place}")


def _overview(place: str) -> str:
    return f"![Texts per second, six engines]({place}/overview.svg)"


def results_section(place: str) -> str:
    """Return the results page's text between the markers; see `readme_section`."""
    result = read_result(REPOSITORY / place)
    pictures = [
        f"![{title}](../{place}/{name}.svg)"
        for name, title in (
            ("latency", "Latency over length"),
            ("throughput", "Throughput over batch"),
            ("quality", "Speed against quality lost"),
        )
        if (REPOSITORY / place / f"{name}.svg").is_file()
    ]
    source = f"All engines, parts, settings and versions: [{place}](../{place}/results.md)."
    if (REPOSITORY / place / "decoders.md").is_file():
        source += f" [Decoders](../{place}/decoders.md), with random weights."
    return "\n\n".join([summary(result), f"{caption(result)} {source}", *pictures])


def parted(content: str) -> tuple[str, str, str]:
    """Return the text before, between and after the markers."""
    if content.count(START) != 1 or content.count(END) != 1:
        sys.exit(f"a page must hold {START} and {END} once each; add them")
    before, _, following = content.partition(START)
    inside, _, after = following.partition(END)
    return before, inside.strip(), after


def write(page: Path, text: str) -> None:
    """Write between the markers of a page."""
    before, _, after = parted(page.read_text(encoding="utf-8"))
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of quaver bench in benchmarks/results")
    folder = parser.parse_args().results.resolve()
    if not folder.is_relative_to(REPOSITORY / "benchmarks" / "results"):
        sys.exit(f"the README shows folders of benchmarks/results: got {folder}; move it")
    place = folder.relative_to(REPOSITORY).as_posix()
    write(README, readme_section(place))
    write(HOME_PAGE, home_section(place))
    write(RESULTS_PAGE, results_section(place))


if __name__ == "__main__":
    main()
