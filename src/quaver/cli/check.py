"""`quaver check`: find damage in a store, and repair it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from quaver.cli.exit_codes import FAILED, reported_errors
from quaver.cli.options import (
    JsonOption,
    Precision,
    PrecisionOption,
    StoreArgument,
    StoredModelOption,
    ThreadsOption,
    WaitOption,
    require_option,
    stored_model,
    wait_seconds,
)
from quaver.cli.terminal import plural
from quaver.index import Index
from quaver.store import StoreCheck

_SHOWN = 20


def check(
    store: StoreArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is damaged; embed again what needs it.")
    ] = False,
    as_json: JsonOption = False,
    wait: WaitOption = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Compare everything in a store with its checksums.

    Example: quaver check ./kb --repair

    The exit code is 1 if something is damaged. Checking writes nothing and needs no lock. --repair
    keeps what can be read, embeds passages with damaged vectors again, and drops passages with damaged
    text; `quaver index` of their folders restores them.
    """
    with reported_errors(interrupted="interrupted: the store is unchanged"):
        require_option(
            "--repair",
            repair,
            {
                "--model": model,
                "--precision": precision is not Precision.int8,
                "--threads": threads,
                "--wait": wait,
            },
        )
        if not repair:
            found = Index.check(store)
            if as_json:
                print(json.dumps(asdict(found) | {"ok": found.ok}, indent=2))
            else:
                _print_check(found)
            if not found.ok:
                raise typer.Exit(FAILED)
            return
        load = stored_model(store, model, precision, threads)
        done = Index.repair(store, load, wait=wait_seconds(wait))
        if as_json:
            print(json.dumps(asdict(done), indent=2))
            return
        _print_check(done.check)
        if not done.check.ok:
            print(
                f"repaired: {plural(done.passages, 'passage')} in {store}, {done.embedded} embedded "
                f"again, {done.lost} lost"
            )
        if done.lost:
            print("quaver: run `quaver index` for their folders to restore them", file=sys.stderr)
        if done.returned:
            print(
                f"quaver: {plural(done.returned, 'removed passage')} may be back, because the record "
                "of removals was damaged: run `quaver index` for every folder of the store, which "
                "removes those of files that are gone",
                file=sys.stderr,
            )


def _print_check(found: StoreCheck) -> None:
    for damage in found.damages[:_SHOWN]:
        whose = " ".join(filter(None, (damage.source, damage.id)))
        print(f"{damage.part}: {f'{whose}: ' if whose else ''}{damage.detail}")
    if len(found.damages) > _SHOWN:
        print(f"... and {len(found.damages) - _SHOWN} more")
    state = "is intact" if found.ok else f"is damaged in {plural(len(found.damages), 'place')}"
    print(f"{found.location} {state}: {plural(found.passages, 'passage')} can be read")
