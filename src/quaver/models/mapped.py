"""Arrays that lie in mapped files: their pages, given back when they were read."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def release_pages(array: NDArray[Any]) -> None:
    """Take an array's pages out of this process's memory, if it is a view of a mapped file.

    They stay in the system's cache, and come back when somebody reads them: nothing is lost but
    the time of a page fault. Without this a model's file is resident twice while it is loaded, as
    it is on disk and as it is packed.

    Args:
        array: any array; one that owns its memory, or shares a writable map, is left as it is.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or array.flags.writeable or not array.flags.c_contiguous:
        return
    if not hasattr(mmap, "MADV_DONTNEED"):  # not on every system
        return
    begin = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, first, begin + array.nbytes - first)
