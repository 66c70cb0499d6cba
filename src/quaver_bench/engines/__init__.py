"""The measured engines, one file each: what a form is called, what it needs, and how it loads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver_bench.inputs import Ids, Request, Text
from quaver_bench.kinds import EMBEDDER, KINDS, Output
from quaver_bench.models import Model
from quaver_bench.record import cpu_flags

Vectors = NDArray[np.float32]
Run = Callable[[], Output]
"""One call. Of an embedding model it returns float32 (N, H), unit rows in the order of the texts; other
kinds may have a form of the engine's own, see `Kind.plain`."""
EVERY_KIND = tuple(KINDS)
UNSIGNED = "unsigned, since unsigned times signed bytes saturate without VNNI"
"""The setting in a record of ONNX Runtime's weights where `products_saturate`."""


def products_saturate() -> bool:
    """Return whether ONNX Runtime's sums of unsigned times signed bytes saturate at 16 bits on this CPU.

    x86 CPUs without VNNI multiply bytes by `vpmaddubsw`, which adds two products in 16 bits. Its
    documentation names two remedies, weights of seven bits and unsigned weights, which take a slower
    instruction. `benchmarks/saturation.py` compares them: unsigned weights are nearer to float32.

    Source:
        ONNX Runtime, "Quantize ONNX models", on U8S8 and U8U8; Optimum, `AutoQuantizationConfig.avx2`.
    """
    flags = cpu_flags()
    return "avx2" in flags and not {"avx_vnni", "avx512_vnni"}.intersection(flags)


class CannotRunError(Exception):
    """An engine cannot run this model on this machine; the message says why. Never leaves the bench."""


class Engine(Protocol):
    """A model loaded in one engine. Several threads may call its runs at once.

    Attributes:
        settings: the engine's settings, for the record.
    """

    settings: dict[str, Any]

    def prepare(self, request: Request) -> Run:
        """Make the inputs of a call; this is not timed. Kinds that start from text tokenize in the call.

        Args:
            request: the call.

        Returns:
            the call.

        Raises:
            CannotRunError: the engine needs text, and the request has only ids.
        """
        ...

    def encode(self, texts: Sequence[Text]) -> Output:
        """Encode texts, tokenization included.

        Args:
            texts: N texts or pairs, truncated as in every engine.

        Returns:
            what a `Run` returns.
        """
        ...


@dataclass(frozen=True)
class Setup:
    """The model and settings that every engine gets.

    Attributes:
        model: the model.
        threads: number of threads of the engine.
        max_length: maximum number of tokens in a text, special tokens included.
        calibration: ids of texts that are not measured, for static quantization.
        calibration_texts: the same as texts, for engines that need text.
        calibrated: `calibration_name` of the model to load, in a process of `start`, which has no
            calibration texts.
    """

    model: Model
    threads: int
    max_length: int
    calibration: Sequence[Ids]
    calibration_texts: Sequence[str] = ()
    calibrated: str = ""

    @property
    def calibration_name(self) -> str:
        """Hash of the calibration texts, part of the names of files made with them."""
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
        name: name in tables and after `--against`.
        load: imports the engine and loads the model.
        packages: packages that it imports, also to convert the model.
        runs_on: packages that it imports to run a converted model; `start` measures these.
        install: command that installs the packages.
        environment: the environment of benchmarks/environments that has them.
        pads: whether a batch of texts of different lengths is padded.
        sorts: whether texts of different lengths are sorted, by the bench or by the engine.
        artifact: makes the file or folder that is loaded instead of the model folder, and returns its path.
        batches: whether it is meant for many texts, so its latency is not measured.
        compiles: whether its first calls compile, so their time does not predict later calls.
        kinds: names of the kinds of models that it runs.
    """

    name: str
    load: Callable[[Setup], Engine]
    packages: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    install: str = ""
    environment: str = "peers"
    pads: bool = True
    sorts: bool = True
    artifact: Callable[[Setup], Path] | None = None
    batches: bool = False
    compiles: bool = False
    kinds: tuple[str, ...] = (EMBEDDER.name,)

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed here."""
        return tuple(name for name in self.packages if find_spec(name) is None)
