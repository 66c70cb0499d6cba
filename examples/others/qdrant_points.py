"""Qdrant: vectors through fastembed's interface, in the client's in-memory store.

python examples/others/qdrant_points.py [MODEL]

With a server, only the first line changes: QdrantClient(url="http://localhost:6333").
"""

from __future__ import annotations

import sys

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from quaver.integrations.fastembed import TextEmbedding

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NOTES = [
    "Green tea is steeped at eighty degrees.",
    "A sourdough rises overnight in the fridge.",
    "Oil the chain after every ride in the rain.",
]


def main(model: str = MODEL) -> None:
    """Upsert three points and ask."""
    client = QdrantClient(":memory:")
    embedding = TextEmbedding(model)
    vectors = VectorParams(size=embedding.embedding_size, distance=Distance.COSINE)
    client.create_collection("notes", vectors_config=vectors)
    client.upsert(
        "notes",
        [
            PointStruct(id=at, vector=vector.tolist(), payload={"text": text})
            for at, (text, vector) in enumerate(
                zip(NOTES, embedding.passage_embed(NOTES), strict=True)
            )
        ],
    )
    question = next(embedding.query_embed("How is bread made?"))
    found = client.query_points("notes", query=question.tolist(), limit=2).points
    for point in found:
        print(f"{point.score:.3f}  {point.payload['text']}")
    assert found[0].id == 1


if __name__ == "__main__":
    main(*sys.argv[1:])
