"""The one Typer application; every command module hangs its commands on it."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

ORDER = (
    *("index", "search", "ask", "status", "remove", "export", "import", "embed"),
    *("quantize", "evaluate", "bench", "export-st", "info"),
)
"""Commands as a new user needs them; those that are not named come last."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the help."""
        names = super().list_commands(ctx)
        places = {name: place for place, name in enumerate(ORDER)}
        return sorted(names, key=lambda name: places.get(name, len(places)))


app = typer.Typer(
    name="quaver",
    cls=_Commands,
    help="Embedding models in int8 on the CPU: index documents, search them, embed texts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"quaver {metadata.version('quaver')}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass
