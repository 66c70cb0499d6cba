"""The command line: a module for each group of commands, a few lines over the public classes each."""

from __future__ import annotations

from typing import Any

from quaver.cli.app import app

__all__ = ["app", "main"]


def main() -> Any:
    """Run the command line; the `quaver` script calls this."""
    return app()
