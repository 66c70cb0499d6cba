"""`python -m quaver` and the `quaver` script."""

from __future__ import annotations

import sys
from typing import Any


def main() -> Any:
    """Import and run the command line.

    Returns:
        130 if Ctrl-C came while it was imported; else what the command line returns.
    """
    try:
        from quaver.cli import main as run
    except KeyboardInterrupt:
        print("quaver: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
