"""`quaver export`, `quaver import`: a store as a Parquet file and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.app import app
from quaver.cli.options import (
    Precision,
    PrecisionOption,
    QuietOption,
    StoreArgument,
    ThreadsOption,
    WaitOption,
    reported_errors,
    stored_model,
    wait_seconds,
)
from quaver.cli.terminal import many, progress_display
from quaver.embedder import Embedder
from quaver.errors import InputError
from quaver.index import Index, UpdateProgress, export_passages, import_passages
from quaver.store import Manifest


@app.command("export")
def export_store(
    store: StoreArgument,
    file: Annotated[Path, typer.Argument(help="The .parquet file to write.")],
) -> None:
    """Write a store's passages, metadata and vectors to a Parquet file."""
    with reported_errors():
        print(f"{many(export_passages(store, file), 'passage')} from {store} in {file}")


@app.command("import")
def import_store(
    file: Annotated[
        Path,
        typer.Argument(help="A .parquet file of `quaver export`, or with columns id and text."),
    ],
    store: Annotated[
        str,
        typer.Option(
            "--store",
            "-s",
            help="Folder of the store, or qdrant://host:port/name; made if there is none.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Embeds a file that `quaver export` did not write.",
            show_default=False,
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            help="What the search of a new store on a server compares: float32, int8 or binary; default: as before."
        ),
    ] = None,
    wait: WaitOption = False,
    quiet: QuietOption = False,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Store the passages of a Parquet file, with its vectors where it is an export."""
    with reported_errors(interrupted="interrupted: what was stored stays; run it again to finish"):
        if not file.is_file():
            raise InputError(f"there is no file {file} to import")
        embedder: Embedder | Callable[[Manifest], Embedder] | None = None
        if model is not None and Index.exists(store):
            embedder = stored_model(store, model, precision, threads)
        elif model is not None:
            embedder = Embedder.from_pretrained(model, precision=precision.value, threads=threads)
        with progress_display(quiet=quiet) as show:
            count = import_passages(
                file,
                store,
                embedder=embedder,
                vectors=vectors,
                wait=wait_seconds(wait),
                on_progress=lambda done, total: show(
                    UpdateProgress(done, total, done, done, total)
                ),
            )
        print(f"{many(count, 'passage')} from {file} in {store}")
