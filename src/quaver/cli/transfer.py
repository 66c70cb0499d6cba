"""`quaver export` and `quaver import`: a store to a Parquet file and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import (
    ComparedVectors,
    OverwriteOption,
    Precision,
    PrecisionOption,
    QuietOption,
    StoreArgument,
    ThreadsOption,
    WaitOption,
    require_new,
    require_option,
    stored_model,
    wait_seconds,
)
from quaver.cli.terminal import plural, progress_display
from quaver.embedder import Embedder
from quaver.errors import DocumentError, InputError
from quaver.index import Index, UpdateProgress, export_passages, import_passages
from quaver.store import Manifest


def export_store(
    store: StoreArgument,
    file: Annotated[Path, typer.Argument(help="The .parquet file to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write a store's passages, metadata and vectors to a Parquet file.

    Example: quaver export ./kb kb.parquet
    """
    with reported_errors():
        if file.suffix.lower() != ".parquet":
            raise InputError(f"an export must end in .parquet: got {file.name}")
        require_new(file, overwrite=overwrite)
        print(f"{plural(export_passages(store, file), 'passage')} from {store} in {file}")


def import_store(
    store: Annotated[
        str,
        typer.Argument(
            help="Folder of the store, or qdrant://host:port/name; made if it does not exist."
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            help="A .parquet file from `quaver export`, or with columns id and text; or a folder from "
            "`quaver embed --output --keep text`."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Embedding model, for a file that `quaver export` did not write.",
            show_default=False,
        ),
    ] = None,
    vectors: Annotated[
        ComparedVectors | None,
        typer.Option(
            help="New store on a server: what its search compares, float32, int8 or binary; default: as in the file."
        ),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Of a folder: a kept column whose values differ in all rows; default: the rows are numbered.",
            show_default=False,
        ),
    ] = None,
    wait: WaitOption = False,
    quiet: QuietOption = False,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Store the passages of a Parquet file, with its vectors if it is an export.

    Example: quaver import qdrant://localhost:6333/kb kb.parquet
    """
    with reported_errors(interrupted="interrupted: what was stored stays; run it again to finish"):
        require_option(
            "--model",
            model,
            {"--precision": precision is not Precision.int8, "--threads": threads},
        )
        if file.is_dir():
            _import_folder(store, file, model, id, vectors, wait, quiet, precision, threads)
            return
        if id is not None:
            raise InputError("--id is for a folder: the ids of a file are its column id")
        if not file.is_file():
            raise DocumentError(f"there is no file {file} to import")
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
                    UpdateProgress(done, total, done, done, done, total)
                ),
            )
        print(f"{plural(count, 'passage')} from {file} in {store}")


def _import_folder(
    store: str,
    folder: Path,
    model: str | None,
    id: str | None,
    vectors: ComparedVectors | None,
    wait: bool,
    quiet: bool,
    precision: Precision,
    threads: int | None,
) -> None:
    """Import what `quaver embed --output` wrote."""
    from quaver.bulk import import_vectors, is_target

    if not is_target(folder):
        raise DocumentError(
            f"a folder to import is one that `quaver embed --output` wrote: {folder} is another one"
        )
    if precision is not Precision.int8 or threads is not None:
        raise InputError("nothing is embedded from a folder: leave out --precision and --threads")
    with progress_display(quiet=quiet) as show:
        count = import_vectors(
            folder,
            store,
            model=model,
            id=id,
            vectors=vectors,
            wait=wait_seconds(wait),
            on_progress=lambda done, total: show(
                UpdateProgress(done, total, done, done, done, total)
            ),
        )
    print(f"{plural(count, 'passage')} from {folder} in {store}")
