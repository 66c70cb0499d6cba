"""Other engines' int8 in `quaver evaluate`: the same model and texts, their own quantization."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver import Embedder, InputError, calibration_texts
from quaver.evaluate import VectorCache, VectorSystem
from quaver_bench.engines import Engine, Setup, products_saturate
from quaver_bench.engines.registry import FORMS
from quaver_bench.models import open_model
from quaver_bench.quality import DOCUMENT, QUERY, prompted

PEERS = {"openvino": "openvino-int8", "onnxruntime": "onnxruntime-int8-dynamic"}
"""Engine to the compared form: NNCF's static int8 with SmoothQuant, and dynamic int8."""
STATIC = {"openvino"}
CALIBRATION_SAMPLES = 128


class PeerEncoder:
    """Another engine with the prompts, length and similarity of the baseline."""

    def __init__(self, load: Callable[[], Engine], embedder: Embedder) -> None:
        """Wrap an engine.

        Args:
            load: loads the engine with the baseline's model; called for the first texts, because all
                vectors may be in the cache.
            embedder: the baseline.
        """
        self._engine = cache(load)
        self._embedder = embedder
        self.similarity = embedder.similarity

    def encode_query(self, texts: list[str]) -> NDArray[np.float32]:
        """Return float32 (N, D)."""
        return self._encode(QUERY, texts)

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        """Return float32 (N, D)."""
        return self._encode(DOCUMENT, texts)

    def _encode(self, names: Sequence[str], texts: list[str]) -> NDArray[np.float32]:
        # Engines print while they convert a model; that must not mix with the report.
        with redirect_stdout(sys.stderr):
            engine = self._engine()
        vectors: NDArray[np.float32] = engine.encode(prompted(texts, self._embedder.prompts, names))
        return vectors


def peer_systems(
    names: Sequence[str],
    embedder: Embedder,
    *,
    calibration: str | None,
    graphs: Path,
    kept: VectorCache | None,
) -> list[VectorSystem]:
    """Load other engines with the baseline's model.

    Args:
        names: keys of PEERS.
        embedder: the baseline.
        calibration: text for static quantization, as in `quaver quantize`.
        graphs: folder for the files that the engines make from the model.
        kept: cache of their vectors, or None.

    Returns:
        one system for each name.

    Raises:
        InputError: an engine is unknown, or needs calibration text.
        ImportError: an engine is not installed; the message says what to install.
    """
    systems = []
    for name in names:
        if name not in PEERS:
            raise InputError(f"--against takes {', '.join(PEERS)}: got {name!r}")
        if name in STATIC and calibration is None:
            raise InputError(f"{name} is quantized with calibration text: give --calibration")
        form = FORMS[PEERS[name]]
        if form.missing:
            raise ImportError(f"{', '.join(form.missing)} is not installed: {form.install}")
        digest, ids = _calibration(calibration if name in STATIC else None, embedder)
        model = open_model(embedder.source, graphs / digest[:12])
        setup = Setup(model, embedder.threads, embedder.max_seq_length, ids)
        versions = [f"{package} {metadata.version(package)}" for package in form.packages]
        weights = "unsigned" if products_saturate() else "signed"
        facts = (model.folder.fingerprint, digest, str(embedder.max_seq_length), weights)
        key = " ".join([form.name, *versions, *facts])
        encoder = PeerEncoder(partial(form.load, setup), embedder)
        systems.append(VectorSystem(form.name, encoder, cache=kept, key=key))
    return systems


def _calibration(source: str | None, embedder: Embedder) -> tuple[str, list[NDArray[np.int64]]]:
    """Return the digest of the texts, and their ids, truncated as by the model."""
    if source is None:
        return "dynamic", []
    found = calibration_texts(source, CALIBRATION_SAMPLES)
    batch = embedder.tokenizer.encode(prompted(found.texts, embedder.prompts, DOCUMENT))
    return found.digest, [batch.ids[a:b].astype(np.int64) for a, b in pairwise(batch.offsets)]
