"""`quaver check`: whether a store is as it was written, and making anew what is not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from quaver.cli.app import app
from quaver.cli.options import (
    Precision,
    PrecisionOption,
    StoredModelOption,
    ThreadsOption,
    WaitOption,
    reported_errors,
    stored_model,
    wait_seconds,
)
from quaver.cli.terminal import many
from quaver.index import Index
from quaver.store import StoreCheck

_SHOWN = 20


@app.command()
def check(
    store: Annotated[str, typer.Argument(help="Folder of the store.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Make anew what is wrong; embeds what needs it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    wait: WaitOption = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Compare everything in a store with its checksums; exit code 1 says that something is wrong.

    Checking writes nothing and needs no lock. --repair keeps what can be read, embeds anew the passages
    whose vectors are damaged, and drops those whose text is: `quaver index` brings back those of files.
    A store that an earlier Quaver made gets the present layout, and nothing is embedded.
    """
    with reported_errors(interrupted="interrupted: the store is as it was"):
        if not repair:
            found = Index.check(store)
            if as_json:
                print(json.dumps(asdict(found) | {"ok": found.ok}, indent=2))
            else:
                _print_check(found)
            if not found.ok:
                raise typer.Exit(1)
            return
        load = stored_model(store, model, precision, threads)
        done = Index.repair(store, load, wait=wait_seconds(wait))
        if as_json:
            print(json.dumps(asdict(done), indent=2))
            return
        _print_check(done.check)
        if not done.check.ok:
            print(
                f"repaired: {many(done.passages, 'passage')} in {store}, {done.embedded} embedded "
                f"anew, {done.lost} lost"
            )
        if done.lost:
            print("`quaver index` of their folders brings back those of files", file=sys.stderr)


def _print_check(found: StoreCheck) -> None:
    for damage in found.damages[:_SHOWN]:
        whose = " ".join(filter(None, (damage.source, damage.id)))
        print(f"{damage.part}: {f'{whose}: ' if whose else ''}{damage.detail}")
    if len(found.damages) > _SHOWN:
        print(f"... and {len(found.damages) - _SHOWN} more")
    state = "is as it was written" if found.ok else f"has {many(len(found.damages), 'damage')}"
    print(f"{found.location} {state}: {many(found.passages, 'passage')} can be read")
