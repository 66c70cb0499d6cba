"""The memory of this process. Portable: it is left to the C library."""

from __future__ import annotations

import ctypes

from quaver.system.switch import LINUX


def give_back_memory() -> None:
    """Give memory that was freed back to the system, where the C library would keep it (glibc)."""
    if LINUX:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
