"""`quaver index` and `quaver remove`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from quaver.cli.exit_codes import FAILED, reported_errors
from quaver.cli.options import (
    ComparedVectors,
    LanguageOption,
    PoolingOption,
    Precision,
    PrecisionOption,
    QuietOption,
    StoreArgument,
    StoredModelOption,
    ThreadsOption,
    WaitOption,
    stored_model,
    wait_seconds,
)
from quaver.cli.terminal import ProgressDisplay, plural, print_report, progress_display
from quaver.documents import Selection, scan_folder
from quaver.embedder import Embedder
from quaver.errors import DocumentError, InputError
from quaver.index import Index, UpdateProgress, UpdateReport
from quaver.index import watch as follow
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder


def index(
    folder: Annotated[
        Path, typer.Argument(help="Folder of documents; docs/guide/files.md has the formats.")
    ],
    store: Annotated[
        str,
        typer.Option(
            "--store",
            "-s",
            help="Folder of the store, or qdrant://host:port/name on a server; made if it does not exist.",
        ),
    ],
    model: StoredModelOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="A name for the folder instead of its absolute path, so that it can move."
        ),
    ] = None,
    passage_tokens: Annotated[
        int | None,
        typer.Option(
            help="New store: maximum number of tokens in a passage; default: all that the model reads."
        ),
    ] = None,
    language: LanguageOption = None,
    vectors: Annotated[
        ComparedVectors | None,
        typer.Option(
            help="New store on a server: what its search compares, float32, int8 or binary; default: float32."
        ),
    ] = None,
    sparse: Annotated[
        str | None,
        typer.Option(
            help="Also store the weights of words of this sparse encoder, folder or hub id, for the search "
            "modes with sparse; added to a store that exists.",
            show_default=False,
        ),
    ] = None,
    multi: Annotated[
        str | None,
        typer.Option(
            help="Also store the token vectors of this multi-vector model, for --maxsim of a search; added "
            "to a store that exists.",
            show_default=False,
        ),
    ] = None,
    late_chunking: Annotated[
        bool,
        typer.Option(
            "--late-chunking",
            help="New store: the model reads a whole document at once, and a passage's vector knows the text "
            "around it. For models with mean pooling.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Follow the folder's changes until Ctrl-C."),
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only files that match a pattern as in .gitignore, such as '*.pdf'; may be repeated. "
            "Text files with an unknown ending are read too: '*.xyz'."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Files and folders to leave out, such as 'drafts/'; may be repeated."),
    ] = None,
    no_gitignore: Annotated[
        bool,
        typer.Option(
            "--no-gitignore", help="Index what the folder's .gitignore files leave out, too."
        ),
    ] = False,
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Follow symbolic links that lead out of the folder."),
    ] = False,
    wait: WaitOption = False,
    quiet: QuietOption = False,
    pooling: PoolingOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Keep a store in step with a folder: embed what is new or changed, drop what is gone.

    Example: quaver index ./docs --model sentence-transformers/all-MiniLM-L6-v2 --store ./kb

    A new store needs --model; later runs use the same model. A store can hold several folders, and
    this command changes only what came from FOLDER. A folder is identified by its absolute path, so
    a moved folder counts as new unless it has a --name. `quaver remove` drops a folder.
    """
    with reported_errors(interrupted="interrupted: what was stored stays; run it again to finish"):
        selection = Selection.of(
            include or (), exclude or (), gitignore=not no_gitignore, follow_links=follow_links
        )
        # Report a wrong folder before a model is loaded and a store is made. The first update of
        # --watch lists the folder itself, once it sees changes.
        scan = None if watch and folder.is_dir() else scan_folder(folder, selection)
        exact: dict[str, Any] = {"precision": precision.value, "threads": threads}
        added: dict[str, Any] = {}
        if sparse is not None:
            added["sparse"] = SparseEncoder.from_pretrained(sparse, **exact)
        if multi is not None:
            added["multi"] = MultiVectorEncoder.from_pretrained(multi, **exact)
        if Index.exists(store):
            load = stored_model(store, model, precision, threads, pooling)
            opened = Index.open(store, load, wait=wait_seconds(wait))
            _check_new_store_options(
                opened, store, passage_tokens, language, vectors, late_chunking
            )
            _add_models(opened, added, quiet)
        elif model is None:
            raise typer.BadParameter("a new store needs a model", param_hint="--model")
        else:
            opened = Index.create(
                store,
                Embedder.from_pretrained(
                    model,
                    precision=precision.value,
                    threads=threads,
                    pooling=pooling,
                ),
                passage_tokens=passage_tokens,
                language=language or "english",
                vectors=vectors or "float32",
                late_chunking=late_chunking,
                **added,
            )
        if watch:
            opened.close()
            _follow(store, opened.embedder, folder, name, selection, quiet)
            return
        with progress_display(quiet=quiet) as show, opened:
            report = opened.update(
                folder,
                name=name,
                include=selection.include,
                exclude=selection.exclude,
                gitignore=not no_gitignore,
                follow_links=follow_links,
                scan=scan,
                on_progress=show,
            )
        print_report(report, folder, store)
        if report.failed and not report.files:
            raise typer.Exit(FAILED)


