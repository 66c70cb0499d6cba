"""What commands print: a progress bar, a report, hits."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from quaver.documents import HEADING_SEPARATOR, Failure
from quaver.index import QueryWords, UpdateProgress, UpdateReport, best_start, flattened
from quaver.store import UNSPACED, Hit

_SHOWN = 10
"""Files that are named for one reason of failure; others are counted."""


LINE_SECONDS = 10.0
"""Seconds between two lines of progress without a terminal."""

_WINDOW = 60.0
"""Seconds of past work from which the time left is estimated."""
_SEEN = 5.0
"""Seconds of work before the time left is shown."""
_WIDE = 64
"""Columns of a terminal that has room for a bar."""


class TimeLeft:
    """An estimate of the time left in an update, from the rate of the last minute.

    Only files that are embedded count as work. Other files take almost no time, and would distort
    the rate. So would the time before the first passages are embedded, in which files are read: later
    they are read while others are embedded.
    """

    def __init__(self) -> None:
        """Start without any progress."""
        self._seen: deque[tuple[float, int]] = deque()
        self._left = 0

    def see(self, progress: UpdateProgress, now: float) -> None:
        """Record progress.

        Args:
            progress: from the update.
            now: seconds on a monotonic clock.
        """
        if progress.work_done > (self._seen[-1][1] if self._seen else 0):
            self._seen.append((now, progress.work_done))
        self._left = progress.work_total - progress.work_done

    def seconds(self, now: float) -> float | None:
        """Return the seconds left; None while there is too little progress to tell.

        Args:
            now: as for `see`.
        """
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        if len(self._seen) < 3 or self._seen[-1][0] - self._seen[0][0] < _SEEN:
            return None
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        # The next batch is under way: only a wait longer than the mean slows the rate.
        wait = now - end - (end - begin) / (len(self._seen) - 1)
        return self._left * (end - begin + max(wait, 0.0)) / (after - before)


def duration(seconds: float) -> str:
    """Return a rounded time, such as "20 s", "7 min" or "2 h 10 min"."""
    if seconds < 55:
        return f"{max(10, 10 * math.ceil(seconds / 10))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


class ProgressDisplay:
    """The progress of an update: a bar in a terminal, else a line every ten seconds."""

    def __init__(self, quiet: bool, noun: str) -> None:
        """Show nothing yet.

        Args:
            quiet: show nothing at all.
            noun: what is embedded, in the plural.
        """
        self._quiet, self._noun = quiet, noun
        self._bar: tqdm[NoReturn] | None = None
        self._ended = threading.Event()
        self._lines: threading.Thread | None = None
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._left = TimeLeft()
        self._started = time.monotonic()
        self._latest: UpdateProgress | None = None

    def __call__(self, progress: UpdateProgress) -> None:
        """Show progress.

        Args:
            progress: from the update.
        """
        if self._quiet or not progress.bytes_total:
            return
        with self._lock:
            self._latest = progress
            self._left.see(progress, time.monotonic())
        if not sys.stderr.isatty():
            if self._lines is None:
                self._ended.clear()
                self._lines = threading.Thread(
                    target=self._print_lines, name="quaver-progress", daemon=True
                )
                self._lines.start()
            return
        if self._bar is None:
            self._bar = tqdm(
                total=progress.bytes_total,
                leave=False,
                dynamic_ncols=True,
                miniters=0,
                bar_format="{percentage:3.0f} %",
                file=sys.stderr,
            )
        self._bar.total, self._bar.n = progress.bytes_total, progress.bytes_done
        width = self._bar.format_dict["ncols"] or 80
        room = "|{bar}| " if width >= _WIDE else ""
        self._bar.bar_format = f"{{percentage:3.0f}} % {room}" + _fitting(
            self._words(progress), width - 7
        )
        self._bar.update(0)

    def end(self) -> None:
        """Remove the bar; later progress starts a new one."""
        if self._lines is not None:
            self._ended.set()
            self._lines.join()
            self._lines = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._begin()

    def _words(self, progress: UpdateProgress) -> list[str]:
        """Return the parts of the line, the most important first."""
        if not progress.embedded and progress.work_done < progress.work_total:
            return ["reading files"]
        now = time.monotonic()
        left = self._left.seconds(now)
        rate = progress.embedded / max(now - self._started, 1e-9)
        words = [f"{duration(left)} left"] if left else []
        words.append(f"{progress.embedded:,} {self._noun}")
        return [*words, f"{rate:.0f}/s"] if progress.embedded else words

    def _print_lines(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            with self._lock:
                progress = self._latest
                words = ", ".join(self._words(progress)) if progress is not None else ""
            if progress is not None:
                part = 100 * progress.bytes_done // max(progress.bytes_total, 1)
                print(f"quaver: {part} %, {words}", file=sys.stderr, flush=True)


@contextmanager
def progress_display(*, quiet: bool = False, noun: str = "passages") -> Iterator[ProgressDisplay]:
    """Show progress while the context is open.

    Args:
        quiet: show nothing.
        noun: what is embedded, in the plural.

    Yields:
        the display, to be called with progress.
    """
    display = ProgressDisplay(quiet, noun)
    try:
        yield display
    finally:
        display.end()


def _fitting(words: Sequence[str], width: int) -> str:
    """Join as many of the first words as fit a line."""
    line = ""
    for word in words:
        longer = f"{line}, {word}" if line else word
        if len(longer) > width:
            break
        line = longer
    return line


def print_report(report: UpdateReport, folder: Path, store: str | Path) -> None:
    """Print what an update did; failures go to stderr."""
    print(f"{plural(report.files, 'file')} from {folder} in {store}")
    reused = f"{report.reused} reused, " if report.reused else ""
    print(
        f"passages: {report.added} added, {reused}{report.unchanged} unchanged, "
        f"{report.removed} removed; {plural(report.truncated, 'text')} truncated"
    )
    print(f"{report.seconds:.1f} s, {report.passages_per_second:.0f} passages/s")
    if report.empty:
        names = harmless(_listed(report.empty))
        print(f"quaver: {plural(len(report.empty), 'file')} without text: {names}", file=sys.stderr)
    if report.others:
        kinds = sorted(report.others.items(), key=lambda item: (-item[1], item[0]))
        others = harmless(
            _listed([f"{count} {ending or 'without ending'}" for ending, count in kinds])
        )
        print(f"quaver: skipped files of other kinds: {others}", file=sys.stderr)
    if report.outside:
        lead = "leads" if len(report.outside) == 1 else "lead"
        links = f"{plural(len(report.outside), 'link')} that {lead} out of the folder"
        names = harmless(_listed(report.outside))
        print(f"quaver: not followed, --follow-links does: {links}: {names}", file=sys.stderr)
    print_failures(report.failed)


def print_failures(failed: Sequence[Failure]) -> None:
    """Print to stderr which files could not be read."""
    if failed:
        print(f"quaver: {plural(len(failed), 'file')} could not be read:", file=sys.stderr)
    for line in failure_lines(failed):
        print(f"  {line}", file=sys.stderr)


def failure_lines(failed: Sequence[Failure]) -> list[str]:
    """Return a line for each reason of failure, with its files."""
    sources: dict[str, list[str]] = {}
    for failure in failed:
        sources.setdefault(failure.reason, []).append(failure.source)
    return [harmless(f"{_listed(names)}: {reason}") for reason, names in sources.items()]


def size(count: int) -> str:
    """Return a number of bytes with a unit, such as "12.3 MB"."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


