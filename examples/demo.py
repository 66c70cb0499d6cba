"""Index the Python documentation, ask it five questions, rerank, and see what int8 costs.

python examples/demo.py MODEL_FOLDER [STORE]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from quaver import BiEncoderRanker, Embedder, Index, QuaverError, UpdateReport

DOCUMENTS = Path(__file__).parent / "python-docs"
QUESTIONS = (
    "How do I sort a list of objects by one of their attributes?",
    "Why are default values shared between function calls?",
    "How can I read a JSON file into a dictionary?",
    "What is the difference between a list and a tuple?",
    "How do I send log messages to a file?",
)
SHOWN = 3
CANDIDATES = 50
"""Passages that the hybrid search finds and the model reranks."""

REPEATS = 15
PASSAGE_TOKENS = 128
"""A few sentences each, so that a machine without VNNI needs about a minute."""

SAMPLE = 400
"""Random passages also embedded in float32; on fast machines, all passages."""

QUICK = 200.0
"""Passages per second at which a machine counts as fast."""

console = Console(highlight=False, width=min(Console().width, 100))


def build(index: Index) -> UpdateReport:
    """Index the sample documents, with a progress bar on a terminal.

    Args:
        index: The open index.

    Returns:
        The report of the update.
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
    """Ask the questions; print the best passages and their rank in each search.

    Args:
        index: The filled index.
    """
    ranker = BiEncoderRanker(index.embedder)
    for number, question in enumerate(QUESTIONS, start=1):
        console.print()
        console.print(Text.assemble((f"{number}  {question}", "bold")))
        places = {
            name: [hit.id for hit in index.search(question, k=CANDIDATES, mode=mode)]
            for name, mode in (("words", "bm25"), ("vectors", "dense"), ("fused", "hybrid"))
        }
        for hit in index.search(question, k=SHOWN, ranker=ranker, candidates=CANDIDATES):
            ranks = ", ".join(
                f"{name} {found.index(hit.id) + 1}"
                for name, found in places.items()
                if hit.id in found
            )
            console.print(
                Text.assemble(f"   {hit.score:.3f}  ", (hit.source, "cyan"), (f"  {ranks}", "dim"))
            )
            heading = Text(f"     {hit.heading}", no_wrap=True, overflow="ellipsis")
            console.print(heading)
            console.print(excerpt(hit.text, question))
    note = (
        f"Words and vectors are searched and their ranks fused; the model then reranks the best "
        f"{CANDIDATES} with the stored vectors. Each passage shows its rank in these searches."
    )
    console.print()
    console.print(Padding(Text(note, "dim"), (0, 0, 0, 5)))


def excerpt(text: str, question: str) -> Text:
    """Return the first two lines of a passage, with the question's words in bold.

    Args:
        text: The passage's text.
        question: The question.

    Returns:
        The indented lines.
    """
    lines = textwrap.wrap(" ".join(text.split()), console.width - 5, max_lines=2, placeholder=" …")
    shown = Text(textwrap.indent("\n".join(lines), " " * 5))
    words = [word.strip("?,.") for word in question.split() if len(word) > 3]
    shown.highlight_words(words, "bold", case_sensitive=False)
    return shown


