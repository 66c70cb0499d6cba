"""The command line: every command is a few lines over the public classes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from quaver.embedder import Embedder
from quaver.errors import InputError, QuaverError
from quaver.index import Index
from quaver.machine import info as machine_info
from quaver.passages import scan_folder
from quaver.store.manifest import Manifest
from quaver.terminal import many, print_hits, print_report, progress_bar

app = typer.Typer(
    name="quaver",
    help="Embedding models in int8 on the CPU: index documents, search them, embed texts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class Pooling(str, Enum):
    """How token vectors become one."""

    cls = "cls"
    mean = "mean"


class Precision(str, Enum):
    """What the engine computes in."""

    int8 = "int8"
    float32 = "float32"


StoredModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model folder or hub id; default: the one the store was made with.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[Precision, typer.Option(help="What the engine computes in.")]
PoolingOption = Annotated[
    Pooling | None,
    typer.Option(help="For a model folder that does not say how token vectors become one."),
]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: all cores.", min=1)]


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of .txt, .md, .rst and .html files.")],
    store: Annotated[
        Path, typer.Option("--store", "-s", help="Folder of the store; made if there is none.")
    ],
    model: StoredModelOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Know the folder by this name instead of its absolute path, so that it can move."
        ),
    ] = None,
    passage_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a passage at most, for a new store; default: all that the model reads."
        ),
    ] = None,
    pooling: PoolingOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Bring a store in step with a folder: embed what is new or changed, drop what is gone.

    A store can hold several folders: this touches only what came from the one given. A folder is
    known by its absolute path; a moved one counts as new, unless it has a --name. To drop all of a
    folder, see `quaver remove`.
    """
    with _errors(interrupted="interrupted: what was stored stays; run it again to finish"):
        scan_folder(folder)  # a wrong folder is told before a model is loaded and a store is made
        if model is None and not Index.exists(store):
            raise typer.BadParameter("a new store needs a model", param_hint="--model")
        embedder = _embedder(model, store, precision, threads, pooling)
        with progress_bar() as show, _opened(store, embedder, passage_tokens) as opened:
            report = opened.update(folder, name=name, on_progress=show)
        print_report(report, folder, store)
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
        with Index.open(store, _embedder(model, store, precision, threads)) as opened:
            hits = opened.search(query, k=k)
        if as_json:
            print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, indent=2))
        else:
            print_hits(hits)


@app.command()
def remove(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    folder: Annotated[
        Path, typer.Argument(help="The indexed folder, or its name; it may be gone already.")
    ],
    model: StoredModelOption = None,
) -> None:
    """Drop everything from a store that was indexed from a folder."""
    with _errors(), Index.open(store, _embedder(model, store)) as opened:
        print(f"{many(opened.remove(folder), 'passage')} removed from {store}")


@app.command()
def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help='Texts; a single "-" reads lines from stdin.')
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder or hub id.")] = "",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="One text per line.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a .npy file instead of JSON lines.")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="Name of one of the model's prompts.")
    ] = None,
    pooling: PoolingOption = None,
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
        embedder = Embedder.from_pretrained(
            model, pooling=_value(pooling), precision=precision.value, threads=threads
        )
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


def _embedder(
    model: str | None,
    store: Path,
    precision: Precision = Precision.int8,
    threads: int | None = None,
    pooling: Pooling | None = None,
) -> Embedder:
    """Loads a model; if None, the one a store was made with, as it was loaded then."""
    settings: dict[str, Any] = {}
    if model is None:
        manifest = Manifest.read(store)
        model, settings = manifest.model, manifest.settings
    if pooling is not None:
        settings = {**settings, "pooling": pooling.value}
    return Embedder.from_pretrained(model, precision=precision.value, threads=threads, **settings)


def _value(choice: Pooling | None) -> str | None:
    return None if choice is None else choice.value


def _opened(store: Path, embedder: Embedder, passage_tokens: int | None) -> Index:
    """Opens the index at this path, or makes it."""
    if not Index.exists(store):
        return Index.create(store, embedder, passage_tokens=passage_tokens)
    opened = Index.open(store, embedder)
    if passage_tokens not in (None, opened.passage_tokens):
        opened.close()
        raise InputError(
            f"the store at {store} has passages of {opened.passage_tokens} tokens, which cannot "
            f"change: got --passage-tokens {passage_tokens}; use another store"
        )
    return opened


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


def main() -> Any:
    """Runs the command line; the entry point of the ``quaver`` script."""
    return app()


if __name__ == "__main__":
    main()
