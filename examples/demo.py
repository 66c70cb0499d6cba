"""Index the Python documentation, ask it five questions, rerank, and see what int8 costs.

python examples/demo.py MODEL_FOLDER [STORE]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
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
from quaver.cli.terminal import QueryWords, excerpt, short_heading
from quaver.documents import embedded_text

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
"""Passages that are found by words and vectors together and then ordered by the model alone."""

REPEATS = 15
PASSAGE_TOKENS = 128
"""Half of what the model reads: a few sentences, and a machine without VNNI is done in a minute."""

SAMPLE = 400
"""Passages that are embedded in float32 too, drawn at random; all of them where that is quick."""

QUICK = 200.0
"""Passages indexed per second from which on all are embedded in float32 too."""

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
    """Asks the questions and prints the best passages, and where each search alone had them.

    Args:
        index: The filled index.
    """
    ranker = BiEncoderRanker(index.embedder)
    for number, question in enumerate(QUESTIONS, start=1):
        console.print()
        console.print(Text.assemble((f"{number}  {question}", "bold")))
        words = QueryWords(question, index.store.manifest.language)
        places = {
            name: [hit.id for hit in index.search(question, k=CANDIDATES, mode=mode)]
            for name, mode in (("words", "bm25"), ("vectors", "dense"), ("fused", "hybrid"))
        }
        for hit in index.search(question, k=SHOWN, ranker=ranker, candidates=CANDIDATES):
            stood = ", ".join(
                f"{name} {found.index(hit.id) + 1}"
                for name, found in places.items()
                if hit.id in found
            )
            console.print(
                Text.assemble(f"   {hit.score:.3f}  ", (hit.source, "cyan"), (f"  {stood}", "dim"))
            )
            console.print(f"     {short_heading(hit.heading, console.width - 5)}", markup=False)
            console.print(excerpt(hit.text, words, width=console.width, lines=2))
    told = (
        f"Found by words and by vectors, their ranks fused; the best {CANDIDATES} reranked by the "
        "model from the vectors that are stored. Beside each: its rank in each of these lists."
    )
    console.print()
    console.print(Padding(Text(told, "dim"), (0, 0, 0, 5)))


def milliseconds_per_query(index: Index) -> dict[str, float]:
    """Measures searches from the question to the passages, embedding included.

    Args:
        index: The filled index.

    Returns:
        For each way to search the median over all questions and repeats, in milliseconds.
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
        passages: How many passages were embedded in both.
        mean: Mean cosine between the two vectors of a passage.
        least: The lowest one.
        overlap: Share of the top 10 of these passages on which both agree, 0 to 1, mean over the
            questions.
        int8_rate: Passages per second, embedding alone.
        float32_rate: The same in float32, for the same passages.
    """

    passages: int
    mean: float
    least: float
    overlap: float
    int8_rate: float
    float32_rate: float


def compare(index: Index, exact: Embedder, size: int) -> Comparison:
    """Compares int8 with float32 on passages drawn at random, the same ones in every run.

    Args:
        index: The filled index, in int8.
        exact: The same model in float32.
        size: How many passages; at most those that are stored.

    Returns:
        The comparison.
    """
    hits = index.search("Python", k=index.store.count())
    drawn = random.Random(0).sample(sorted(hits, key=lambda hit: (hit.source, hit.start)), size)
    texts = [embedded_text(hit.heading, hit.text) for hit in drawn]
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
    """Finds the ten passages nearest to a question.

    Args:
        embedder: The model of the passages' vectors.
        question: What to search for.
        passages: float32 (N, D), unit rows.

    Returns:
        Their row numbers.
    """
    return set(np.argsort(-(passages @ embedder.encode_query(question)))[:10].tolist())


def timed(embedder: Embedder, texts: list[str]) -> tuple[NDArray[np.float32], float]:
    """Embeds texts and measures the time.

    Args:
        embedder: The model.
        texts: What to embed.

    Returns:
        The vectors, float32 (N, D), and seconds.
    """
    begin = time.perf_counter()
    vectors = embedder.encode_document(texts)
    return vectors, time.perf_counter() - begin


def print_numbers(
    index: Index, report: UpdateReport, latency: dict[str, float], comparison: Comparison
) -> None:
    """Prints speed, and beside it what it costs.

    Args:
        index: The filled index.
        report: What indexing did.
        latency: Milliseconds per query for each way to search.
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
    """Runs the demo.

    Args:
        model: Model folder.
        store: Where the index is made; one that is there is brought up to date.
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
    """Shows that something takes a while, where there is a terminal."""
    return console.status(f"[dim]{doing}") if console.is_terminal else nullcontext()


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
