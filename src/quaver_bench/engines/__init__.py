"""The engines that are measured, one file each; what a form is called, needs, and how it loads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver_bench.inputs import Ids, Request
from quaver_bench.models import Model

Vectors = NDArray[np.float32]
Run = Callable[[], Vectors]
"""One call: encodes its texts, returns float32 (N, H), unit rows, in the order of the texts."""


class CannotRunError(Exception):
    """An engine cannot run this model on this machine; the message says why. Never leaves bench."""


class Engine(Protocol):
    """A model loaded in one engine. Several threads may call its runs at once.

    Attributes:
        settings: what was set, for the record.
    """

    settings: dict[str, Any]

    def prepare(self, request: Request) -> Run:
        """Make the inputs of a call from its ids; nothing of this is timed.

        Args:
            request: the call.

        Returns:
            The call.

        Raises:
            CannotRunError: the engine takes only text, and the request has none.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, tokenization included.

        Args:
            texts: N texts, cut at the length that every engine cuts at.

        Returns:
            float32 (N, H), unit rows.
        """
        ...


@dataclass(frozen=True)
class Setup:
    """What every engine gets.

    Attributes:
        model: the model.
        threads: of the engine; every engine is held to as many.
        max_length: most tokens of a text, special tokens included.
        calibration: ids of texts that are not measured, for static quantization.
        calibration_texts: texts for the same, where an engine wants text.
        calibrated: `calibration_name` of the texts that what is loaded was calibrated with, where
            they are not given: in a process of `start`.
    """

    model: Model
    threads: int
    max_length: int
    calibration: Sequence[Ids]
    calibration_texts: Sequence[str] = ()
    calibrated: str = ""

    @property
    def calibration_name(self) -> str:
        """Hash of the calibration texts, which tells apart the files made with them."""
        if self.calibrated:
            return self.calibrated
        digest = hashlib.sha256()
        for ids in self.calibration:
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        for text in self.calibration_texts:
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Form:
    """One way to run an engine.

    Attributes:
        name: in tables and after `--against`.
        load: imports the engine and loads the model.
        packages: what it imports, conversion included.
        runs_on: what it imports to load and run what was converted before; `start` measures these.
        install: the command that brings them.
        environment: which of benchmarks/environments holds them, where they cannot share one.
        pads: whether it computes padding in a batch of texts of different lengths.
        sorts: whether it gets texts of different lengths by length, or does that itself.
        artefact: makes what it loads in place of the model folder, and returns where it lies.
        batches: whether it is made for many texts, so that latency does not count for it.
        compiles: whether it compiles in its first calls, whose time says nothing of later ones.
    """

    name: str
    load: Callable[[Setup], Engine]
    packages: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    install: str = ""
    environment: str = "peers"
    pads: bool = True
    sorts: bool = True
    artefact: Callable[[Setup], Path] | None = None
    batches: bool = False
    compiles: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed here."""
        return tuple(name for name in self.packages if find_spec(name) is None)
