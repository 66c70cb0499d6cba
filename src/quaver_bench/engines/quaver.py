"""Quaver: ragged batches, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quaver import (
    CrossEncoder,
    Embedder,
    MultiVectorEncoder,
    QuaverError,
    SparseEncoder,
    quantize,
)
from quaver_bench.engines import EVERY_KIND, CannotRunError, Engine, Form, Run, Setup, Vectors
from quaver_bench.engines.padded import require_texts
from quaver_bench.inputs import Request, Text
from quaver_bench.kinds import Output

_CALLS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "embedder": (Embedder, "encode", {"prompt": "", "normalize": True}),
    "cross-encoder": (CrossEncoder, "predict", {"prompt": "", "activation": "identity"}),
    "sparse": (SparseEncoder, "encode_document", {}),
    "multi-vector": (MultiVectorEncoder, "encode_document", {}),
}
"""Kind to the class that opens it, its method, and the method's arguments."""


class QuaverEngine:
    """The class and method of the model's kind for texts, and `Embedder.encode_ids` for ids."""

    def __init__(
        self, setup: Setup, precision: Literal["int8", "float32"], folder: Path | None = None
    ) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.
            precision: "int8" or "float32".
            folder: the model's int8 folder; None quantizes while loading.

        Raises:
            CannotRunError: Quaver cannot run this model.
        """
        kind = setup.model.kind
        opens, method, options = _CALLS[kind.name]
        try:
            model = opens.from_pretrained(
                folder or setup.model.folder.path,
                precision=precision,
                threads=setup.threads,
                max_seq_length=setup.max_length,
                local_files_only=True,
            )
        except QuaverError as error:
            raise CannotRunError(str(error)) from error
        self._model, self._kind = model, kind
        self._call = partial(getattr(model, method), **options)
        self.settings: dict[str, Any] = {"isa": model.isa, "threads": model.threads}

    def prepare(self, request: Request) -> Run:
        """Make the token batches, unless calls start from text; see `engines.Engine`."""
        if self._kind.from_text:
            return partial(self._call, list(require_texts(request)))
        ids = np.concatenate(request.ids).astype(np.int32)
        offsets = np.cumsum([0, *map(len, request.ids)], dtype=np.int32)

        def run() -> Vectors:
            return _unit(self._model.encode_ids(ids, offsets))

        return run

    def encode(self, texts: Sequence[Text]) -> Output:
        """Encode texts; see `engines.Engine`."""
        return self._call(list(texts))


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.where(lengths == 0, np.float32(1), lengths)
    return unit


def static_folder(setup: Setup) -> Path:
    """Return the model's int8 folder with static activations, and write it if needed.

    Raises:
        CannotRunError: Quaver cannot quantize this model.
    """
    version = metadata.version("quaver")
    path = setup.model.built(f"quaver-{version}-int8-static-{setup.calibration_name}", "")
    if not path.is_dir():
        texts = list(dict.fromkeys(setup.calibration_texts))
        try:
            quantize(
                setup.model.folder.path,
                path,
                scheme="static",
                calibration=texts,
                samples=len(texts),
                local_files_only=True,
            )
        except QuaverError as error:
            raise CannotRunError(str(error)) from error
    return path


def _static(setup: Setup) -> Engine:
    return QuaverEngine(setup, "int8", static_folder(setup))


_INT8 = Form(
    "quaver-int8",
    partial(QuaverEngine, precision="int8"),
    runs_on=("quaver",),
    environment="",
    pads=False,
    kinds=EVERY_KIND,
)
FORMS = (
    _INT8,
    replace(
        _INT8,
        name="quaver-int8-static",
        load=_static,
        artifact=static_folder,
        kinds=("embedder",),
    ),
    replace(_INT8, name="quaver-float32", load=partial(QuaverEngine, precision="float32")),
)
