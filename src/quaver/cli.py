"""The command line: every command is a few lines over the public classes."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from quaver.embedder import Embedder
from quaver.errors import InputError, QuaverError
from quaver.index import Index, Progress, UpdateReport
from quaver.machine import info as machine_info
from quaver.passages import scan_folder
from quaver.store.manifest import Manifest
from quaver.store.protocol import Hit

app = typer.Typer(
    name="quaver",
    help="Embedding models in int8 on the CPU: index documents, search them, embed texts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Precision(str, Enum):
    """What the engine computes in."""

    int8 = "int8"
    float32 = "float32"


ModelOption = Annotated[str, typer.Option("--model", "-m", help="Model folder or hub id.")]
StoredModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Model folder or hub id; default: the one the store was made with."
    ),
]
PrecisionOption = Annotated[Precision, typer.Option(help="What the engine computes in.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: all cores.", min=1)]


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of .txt, .md, .rst and .html files.")],
    store: Annotated[
        Path, typer.Option("--store", "-s", help="Folder of the store; made if there is none.")
    ],
    model: ModelOption,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Bring a store in step with a folder: embed what is new or changed, drop what is gone."""
    with _errors(interrupted="interrupted: what was stored stays; run it again to finish"):
        scan_folder(folder)  # a wrong folder is told before a model is loaded and a store is made
        embedder = Embedder.from_pretrained(model, precision=precision.value, threads=threads)
        with _opened(store, embedder, model) as opened, _progress_bar() as show:
            report = opened.update(folder, on_progress=show)
        _print_report(report, store)
        if report.failed and not report.files:
            raise typer.Exit(1)


@app.command()
def search(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    query: Annotated[str, typer.Argument(help="The question.")],
    k: Annotated[int, typer.Option("-k", help="How many passages.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Find the passages that answer a question."""
    with _errors():
        name = model or Manifest.read(store).model
        embedder = Embedder.from_pretrained(name, precision=precision.value, threads=threads)
        with Index.open(store, embedder) as opened:
            hits = opened.search(query, k=k)
        if as_json:
            print(
                json.dumps(
                    {"query": query, "hits": [asdict(hit) for hit in hits]},
                    ensure_ascii=False,
                    indent=2,
                )
            )
        else:
            _print_hits(hits)


@app.command()
def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help='Texts; a single "-" reads lines from stdin.')
    ] = None,
    model: ModelOption = "",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="One text per line.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a .npy file instead of JSON lines.")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="Name of one of the model's prompts.")
    ] = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Embed texts: one JSON array per line on stdout, or a NumPy file."""
    if not model:
        raise typer.BadParameter("missing", param_hint="--model")
    if bool(texts) == (file is not None):
        raise typer.BadParameter(
            "give texts, or --file, or - for stdin; one of them", param_hint="TEXTS"
        )
    if output is not None and output.suffix != ".npy":
        raise typer.BadParameter(f"must end in .npy: got {output.name}", param_hint="--output")
    with _errors():
        lines = _texts(texts or [], file)
        embedder = Embedder.from_pretrained(model, precision=precision.value, threads=threads)
        vectors = embedder.encode(lines, prompt_name=prompt_name)
        if output is None:
            for row in vectors:
                print(json.dumps([float(f"{value:.7g}") for value in row]))
        else:
            try:
                np.save(output, vectors)
            except OSError as error:
                raise InputError(f"cannot write {output}: {error.strerror}") from error
            print(
                f"{vectors.shape[0]} vectors of dimension {vectors.shape[1]} in {output}",
                file=sys.stderr,
            )


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show this CPU, what the engine uses of it, and versions."""
    with _errors():
        facts = machine_info()
        if as_json:
            print(json.dumps(facts, indent=2, default=str))
            return
        width = max(map(len, facts))
        console = Console(highlight=False, soft_wrap=True)
        for name, value in facts.items():
            console.print(
                Text.assemble((f"{name.replace('_', ' '):{width}}  ", "dim"), _shown(value))
            )


def _opened(store: Path, embedder: Embedder, model: str) -> Index:
    """Opens the index at this path, or makes it."""
    if Index.exists(store):
        return Index.open(store, embedder)
    return Index.create(store, embedder, model=model)


@contextmanager
def _errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turns Quaver's errors into one line and exit code 1, and Ctrl-C into 130."""
    try:
        yield
    except QuaverError as error:
        print(f"quaver: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        print(f"quaver: {interrupted}", file=sys.stderr)
        raise typer.Exit(130) from error
    except BrokenPipeError as error:
        # The reader (head, less) has seen enough; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None]]:
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


def _print_report(report: UpdateReport, store: Path) -> None:
    """Prints what an update did; failures go to stderr."""
    print(f"{_many(report.files, 'file')} in {store}")
    print(
        f"passages: {report.added} added, {report.unchanged} unchanged, {report.removed} removed; "
        f"{_many(report.truncated, 'text')} truncated"
    )
    print(f"{report.seconds:.1f} s, {report.passages_per_second:.0f} passages/s")
    if report.failed:
        print(f"quaver: {_many(len(report.failed), 'file')} could not be read:", file=sys.stderr)
    for failure in report.failed:
        print(f"  {failure.source}: {failure.reason}", file=sys.stderr)


def _print_hits(hits: list[Hit]) -> None:
    """Prints rank, score, source and heading, and the beginning of each text."""
    console = Console(highlight=False)
    if not hits:
        console.print("nothing found: the store is empty")
    for rank, hit in enumerate(hits, start=1):
        console.print(
            Text.assemble(f"{rank:3}  ", (f"{hit.score:.3f}", "green"), ("  " + hit.source, "bold"))
        )
        if hit.heading:
            console.print(Text(f"     {hit.heading}", "cyan"), no_wrap=True, overflow="ellipsis")
        console.print(Text(snippet(hit.text, width=min(console.width, 100))))


def snippet(text: str, *, width: int, lines: int = 3) -> str:
    """Returns the beginning of a text for the terminal.

    Args:
        text: A passage's text.
        width: Columns, including an indent of 5.
        lines: How many lines at most.

    Returns:
        Wrapped and indented lines; "…" ends what was cut.
    """
    short = textwrap.TextWrapper(
        width=max(width, 20),
        initial_indent=" " * 5,
        subsequent_indent=" " * 5,
        max_lines=lines,
        placeholder=" …",
    )
    return short.fill(" ".join(text.split()))


def _shown(value: object) -> str:
    """Writes a fact for people: of yes and no the yes, of versions name and number."""
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(
        str(name) if held is True else f"{name} {held}"
        for name, held in value.items()
        if held is not False
    )


def _texts(texts: list[str], file: Path | None) -> list[str]:
    """Collects the texts from arguments, a file, or stdin; an empty line is an empty text."""
    if file is None and texts != ["-"]:
        return texts
    try:
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return content.decode("utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file or 'stdin'} must be UTF-8: byte {error.start} is not") from error


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def main() -> Any:
    """Runs the command line; the entry point of the ``quaver`` script."""
    return app()


if __name__ == "__main__":
    main()
