"""FlashRank: its own code over ONNX Runtime's int8 file of the model.

It downloads its models from a hub, by their names. Here it finds a folder of such a name, with the model's
tokenizer and file.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quaver_bench.engines import UNSIGNED, Form, Setup, products_saturate
from quaver_bench.engines.onnxruntime import PACKAGES, dynamic_graph, open_session, weight_type
from quaver_bench.engines.padded import TextEngine, copy_tokenizer
from quaver_bench.inputs import Text
from quaver_bench.kinds import Rows
from quaver_bench.whole_files import written_whole

_NAME, _FILE = "ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx"
_LEAST = 1e-7
"""Distance of a score from 0 and 1 that float32 can tell; its logit is 16."""


def folder(setup: Setup) -> Path:
    """Return a folder as FlashRank needs it; its model is in a folder inside, under one of its names.

    Raises:
        CannotRunError: the model folder lacks a file that FlashRank reads.
    """
    path = setup.model.built(f"flashrank-{weight_type()}", "")
    if not path.is_dir():
        with written_whole(path) as part:
            copy_tokenizer(setup, part / _NAME)
            shutil.copy(dynamic_graph(setup), part / _NAME / _FILE)
    return path


class FlashRankEngine(TextEngine):
    """`Ranker.rerank`, with as many threads as the others; its scores are turned back into logits."""

    def __init__(self, setup: Setup) -> None:
        """Load.

        Args:
            setup: see `Setup`.
        """
        from flashrank import Ranker

        path = folder(setup)
        self._ranker = Ranker(
            _NAME, cache_dir=str(path), max_length=setup.max_length, log_level="ERROR"
        )
        self._ranker.session = open_session(path / _NAME / _FILE, setup.threads)
        self.settings = {"threads": setup.threads, "tokenization": "included"}
        if products_saturate():
            self.settings["weights"] = UNSIGNED

    def embed(self, texts: Sequence[Text], batch: int) -> Rows:
        """Call `Ranker.rerank` with pairs of one query, which it computes in one batch."""
        from flashrank import RerankRequest

        passages = [{"id": index, "text": pair[1]} for index, pair in enumerate(texts)]
        scores = np.empty(len(texts))
        for passage in self._ranker.rerank(RerankRequest(query=texts[0][0], passages=passages)):
            scores[passage["id"]] = passage["score"]
        scores = scores.clip(_LEAST, 1 - _LEAST)
        return np.log(scores / (1 - scores)).astype(np.float32)


FORMS = (
    Form(
        "flashrank",
        FlashRankEngine,
        ("flashrank", *PACKAGES),
        ("flashrank",),
        "pip install flashrank onnx onnxscript torch transformers",
        artifact=folder,
        kinds=("cross-encoder",),
    ),
)
