"""`quaver search`, and the options that it shares with `quaver ask`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import (
    JsonOption,
    Precision,
    PrecisionOption,
    StoreArgument,
    StoredModelOption,
    ThreadsOption,
    require_option,
    stored_model,
)
from quaver.cli.terminal import print_hits
from quaver.index import Index, load_ranker
from quaver.store import CANDIDATES, RANKINGS, Mode, read_conditions, unknown_fields

ModeOption = Annotated[
    Mode,
    typer.Option(
        help="Rank by vectors, by words, by the weights of a sparse encoder, or by several with their ranks "
        "fused; hybrid is dense and bm25."
    ),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="FIELD=VALUE",
        help="Only passages that match, such as source=a.md, page>=3 or author.name!=Ada; may be "
        "repeated, and all must match. Operators: = != < <= > >=.",
        show_default=False,
    ),
]
RerankOption = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        help="Rerank what was found with this model: a cross-encoder or an embedding model, "
        "folder or hub id.",
        show_default=False,
    ),
]
MaxsimOption = Annotated[
    bool,
    typer.Option(
        "--maxsim",
        help="Rerank what was found by stored token vectors, from `quaver index --multi`; runs no model "
        "on passages.",
    ),
]
CandidatesOption = Annotated[
    int, typer.Option(help="How many passages --rerank or --maxsim gets.", min=1)
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(help="Leave out hits with a lower score, on the scale of the mode or --rerank."),
]


def search(
    store: StoreArgument,
    query: Annotated[str, typer.Argument(help="The question.")],
    k: Annotated[int, typer.Option("-k", help="How many passages.", min=1)] = 10,
    mode: ModeOption = "hybrid",
    filters: FilterOption = None,
    rerank: RerankOption = None,
    maxsim: MaxsimOption = False,
    candidates: CandidatesOption = CANDIDATES,
    min_score: MinScoreOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print whole passages, not only the part that answers.")
    ] = False,
    as_json: JsonOption = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Find the passages that answer a question.

    Example: quaver search ./kb "how do I merge two dictionaries" -k 3

    The store's model embeds the question; --mode bm25 compares words only and loads no model.
    """
    with reported_errors():
        reranked = rerank or maxsim
        require_option("--rerank or --maxsim", reranked, {"--candidates": candidates != CANDIDATES})
        wanted = read_conditions(filters)
        load = stored_model(store, model, precision, threads)
        lazy = "dense" not in RANKINGS[mode]
        with Index.open(store, load, read_only=True, lazy=lazy) as opened:
            own = None if lazy else opened.embedder
            hits = opened.search(
                query,
                k=k,
                mode=mode,
                filter=wanted,
                ranker=None if rerank is None else load_ranker(rerank, own, threads=threads),
                candidates=candidates,
                min_score=min_score,
                maxsim=maxsim,
            )
            unknown = [] if hits or as_json else unknown_fields(wanted, opened.store)
            language = opened.store.manifest.language
        for field in unknown:
            print(f"quaver: no passage in {store} has a field {field!r}", file=sys.stderr)
        if as_json:
            print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, indent=2))
        else:
            print_hits(hits, query=query, language=language, full=full)