def remove(
    store: StoreArgument,
    folder: Annotated[
        Path, typer.Argument(help="The indexed folder, or its name; it need not exist any more.")
    ],
    wait: WaitOption = False,
) -> None:
    """Drop everything that was indexed from a folder.

    Example: quaver remove ./kb ./docs
    """
    with reported_errors(), Index.open(store, wait=wait_seconds(wait), lazy=True) as opened:
        print(f"{plural(opened.remove(folder), 'passage')} removed from {store}")


def _add_models(opened: Index, added: dict[str, Any], quiet: bool) -> None:
    """Encode the passages of a store that exists with further models."""
    try:
        with progress_display(quiet=quiet) as show:
            count = opened.add_models(
                **added,
                on_progress=lambda done, total: show(
                    UpdateProgress(done, total, done, done, done, total)
                ),
            )
    except BaseException:
        opened.close()
        raise
    if count:
        print(f"{plural(count, 'stored passage')} encoded for sparse or token vectors")


def _follow(
    store: str,
    embedder: Embedder,
    folder: Path,
    name: str | None,
    selection: Selection,
    quiet: bool,
) -> None:
    """Keep the index in step with the folder until Ctrl-C."""
    with progress_display(quiet=quiet) as show:
        reports = follow(
            store,
            embedder,
            folder,
            name=name,
            include=selection.include,
            exclude=selection.exclude,
            gitignore=selection.gitignore,
            follow_links=selection.follow_links,
            on_progress=show,
        )
        _print_each(reports, folder, store, show)


def _print_each(
    reports: Iterator[UpdateReport | DocumentError],
    folder: Path,
    store: str,
    show: ProgressDisplay,
) -> None:
    for report in reports:
        show.end()
        if isinstance(report, DocumentError):
            print(f"quaver: {report}", file=sys.stderr)
        elif report.added or report.reused or report.removed or report.failed:
            print_report(report, folder, store)
        sys.stdout.flush()


def _check_new_store_options(
    opened: Index,
    store: str,
    passage_tokens: int | None,
    language: str | None,
    vectors: str | None,
    late_chunking: bool,
) -> None:
    """Check that options for a new store fit the store that exists."""
    try:
        if passage_tokens not in (None, opened.passage_tokens):
            raise InputError(
                f"the store at {store} has passages of {opened.passage_tokens} tokens, which cannot "
                f"change: got --passage-tokens {passage_tokens}; use another store"
            )
        opened.store.manifest.check_asked(
            store, language=language, vectors=vectors, late_chunking=late_chunking or None
        )
    except InputError:
        opened.close()
        raise
