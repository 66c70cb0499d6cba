"""Daft: a column of texts becomes a column of vectors, in a class that loads the model once for each worker.

python examples/bulk/daft_udf.py [MODEL]

It runs on this machine, and with daft.set_runner_ray() on a Ray cluster. Daft has its own files and its own retries;
`quaver embed --output` is what continues after a crash.
"""

from __future__ import annotations

import sys
from typing import Any

import daft
import numpy as np
from daft import DataType

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NOTES = [
    "Green tea is steeped at eighty degrees.",
    "A sourdough rises overnight in the fridge.",
    None,
    "Oil the chain after every ride in the rain.",
]
DIMENSION = 384


@daft.cls(max_concurrency=1)
class Embed:
    """The model of a worker."""

    def __init__(self, model: str) -> None:
        """Load it, in the worker."""
        self.embedder = quaver.Embedder.from_pretrained(model)

    @daft.method.batch(
        return_dtype=DataType.embedding(DataType.float32(), DIMENSION), batch_size=1024
    )
    def documents(self, texts: Any) -> Any:
        """Return a vector for each text, and null for null."""
        found = texts.to_pylist()
        vectors = iter(self.embedder.encode_document([text for text in found if text is not None]))
        return [None if text is None else next(vectors) for text in found]


def main(model: str = MODEL) -> None:
    """Embed a data frame, and ask."""
    frame = daft.from_pydict({"text": NOTES})
    frame = frame.with_column("vector", Embed(model).documents(frame["text"])).collect()
    rows = frame.to_pydict()
    assert [vector is None for vector in rows["vector"]] == [text is None for text in NOTES]

    embedder = quaver.Embedder.from_pretrained(model)
    texts = [text for text in NOTES if text is not None]
    vectors = np.array([vector for vector in rows["vector"] if vector is not None], np.float32)
    assert np.array_equal(vectors, embedder.encode_document(texts))  # the same bits
    scores = embedder.similarity(embedder.encode_query("How is bread made?"), vectors)
    for text, score in zip(texts, scores, strict=True):
        print(f"{score:.3f}  {text}")
    assert scores.argmax() == 1


if __name__ == "__main__":
    main(*sys.argv[1:])
