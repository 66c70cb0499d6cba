"""The one Typer application; every command module hangs its commands on it."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="quaver",
    help="Embedding models in int8 on the CPU: index documents, search them, embed texts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