def _listed(sources: Sequence[str]) -> str:
    """Join the first few names, and count the others."""
    more = len(sources) - _SHOWN
    return ", ".join(sources[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def print_hits(
    hits: Sequence[Hit], *, query: str = "", language: str = "none", full: bool = False
) -> None:
    """Print each hit's rank, score, source and heading, and an excerpt that answers the question.

    Sources are relative to the indexed folder; with hits from several folders, the folder is shown
    too. In a terminal the words of the question are bold.

    Args:
        hits: the hits.
        query: the question.
        language: the store's language.
        full: print whole passages, with their line ends.
    """
    console = Console(highlight=False)
    words = QueryWords(query, language)
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
                harmless(_spot(hit)),
            ),
            soft_wrap=True,
        )
        width = min(console.width, 100)
        if hit.heading:
            console.print(Text(f"     {short_heading(hit.heading, width - 5)}", "cyan"))
        if full:
            whole = _marked(harmless(hit.text, lines=True), words)
            for line in whole.split("\n", allow_blank=True):
                console.print(Text.assemble("     ", line) if line.plain else "", soft_wrap=True)
        else:
            console.print(excerpt(hit.text, words, width=width))


def short_heading(heading: str, width: int) -> str:
    """Return a heading path that fits a line; the innermost headings are kept.

    Args:
        heading: headings joined by " > ".
        width: columns, at least 20.

    Returns:
        the path, with "…" for outer headings left out or at the end of a heading cut short.
    """
    headings = harmless(heading).split(HEADING_SEPARATOR)
    for first in range(len(headings)):
        path = HEADING_SEPARATOR.join(["…"] * (first > 0) + headings[first:])
        if cell_len(path) <= width:
            return path
    return set_cell_size(path, max(width, 20) - 1).rstrip() + "…"


def excerpt(text: str, words: QueryWords, *, width: int, lines: int = 3) -> Text:
    """Return the part of a text that has most of a question's words.

    It begins with a sentence, a table row or a table cell if no word is lost by that. Without words of
    the question it is the beginning of the text. Table rows stay on separate lines; other line ends
    become spaces.

    Args:
        text: a passage's text.
        words: the words of the question, which become bold.
        width: columns, including an indent of 5; a Chinese character takes two.
        lines: maximum number of lines.

    Returns:
        wrapped and indented lines, with "…" where text was cut.
    """
    room = max(width, 20) - 5
    flat = harmless(flattened(text), lines=True)
    start = best_start(flat, words.find(flat), room, lines)
    marked = _marked(flat, words)[start:]
    if start:  # a first word longer than the line would leave the ellipsis alone
        first = flat[start:].split(maxsplit=1)[0]
        spaced = cell_len(first) <= room - 2 and not UNSPACED.match(first)
        marked = Text.assemble("… " if spaced else "…", marked)
    wrapped = marked.wrap(Console(width=room), room)
    shown = [line for line in wrapped[:lines] if line.plain.strip()]
    for line in shown:
        line.rstrip()
    if len(wrapped) > lines:
        last = shown[-1]
        # Drop the last word, or the end of a line without spaces.
        while cell_len(last.plain) > room - 2:
            kept = last.plain.rpartition(" ")[0] or set_cell_size(last.plain, room - 2)
            last.right_crop(len(last.plain) - len(kept.rstrip()))
        last.append(" …")
    return Text("\n").join(Text.assemble(" " * 5, line) for line in shown)


def _marked(text: str, words: QueryWords) -> Text:
    marked = Text(text)
    for begin, end, _ in words.find(text):
        marked.stylize("bold", begin, end)
    return marked


def _spot(hit: Hit) -> str:
    """Return the page on which a passage begins, or its time in subtitles."""
    if "page" in hit.metadata:
        return f", p. {hit.metadata['page']}"
    return f", {hit.metadata['time']}" if {"time", "seconds"} <= set(hit.metadata) else ""


def place_of(hit: Hit) -> str:
    """Return a passage's file, page and headings on one line.

    Args:
        hit: the passage.

    Returns:
        for example `manual.pdf, p. 3: Tea > Green`.
    """
    place = hit.source + _spot(hit)
    return harmless(f"{place}: {hit.heading}" if hit.heading else place)


def harmless(text: str, *, lines: bool = False) -> str:
    """Replace control characters, which could manipulate the terminal.

    Args:
        text: from a document, a file name or a language model.
        lines: keep line ends and tabs.

    Returns:
        the text with a replacement character for each control character.
    """
    return text.translate(_CONTROLS_BUT_LINES if lines else _CONTROLS)


_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")
_CONTROLS_BUT_LINES = {code: sign for code, sign in _CONTROLS.items() if chr(code) not in "\n\t"}


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: "1 file", "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
