"""`quaver load`."""

from __future__ import annotations

from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import QuietOption
from quaver.cli.terminal import plural, progress_display
from quaver.index import UpdateProgress


def load(
    source: Annotated[
        str, typer.Argument(help="Folder or URI that `quaver embed --output` wrote.")
    ],
    destination: Annotated[
        str,
        typer.Argument(
            help="qdrant://host:port/collection, postgresql://user@host/database?table=name, or "
            "lance://folder/table; made if it does not exist."
        ),
    ],
    id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="A kept column whose values differ in all rows; default: the rows are numbered.",
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index/--no-index", help="Index the vectors after the load.")
    ] = True,
    quiet: QuietOption = False,
) -> None:
    """Load the vectors of `quaver embed --output` into Qdrant, PostgreSQL or LanceDB.

    Example: quaver load vectors/ qdrant://localhost:6333/passages --id id
    """
    with reported_errors(interrupted="interrupted: what is loaded stays; run it again to continue"):
        from quaver.bulk import load as load_vectors

        with progress_display(quiet=quiet) as show:
            report = load_vectors(
                source,
                destination,
                id=id,
                index=index,
                on_progress=lambda done, total: show(
                    UpdateProgress(done, total, done, done, done, total)
                ),
            )
        before = f", {report.before} of them before" if report.before else ""
        print(
            f"{plural(report.rows, 'row')} of {plural(report.outputs, 'output')}{before} in {report.destination}"
        )
        if report.left_out:
            print(f"{plural(report.left_out, 'row')} without a result left out")
