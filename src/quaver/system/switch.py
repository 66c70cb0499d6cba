"""Which forms this process uses: those of Linux or POSIX, or the portable ones."""

from __future__ import annotations

import os
import sys

_PORTABLE = os.environ.get("QUAVER_PORTABLE", "") not in ("", "0")
"""Turns off what only some systems have, so that tests on Linux run what others would."""

LINUX = sys.platform == "linux" and not _PORTABLE
"""Whether /proc, /sys, affinity masks and control groups are used."""

POSIX = os.name == "posix" and not _PORTABLE
"""Whether processes have limits, signals that ask whether they run, and folders that can be synced."""
