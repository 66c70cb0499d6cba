"""`quaver info`: this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from quaver.cli.app import app
from quaver.cli.options import reported_errors
from quaver.engine import advice, cpu_settings
from quaver.engine import info as machine_info


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show this CPU, what the engine uses of it, settings that change the speed, and versions."""
    with reported_errors():
        settings = cpu_settings()
        facts = {**machine_info(), **settings, "advice": advice(settings)}
        if as_json:
            print(json.dumps(facts, indent=2, default=str))
            return
        width = max(map(len, facts))
        console = Console(highlight=False, soft_wrap=True)
        for name, value in facts.items():
            console.print(
                Text.assemble((f"{name.replace('_', ' '):{width}}  ", "dim"), _shown(value))
            )


def _shown(value: object) -> str:
    """Writes a fact for people: of yes and no the yes, of versions name and number."""
    if isinstance(value, list):
        between = "; " if any(isinstance(item, str) for item in value) else ", "
        return between.join(map(str, value)) or "none"
    if value is None:
        return "none"
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(
        str(name) if held is True else f"{name} {held}"
        for name, held in value.items()
        if held is not False
    )
