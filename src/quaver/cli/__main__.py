"""`python -m quaver.cli`."""

from __future__ import annotations

from quaver.cli import main

if __name__ == "__main__":
    main()
