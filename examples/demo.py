"""The whole idea on real input: index the Python documentation, ask it five questions, and see what int8 costs.

python examples/demo.py MODEL_FOLDER [STORE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from quaver.cli import snippet
from quaver.embedder import Embedder
from quaver.errors import QuaverError
from quaver.index import Index, UpdateReport
from quaver.passages import embedded_text
from quaver.store.protocol import Hit

DOCUMENTS = Path(__file__).parent / "python-docs"
QUESTIONS = (
    "How do I sort a list of objects by one of their attributes?",
    "Why are default values shared between function calls?",
    "How can I read a JSON file into a dictionary?",
    "What is the difference between a list and a tuple?",
    "How do I send log messages to a file?",
)
SHOWN = 3
REPEATS = 15

console = Console(highlight=False, width=min(Console().width, 100))


def build(index: Index) -> UpdateReport:
    """Indexes the sample documents, with a bar where there is a terminal.

    Args:
        index: The open index.

    Returns:
        What was done.
    """
    columns = (TextColumn("  [dim]{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("indexing", total=None)
        return index.update(
            DOCUMENTS,
            on_progress=lambda p: bar.update(task, completed=p.bytes_done, total=p.bytes_total),
        )


def ask(index: Index) -> None:
    """Asks the questions and prints the best passages.

    Args:
        index: The filled index.
    """
    for number, question in enumerate(QUESTIONS, start=1):
        console.print()
        console.print(Text.assemble((f"{number}  {question}", "bold")))
        for hit in index.search(question, k=SHOWN):
            console.print(
                Text.assemble(
                    "   ",
                    (f"{hit.score:.3f}", "green"),
                    "  ",
                    (hit.source, "cyan"),
                    f"  {hit.heading}",
                ),
                no_wrap=True,
                overflow="ellipsis",
            )
            console.print(Text(snippet(hit.text, width=console.width, lines=2), "dim"))


def milliseconds_per_query(index: Index) -> float:
    """Measures a search from the question to its passages, embedding included.

    Args:
        index: The filled index.

    Returns:
        The median over all questions and repeats, in milliseconds.
    """
    times = []
    for _ in range(REPEATS):
        for question in QUESTIONS:
            begin = time.perf_counter()
            index.search(question)
            times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def compare(index: Index, exact: Embedder) -> tuple[float, float, float, float]:
    """Compares the stored int8 vectors with the same engine in float32, over all passages.

    Args:
        index: The filled index.
        exact: The same model in float32.

    Returns:
        Mean and minimum cosine of the passages, mean overlap of the ten best passages per question (0 to 1), and
        passages per second in float32.
    """
    every = index.store.search(index.embedder.encode_query("Python"), k=index.store.count())
    stored = index.store.vectors([hit.id for hit in every])
    quantized = np.stack([stored[hit.id] for hit in every])
    begin = time.perf_counter()
    plain = exact.encode_document([embedded_text(hit.heading, hit.text) for hit in every])
    rate = len(every) / (time.perf_counter() - begin)
    cosines = (quantized * plain).sum(axis=1)
    overlaps = [_overlap(index, exact, question, every, plain) for question in QUESTIONS]
    return float(cosines.mean()), float(cosines.min()), statistics.mean(overlaps), rate


def _overlap(
    index: Index, exact: Embedder, question: str, every: list[Hit], plain: np.ndarray
) -> float:
    """Returns the share of the ten best passages that both precisions find."""
    best = np.argsort(-(plain @ exact.encode_query(question)))[:10]
    return len({hit.id for hit in index.search(question)} & {every[i].id for i in best}) / 10


def run(model: Path, store: Path) -> None:
    """Runs the demo.

    Args:
        model: Model folder.
        store: Where the index is made; one that is there is brought up to date.
    """
    embedder = Embedder.from_pretrained(model)
    console.rule("[bold]Quaver[/] [dim]embeddings in eight bits, on the CPU[/]", style="dim")
    console.print(
        f"  model {embedder.name}, {embedder.dimension} dimensions, int8, "
        f"{embedder.isa}, {embedder.threads} threads"
    )
    opened = (
        Index.open(store, embedder)
        if Index.exists(store)
        else Index.create(store, embedder, model=str(model))
    )
    with opened as index:
        report = build(index)
        console.print(
            f"  {report.files} documents, {report.added + report.unchanged} passages "
            f"from examples/{DOCUMENTS.name}"
        )
        ask(index)
        latency = milliseconds_per_query(index)
        exact = Embedder.from_pretrained(model, precision="float32")
        with console.status("comparing with float32") if console.is_terminal else console.capture():
            mean, least, overlap, rate = compare(index, exact)
    console.print()
    console.rule("[bold]Numbers[/]", style="dim")
    table = Table.grid(padding=(0, 2))
    if report.added:
        table.add_row(
            "  indexing",
            f"[bold]{report.passages_per_second:.0f}[/] passages/s",
            "read, split, embed, store",
        )
    table.add_row(
        "  query",
        f"[bold]{latency:.1f}[/] ms",
        f"median of {REPEATS * len(QUESTIONS)}, embedding included",
    )
    table.add_row(
        "  int8 to float32", f"cosine [bold]{mean:.4f}[/]", f"minimum {least:.4f} over all passages"
    )
    table.add_row("", f"top 10 [bold]{overlap:.0%}[/] equal", "mean over the questions")
    table.add_row("  float32", f"{rate:.0f} passages/s", "embed only, the same engine")
    console.print(table)


def main() -> None:
    """Reads the arguments and runs the demo."""
    parser = argparse.ArgumentParser(
        description="Index the Python documentation and ask it questions."
    )
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument(
        "store", type=Path, nargs="?", help="where the index is kept; default: a temporary folder"
    )
    arguments = parser.parse_args()
    try:
        if arguments.store is not None:
            run(arguments.model, arguments.store)
        else:
            with tempfile.TemporaryDirectory(prefix="quaver-demo-") as folder:
                run(arguments.model, Path(folder) / "store")
    except QuaverError as error:
        sys.exit(f"demo: error: {error}")


if __name__ == "__main__":
    main()
