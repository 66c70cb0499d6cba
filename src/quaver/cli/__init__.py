"""The command line: one module for each group of commands, each a few lines over the public classes."""

from __future__ import annotations

from typing import Any

from quaver.cli import (
    ask,
    bench,
    check,
    embed,
    evaluate,
    export,
    index,
    info,
    quantize,
    status,
    transfer,
)
from quaver.cli.app import app

__all__ = [
    "app",
    "ask",
    "bench",
    "check",
    "embed",
    "evaluate",
    "export",
    "index",
    "info",
    "main",
    "quantize",
    "status",
    "transfer",
]


def main() -> Any:
    """Runs the command line; the entry point of the ``quaver`` script."""
    return app()
