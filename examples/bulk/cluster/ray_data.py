"""Ray Data: a column of texts becomes a column of vectors, in actors that load the model once.

python examples/bulk/cluster/ray_data.py [MODEL]          # pip install quaver 'ray[data]'

It runs on this machine, or on the cluster that RAY_ADDRESS names, whose nodes need Quaver and the model under the same
name. Here Ray Data reads, divides and writes; `quaver embed --output --engine ray` is what continues after a crash.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import ray

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
THREADS = 1
NOTES = [
    "Green tea is steeped at eighty degrees.",
    "A sourdough rises overnight in the fridge.",
    None,
    "Oil the chain after every ride in the rain.",
]


class Embed:
    """The model of an actor."""

    def __init__(self, model: str) -> None:
        """Load it, in the actor."""
        self.embedder = quaver.Embedder.from_pretrained(model, threads=THREADS)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add a vector to each row; a row without a text gets zeros."""
        texts = list(batch["text"])
        present = np.array([text is not None for text in texts])
        vectors = np.zeros((len(texts), self.embedder.dimension), np.float32)
        vectors[present] = self.embedder.encode_document([t for t in texts if t is not None])
        return {**batch, "vector": vectors}


def main(model: str = MODEL) -> None:
    """Embed a data set, and ask."""
    notes = ray.data.from_items([{"id": i, "text": text} for i, text in enumerate(NOTES)])
    embedded = notes.map_batches(
        Embed,
        fn_constructor_args=(model,),
        batch_size=1024,
        num_cpus=THREADS,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    rows = sorted(embedded.take_all(), key=lambda row: row["id"])
    assert [row["text"] for row in rows] == NOTES

    embedder = quaver.Embedder.from_pretrained(model)
    texts = [text for text in NOTES if text is not None]
    vectors = np.stack([row["vector"] for row in rows if row["text"] is not None])
    assert np.array_equal(vectors, embedder.encode_document(texts))  # the same bits
    scores = embedder.similarity(embedder.encode_query("How is bread made?"), vectors)
    for text, score in zip(texts, scores, strict=True):
        print(f"{score:.3f}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
