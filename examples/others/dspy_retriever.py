"""DSPy: its Embedder takes any function from texts to vectors.

python examples/others/dspy_retriever.py [MODEL]
"""

from __future__ import annotations

import sys

import dspy

import quaver

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NOTES = [
    "Green tea is steeped at eighty degrees.",
    "A sourdough rises overnight in the fridge.",
    "Oil the chain after every ride in the rain.",
]


def main(model: str = MODEL) -> None:
    """Build a retriever over three notes and ask."""
    embedder = quaver.Embedder.from_pretrained(model)
    # DSPy sends documents and queries through one function, so use models without prompts. It
    # splits texts into batches of 200. Caching pays off only for paid services.
    embed = dspy.Embedder(embedder.encode, batch_size=1024, caching=False)
    search = dspy.retrievers.Embeddings(corpus=NOTES, embedder=embed, k=2)
    found = search("How hot should the water be?")
    for passage in found.passages:
        print(passage)
    assert found.passages[0] == NOTES[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