def milliseconds_per_query(index: Index) -> dict[str, float]:
    """Measure searches from question to passages, including embedding.

    Args:
        index: The filled index.

    Returns:
        Median milliseconds over all questions and repeats, for each kind of search.
    """
    ranker = BiEncoderRanker(index.embedder)
    ways: dict[str, Callable[[str], object]] = {
        "by vectors": lambda question: index.search(question, mode="dense"),
        "hybrid": lambda question: index.search(question),
        "hybrid, reranked": lambda question: index.search(
            question, ranker=ranker, candidates=CANDIDATES
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for question in QUESTIONS:
            for name, search in ways.items():
                begin = time.perf_counter()
                search(question)
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


@dataclass(frozen=True)
class Comparison:
    """How far int8 is from float32 in the same engine.

    Attributes:
        passages: Number of passages embedded in both.
        mean: Mean cosine between the two vectors of a passage.
        least: Lowest cosine.
        overlap: Share of the top 10 of these passages on which both agree, 0 to 1, mean over the
            questions.
        int8_rate: Passages per second in int8, embedding only.
        float32_rate: Passages per second in float32, embedding only.
    """

    passages: int
    mean: float
    least: float
    overlap: float
    int8_rate: float
    float32_rate: float


def compare(index: Index, exact: Embedder, size: int) -> Comparison:
    """Compare int8 with float32 on random passages, the same ones in every run.

    Args:
        index: The filled index, in int8.
        exact: The same model in float32.
        size: Number of passages; at most the number stored.

    Returns:
        The comparison.
    """
    hits = index.search("Python", k=index.store.count())
    drawn = random.Random(0).sample(sorted(hits, key=lambda hit: (hit.source, hit.start)), size)
    texts = [f"{hit.heading}\n{hit.text}" for hit in drawn]
    quantized, int8_seconds = timed(index.embedder, texts)
    plain, float32_seconds = timed(exact, texts)
    cosines = (quantized * plain).sum(axis=1)
    shares = [
        len(top_ten(index.embedder, question, quantized) & top_ten(exact, question, plain)) / 10
        for question in QUESTIONS
    ]
    return Comparison(
        passages=size,
        mean=float(cosines.mean()),
        least=float(cosines.min()),
        overlap=statistics.mean(shares),
        int8_rate=size / int8_seconds,
        float32_rate=size / float32_seconds,
    )


def top_ten(embedder: Embedder, question: str, passages: NDArray[np.float32]) -> set[int]:
    """Return the ten passages nearest to a question.

    Args:
        embedder: The model of the passages' vectors.
        question: What to search for.
        passages: float32 (N, D), unit rows.

    Returns:
        Their row numbers.
    """
    return set(np.argsort(-(passages @ embedder.encode_query(question)))[:10].tolist())


def timed(embedder: Embedder, texts: list[str]) -> tuple[NDArray[np.float32], float]:
    """Embed texts and measure the time.

    Args:
        embedder: The model.
        texts: The texts.

    Returns:
        The vectors, float32 (N, D), and seconds.
    """
    begin = time.perf_counter()
    vectors = embedder.encode_document(texts)
    return vectors, time.perf_counter() - begin


def print_numbers(
    index: Index, report: UpdateReport, latency: dict[str, float], comparison: Comparison
) -> None:
    """Print the speed and the loss of int8.

    Args:
        index: The filled index.
        report: The report of the update.
        latency: Milliseconds per query for each kind of search.
        comparison: How far int8 is from float32.
    """
    stored = index.store.count()
    sample = f"{comparison.passages} of {stored} passages, drawn at random"
    if comparison.passages == stored:
        sample = f"all {stored} passages"
    table = Table.grid(padding=(0, 2))
    rows = [
        *(
            ("query" * (row == 0), f"{value:.1f} ms", f"{name}, ten passages, embedding included")
            for row, (name, value) in enumerate(latency.items())
        ),
        ("embedding", f"{comparison.int8_rate:.0f} passages/s", f"int8, {sample}"),
        ("", f"{comparison.float32_rate:.0f} passages/s", "float32, the same passages"),
        ("int8 to float32", f"cosine {comparison.mean:.4f}", "mean over the same passages"),
        ("", f"cosine {comparison.least:.4f}", "the lowest of them"),
        (
            "",
            f"top 10 {comparison.overlap:.0%} equal",
            f"among the same passages, {len(QUESTIONS)} questions",
        ),
    ]
    if report.added:
        rate = f"{report.passages_per_second:.0f} passages/s"
        rows.insert(
            0, ("indexing", rate, f"read, split, embed and store in {report.seconds:.1f} s")
        )
    for name, value, note in rows:
        table.add_row(f"  {name}", Text(value, "bold"), Text(note, "dim"))
    console.print()
    console.rule("[bold]Numbers[/]", style="dim")
    console.print(table)


def run(model: Path, store: Path) -> None:
    """Run the demo.

    Args:
        model: Model folder.
        store: Folder of the index; an existing one is updated.
    """
    embedder = Embedder.from_pretrained(model)
    console.rule("[bold]Quaver[/] [dim]embeddings in eight bits, on the CPU[/]", style="dim")
    console.print(
        f"  model {model}, {embedder.dimension} dimensions, int8, "
        f"{embedder.isa}, {embedder.threads} threads"
    )
    opened = (
        Index.open(store, embedder)
        if Index.exists(store)
        else Index.create(store, embedder, passage_tokens=PASSAGE_TOKENS)
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
        with _working("comparing with float32"):
            quick = report.passages_per_second >= QUICK
            stored = index.store.count()
            comparison = compare(index, exact, stored if quick else min(SAMPLE, stored))
        print_numbers(index, report, latency, comparison)


def _working(doing: str) -> AbstractContextManager[object]:
    """Show a status line on a terminal."""
    return console.status(f"[dim]{doing}") if console.is_terminal else nullcontext()


def main() -> None:
    """Read the arguments and run the demo."""
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
