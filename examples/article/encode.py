"""Load a model in int8 and turn text into vectors: one text or many.

python examples/article/encode.py [MODEL]
"""

from __future__ import annotations

import sys
import time

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SENTENCES = [
    "The cat sleeps on the sofa.",
    "A kitten naps on the couch.",
    "Interest rates rose by half a point.",
    "The central bank tightened its policy.",
]


def main(model: str = MODEL) -> None:
    """Encode four sentences, then a thousand of different lengths."""
    embedder = quaver.Embedder.from_pretrained(model)
    print(f"{embedder.name}: {embedder.dimension} dimensions, {embedder.isa}")

    vectors = embedder.encode(SENTENCES)
    assert vectors.shape == (4, embedder.dimension)
    near = embedder.similarity(vectors, vectors)
    for row, sentence in zip(near, SENTENCES, strict=True):
        print("  ".join(f"{value:5.2f}" for value in row), f"  {sentence}")
    assert near[0, 1] > near[0, 2]
    assert near[2, 3] > near[1, 3]

    # One call takes any number of texts in any order. Nothing is padded; only the number of tokens counts.
    many = [" ".join([f"Note {at}.", *SENTENCES[: 1 + at % 4]]) for at in range(1000)]
    begin = time.perf_counter()
    rows = embedder.encode_document(many)
    seconds = time.perf_counter() - begin
    print(f"\n{len(many)} texts in {seconds:.1f} s: {rows.shape}, {rows.dtype}")
    assert (
        rows[0] == embedder.encode_document(many[0])
    ).all()  # the same bits alone and in a batch

    # Stored vectors can take a quarter or a thirty-second of the memory.
    for output in ("float32", "int8", "binary"):
        packed = embedder.encode(SENTENCES, output=output)
        print(f"{output:8} {packed.nbytes // len(SENTENCES):5} bytes a vector")


if __name__ == "__main__":
    main(*sys.argv[1:])
