"""Chroma: a collection that embeds in int8 and loads its model when it is reopened.

python examples/others/chroma_collection.py [MODEL]
"""

from __future__ import annotations

import sys
import tempfile

import chromadb
from chromadb.config import Settings

from quaver.integrations.chroma import QuaverEmbeddingFunction

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NOTES = {
    "tea": "Green tea is steeped at eighty degrees.",
    "bread": "A sourdough rises overnight in the fridge.",
    "bike": "Oil the chain after every ride in the rain.",
}


def main(model: str = MODEL) -> None:
    """Write three notes, open the folder again, and ask."""
    with tempfile.TemporaryDirectory(prefix="quaver-", ignore_cleanup_errors=True) as folder:
        settings = Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(folder, settings)
        notes = client.create_collection("notes", embedding_function=QuaverEmbeddingFunction(model))
        notes.add(ids=list(NOTES), documents=list(NOTES.values()))

        again = client.get_collection("notes")  # Chroma saves the model's name
        found = again.query(query_texts=["How hot should the water be?"], n_results=2)
        for key, distance in zip(found["ids"][0], found["distances"][0], strict=True):
            print(f"{1 - distance:.3f}  {NOTES[key]}")
        assert found["ids"][0][0] == "tea"


if __name__ == "__main__":
    main(*sys.argv[1:])
