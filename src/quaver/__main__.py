"""`python -m quaver`, and the `quaver` script: the command line, which Ctrl-C ends while it is loaded, too."""

from __future__ import annotations

import sys
from typing import Any


def main() -> Any:
    """Load and run the command line.

    Returns:
        130 where Ctrl-C came before a command ran; else what the command line returns.
    """
    try:
        from quaver.cli import main as run
    except KeyboardInterrupt:
        print("quaver: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
