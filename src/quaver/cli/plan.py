"""`quaver plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import (
    PairColumnsOption,
    PoolingOption,
    Precision,
    PrecisionOption,
    PriceOption,
    ResultKind,
    ThreadsOption,
    read_pair_columns,
)
from quaver.cli.terminal import duration, plural, size


def plan(
    source: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns or URIs, as for `quaver embed`.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Model, a folder or hub id.")],
    column: Annotated[
        str | None,
        typer.Option(help="The column of the texts; default: text.", show_default=False),
    ] = None,
    kind: Annotated[
        ResultKind,
        typer.Option(metavar="KIND", help="What the model makes of a text, as for `quaver embed`."),
    ] = ResultKind.dense,
    pair_columns: PairColumnsOption = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Put this before every text, as `quaver embed` does.", show_default=False
        ),
    ] = None,
    pooling: PoolingOption = None,
    precision: PrecisionOption = Precision.int8,
    cores: Annotated[
        int | None,
        typer.Option(
            help="Cores of all machines; default: those that measure.", min=1, show_default=False
        ),
    ] = None,
    sample: Annotated[int, typer.Option(help="Rows to embed for the estimate.", min=1)] = 2000,
    threads: ThreadsOption = None,
    price: PriceOption = None,
) -> None:
    """Estimate rows, tokens, time and cost of embedding a corpus, from a sample of it.

    Example: quaver plan "corpus/*.parquet" --model sentence-transformers/all-MiniLM-L6-v2 --cores 3200
    """
    with reported_errors():
        from quaver.bulk import RESULTS
        from quaver.bulk import plan as make_plan

        pair = read_pair_columns(pair_columns, kind=kind, column=column)
        made = make_plan(
            source,
            model=model,
            column=column,
            kind="scores" if pair else kind.value,
            pair_columns=pair,
            prompt=prompt,
            precision=precision.value,
            pooling=pooling,
            threads=threads,
            sample=sample,
        )
        print(f"corpus     {size(made.bytes)} in {plural(made.shards, 'shard')}")
        print(f"rows       about {made.rows:,}")
        print(f"tokens     about {made.tokens:,}")
        print(f"results    about {size(made.output_bytes)} of {RESULTS[made.kind]} as float32")
        print(
            f"measured   {made.tokens_per_second:,.0f} tokens/s with {plural(made.threads, 'thread')} here in "
            f"{made.precision}, on {made.sampled_rows:,} rows of {made.sampled_tokens:,} tokens"
        )
        used = cores or made.threads
        print(f"time       about {duration(3600 * made.hours(used))} on {plural(used, 'core')}")
        if price is not None:
            cost = made.core_hours * price
            print(
                f"cost       about ${cost:,.2f}: {made.core_hours:,.2f} core-hours at ${price:g}, "
                f"${cost / made.tokens * 1e6:.5f} per million tokens"
            )
        print(
            "This is a model: the sample stands for the corpus, and a core elsewhere for a core here."
        )
