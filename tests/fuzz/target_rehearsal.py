"""A target that misbehaves on request, to test the judge."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

from target import BrokenPromiseError, Case, Target

from quaver.errors import DocumentError


class Rehearsal(Target):
    """Does what its case says; part of no run unless it is named."""

    name = "rehearsal"
    cpu_seconds = 1
    quick = share = 0

    def draw(self, draw: Random) -> Case:
        """Draw a good case; `run.drawn` gives it the name, which is the deed."""
        return Case({"number": str(draw.random()).encode(), "deed": b"good"})

    def run(self, case: Case, folder: Path) -> str:
        """Do the deed."""
        case.write(folder)
        deed = (folder / "deed").read_text()
        if deed == "abort":
            os.abort()
        if deed == "hang":
            while True:
                pass
        if deed == "memory":
            return f"{len(bytearray(8 << 30))}"
        if deed == "wait":
            time.sleep(1000)
        if deed == "base":
            raise KeyboardInterrupt
        if deed == "own":
            raise DocumentError("as it should be")
        if deed == "foreign":
            raise KeyError("not ours")
        if deed == "promise":
            raise BrokenPromiseError("not kept")
        return deed


TARGETS: tuple[type[Target], ...] = (Rehearsal,)
