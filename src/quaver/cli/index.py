"""`quaver index`, `quaver search`, `quaver remove`: passages in a store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.app import app
from quaver.cli.options import (
    PoolingOption,
    Precision,
    PrecisionOption,
    QuietOption,
    StoreArgument,
    StoredModelOption,
    ThreadsOption,
    WaitOption,
    choice_value,
    reported_errors,
    stored_model,
    wait_seconds,
)
from quaver.cli.search_options import (
    CandidatesOption,
    CountOption,
    FilterOption,
    MinScoreOption,
    ModeOption,
    RerankOption,
    fields_of_none,
    parsed_filter,
)
from quaver.cli.terminal import (
    ProgressDisplay,
    many,
    print_hits,
    print_report,
    progress_display,
)
from quaver.documents import Selection, scan_folder
from quaver.embedder import Embedder
from quaver.errors import DocumentError, InputError
from quaver.index import Index, UpdateReport, load_ranker
from quaver.index import watch as follow
from quaver.store import CANDIDATES


@app.command()
def index(
    folder: Annotated[
        Path, typer.Argument(help="Folder of documents; docs/guide/files.md has the formats.")
    ],
    store: Annotated[
        str,
        typer.Option(
            "--store",
            "-s",
            help="Folder of the store, or qdrant://host:port/name; made if there is none.",
        ),
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
    language: Annotated[
        str | None,
        typer.Option(
            help="Whose stop words and stems the word search uses, for a new store; default: english."
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            help="What the search of a new store on a server compares: float32, int8 or binary; default: float32."
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on following the folder's changes until Ctrl-C."),
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only files that match, as in .gitignore: '*.pdf'; may be repeated. Text with an "
            "unknown ending is read, too: '*.xyz'."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Files and folders to leave out: 'drafts/'; may be repeated."),
    ] = None,
    no_gitignore: Annotated[
        bool,
        typer.Option(
            "--no-gitignore", help="Take what the folder's .gitignore files leave out, too."
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
    """Bring a store in step with a folder: embed what is new or changed, drop what is gone.

    A store can hold several folders: this touches only what came from the one given. A folder is
    known by its absolute path; a moved one counts as new, unless it has a --name. To drop all of a
    folder, see `quaver remove`.
    """
    with reported_errors(interrupted="interrupted: what was stored stays; run it again to finish"):
        selection = Selection.of(
            include or (), exclude or (), gitignore=not no_gitignore, follow_links=follow_links
        )
        # A wrong folder is told before a model is loaded and a store is made.
        scan_folder(folder, selection)
        if Index.exists(store):
            load = stored_model(store, model, precision, threads, pooling)
            opened = Index.open(store, load, wait=wait_seconds(wait))
            _check_asked(opened, store, passage_tokens, language, vectors)
        elif model is None:
            raise typer.BadParameter("a new store needs a model", param_hint="--model")
        else:
            opened = Index.create(
                store,
                Embedder.from_pretrained(
                    model,
                    precision=precision.value,
                    threads=threads,
                    pooling=choice_value(pooling),
                ),
                passage_tokens=passage_tokens,
                language=language or "english",
                vectors=vectors or "float32",
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
                on_progress=show,
            )
        print_report(report, folder, store)
        if report.failed and not report.files:
            raise typer.Exit(1)


@app.command()
def search(
    store: StoreArgument,
    query: Annotated[str, typer.Argument(help="The question.")],
    k: CountOption = 10,
    mode: ModeOption = "hybrid",
    filters: FilterOption = None,
    rerank: RerankOption = None,
    candidates: CandidatesOption = CANDIDATES,
    min_score: MinScoreOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print whole passages, not only the part that answers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Find the passages that answer a question."""
    with reported_errors():
        wanted = parsed_filter(filters)
        load = stored_model(store, model, precision, threads)
        with Index.open(store, load, read_only=True, lazy=mode == "bm25") as opened:
            own = None if mode == "bm25" else opened.embedder
            hits = opened.search(
                query,
                k=k,
                mode=mode,
                filter=wanted,
                ranker=None if rerank is None else load_ranker(rerank, own),
                candidates=candidates,
                min_score=min_score,
            )
            unknown = [] if hits or as_json else fields_of_none(wanted, opened.store)
            language = opened.store.manifest.language
        for field in unknown:
            print(f"quaver: no passage in {store} has a field {field!r}", file=sys.stderr)
        if as_json:
            print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, indent=2))
        else:
            print_hits(hits, query=query, language=language, full=full)


@app.command()
def remove(
    store: StoreArgument,
    folder: Annotated[
        Path, typer.Argument(help="The indexed folder, or its name; it may be gone already.")
    ],
    wait: WaitOption = False,
) -> None:
    """Drop everything from a store that was indexed from a folder."""
    with reported_errors(), Index.open(store, wait=wait_seconds(wait), lazy=True) as opened:
        print(f"{many(opened.remove(folder), 'passage')} removed from {store}")


def _follow(
    store: str,
    embedder: Embedder,
    folder: Path,
    name: str | None,
    selection: Selection,
    quiet: bool,
) -> None:
    """Keeps the index in step with the folder until Ctrl-C."""
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


def _check_asked(
    opened: Index,
    store: str,
    passage_tokens: int | None,
    language: str | None,
    vectors: str | None,
) -> None:
    """Checks that options of a new store are not given for one that is there, or fit it."""
    try:
        if passage_tokens not in (None, opened.passage_tokens):
            raise InputError(
                f"the store at {store} has passages of {opened.passage_tokens} tokens, which cannot "
                f"change: got --passage-tokens {passage_tokens}; use another store"
            )
        opened.store.manifest.check_asked(store, language=language, vectors=vectors)
    except InputError:
        opened.close()
        raise
