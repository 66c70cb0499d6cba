"""CTranslate2: BERT in float32 and with int8 weights; pooling is done in NumPy."""

from __future__ import annotations

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from quaver_bench.engines import CannotRunError, Form, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.pytorch import first_line
from quaver_bench.inputs import PaddedBatch
from quaver_bench.whole_files import written_whole


def converted(setup: Setup, kind: str) -> Path:
    """Return the model as a CTranslate2 folder, and convert it if needed.

    Args:
        setup: see `Setup`.
        kind: "float32" or "int8".

    Raises:
        CannotRunError: CTranslate2 has no converter for this model.
    """
    from ctranslate2.converters import TransformersConverter

    version = metadata.version("ctranslate2")
    path = setup.model.built(f"ctranslate2-{version}-{kind}", "")
    if not path.is_dir():
        try:
            converter = TransformersConverter(str(setup.model.folder.transformer))
            with written_whole(path) as part:
                converter.convert(str(part), quantization=kind)
        except (ValueError, RuntimeError, NotImplementedError, OSError) as error:
            raise CannotRunError(f"it cannot convert it: {first_line(error)}") from error
    return path


class CTranslate2Engine(PaddedEngine):
    """`ctranslate2.Encoder`, one worker over all threads; pooling and norm in NumPy."""

    def __init__(self, setup: Setup, kind: str) -> None:
        """Load.

        Args:
            setup: see `Setup`.
            kind: "float32" or "int8".
        """
        import ctranslate2

        super().__init__(setup)
        self._encoder = ctranslate2.Encoder(
            str(converted(setup, kind)),
            device="cpu",
            compute_type=kind,
            inter_threads=1,
            intra_threads=setup.threads,
        )
        self._pooling = setup.model.pooling
        self.settings = {"threads": setup.threads, "compute_type": self._encoder.compute_type}

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make the storage views that the encoder takes."""
        import ctranslate2

        ids = ctranslate2.StorageView.from_array(batch.ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(batch.mask.sum(1).astype(np.int32))
        return ids, lengths, batch.mask

    def compute(self, inputs: Any) -> Vectors:
        """Encode, pool, normalize."""
        ids, lengths, mask = inputs
        hidden = np.asarray(self._encoder.forward_batch(ids, lengths).last_hidden_state)
        if self._pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = mask.astype(np.float32)
            pooled = np.einsum("blh,bl->bh", hidden, weights) / weights.sum(1, keepdims=True)
        vectors: Vectors = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors


FORMS = tuple(
    Form(
        f"ctranslate2-{kind}",
        partial(CTranslate2Engine, kind=kind),
        ("ctranslate2", "transformers", "torch"),
        ("ctranslate2", "tokenizers"),
        "pip install ctranslate2 transformers torch",
        artifact=partial(converted, kind=kind),
    )
    for kind in ("float32", "int8")
)
