"""`quaver info`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import JsonOption
from quaver.engine import info as machine_info


def info(as_json: JsonOption = False) -> None:
    """Show this CPU, what the engine uses of it, settings that affect speed, and versions.

    Example: quaver info --json
    """
    with reported_errors():
        facts = machine_info()
        settings, advice = facts.pop("settings"), facts.pop("advice")
        facts = {**facts, **settings, "advice": advice}
        if as_json:
            print(json.dumps(facts, indent=2, default=str))
            return
        if "instances" in facts:
            facts["instances"] = [
                f"{process['threads']} threads on CPUs {process['cpus']}"
                for process in facts["instances"]
            ] or "one process on all CPUs"
        width = max(map(len, facts))
        console = Console(highlight=False, soft_wrap=True)
        for name, value in facts.items():
            console.print(
                Text.assemble((f"{name.replace('_', ' '):{width}}  ", "dim"), _shown(value))
            )


def _shown(value: object) -> str:
    """Return a fact as text: of flags those that are set, of versions name and number."""
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
