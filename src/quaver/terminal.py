"""What the commands show in a terminal: a progress bar, a report, hits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from quaver.index import Progress, UpdateReport
from quaver.passages.passage import HEADING_SEPARATOR
from quaver.store.protocol import Hit

_SHOWN = 10
"""Files that are named where many have the same trouble."""


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None]]:
    """Shows progress over bytes: how many passages a file has is known only when it is split."""
    with tqdm(
        unit="B", unit_scale=True, unit_divisor=1000, desc="indexing", disable=None, leave=False
    ) as bar:

        def show(progress: Progress) -> None:
            rate = progress.passages / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{progress.passages} passages, {rate:.0f}/s", refresh=False)
            if bar.total is None:
                bar.reset(total=progress.bytes_total)
            bar.update(progress.bytes_done - bar.n)

        yield show


def print_report(report: UpdateReport, folder: Path, store: str | Path) -> None:
    """Prints what an update did; failures go to stderr."""
    print(f"{many(report.files, 'file')} from {folder} in {store}")
    reused = f"{report.reused} reused, " if report.reused else ""
    print(
        f"passages: {report.added} added, {reused}{report.unchanged} unchanged, "
        f"{report.removed} removed; {many(report.truncated, 'text')} truncated"
    )
    print(f"{report.seconds:.1f} s, {report.passages_per_second:.0f} passages/s")
    if report.empty:
        names = harmless(_listed(report.empty))
        print(f"quaver: {many(len(report.empty), 'file')} without text: {names}", file=sys.stderr)
    if report.others:
        kinds = sorted(report.others.items(), key=lambda item: (-item[1], item[0]))
        others = harmless(
            _listed([f"{count} {ending or 'without ending'}" for ending, count in kinds])
        )
        print(f"quaver: passed over files of other kinds: {others}", file=sys.stderr)
    if report.outside:
        lead = "leads" if len(report.outside) == 1 else "lead"
        links = f"{many(len(report.outside), 'link')} that {lead} out of the folder"
        names = harmless(_listed(report.outside))
        print(f"quaver: not followed, --follow-links does: {links}: {names}", file=sys.stderr)
    if report.failed:
        print(f"quaver: {many(len(report.failed), 'file')} could not be read:", file=sys.stderr)
    sources: dict[str, list[str]] = {}
    for failure in report.failed:
        sources.setdefault(failure.reason, []).append(failure.source)
    for reason, failed in sources.items():
        print(harmless(f"  {_listed(failed)}: {reason}"), file=sys.stderr)


def _listed(sources: Sequence[str]) -> str:
    """Returns the first few of some names, and how many more there are."""
    more = len(sources) - _SHOWN
    return ", ".join(sources[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def print_hits(hits: Sequence[Hit]) -> None:
    """Prints rank, score, source and heading, and the beginning of each text.

    Sources are relative to the indexed folder; where the hits come from several folders, each
    source is shown with its folder.
    """
    console = Console(highlight=False)
    if not hits:
        console.print("nothing found")
    several = len({hit.root for hit in hits}) > 1
    for rank, hit in enumerate(hits, start=1):
        root = f"{hit.root.rstrip('/')}/" if several and hit.root else ""
        console.print(
            Text.assemble(
                f"{rank:3}  ",
                (f"{hit.score:.3f}", "green"),
                f"  {harmless(root)}",
                (harmless(hit.source), "bold"),
                harmless(f", p. {hit.metadata['page']}" if "page" in hit.metadata else ""),
            ),
            soft_wrap=True,
        )
        width = min(console.width, 100)
        if hit.heading:
            console.print(Text(f"     {short_heading(hit.heading, width - 5)}", "cyan"))
        console.print(Text(snippet(hit.text, width=width)))


def short_heading(heading: str, width: int) -> str:
    """Returns a heading path that fits a line: the innermost headings say most.

    Args:
        heading: Headings joined by " > ".
        width: Columns, at least 20.

    Returns:
        The path; "…" stands for outer headings that were left out, or ends one that was cut.
    """
    headings = harmless(heading).split(HEADING_SEPARATOR)
    for first in range(len(headings)):
        path = HEADING_SEPARATOR.join(["…"] * (first > 0) + headings[first:])
        if cell_len(path) <= width:
            return path
    return set_cell_size(path, max(width, 20) - 1).rstrip() + "…"


def snippet(text: str, *, width: int, lines: int = 3) -> str:
    """Returns the beginning of a text for the terminal.

    Args:
        text: A passage's text.
        width: Columns, including an indent of 5; a Chinese character takes two.
        lines: How many lines at most.

    Returns:
        Wrapped and indented lines; "…" ends what was cut.
    """
    room = max(width, 20) - 5
    wrapped = Text(harmless(" ".join(text.split()))).wrap(Console(width=room), room)
    shown = [line.plain.rstrip() for line in wrapped[:lines]]
    if len(wrapped) > lines:
        last = shown[-1]
        while cell_len(last) > room - 2:  # the last word goes; of a line without spaces its end
            last = last.rpartition(" ")[0] or set_cell_size(last, room - 2).rstrip()
        shown[-1] = f"{last} …"
    return "\n".join(" " * 5 + line for line in shown if line)


def place_of(hit: Hit) -> str:
    """Returns where a passage stands: its file, page and headings, on one line.

    Args:
        hit: The passage.

    Returns:
        For example ``manual.pdf, p. 3: Tea > Green``.
    """
    page = hit.metadata.get("page")
    place = hit.source if page is None else f"{hit.source}, p. {page}"
    return harmless(f"{place}: {hit.heading}" if hit.heading else place)


def harmless(text: str, *, lines: bool = False) -> str:
    """Returns a text without control characters, which could steer the terminal.

    Args:
        text: Text or a name from a document folder, or what a language model said.
        lines: Whether line ends and tabs stay.

    Returns:
        The text with a replacement character for each of them.
    """
    return text.translate(_CONTROLS_BUT_LINES if lines else _CONTROLS)


_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")
_CONTROLS_BUT_LINES = {code: sign for code, sign in _CONTROLS.items() if chr(code) not in "\n\t"}


def many(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 file", "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
