"""Retrieve with a small model and rerank with a large one: a Haystack 3 pipeline.

python examples/article/retrieve_and_rerank.py [RETRIEVER [RANKER]]

For example with BAAI/bge-small-en-v1.5 and BAAI/bge-large-en-v1.5. Given one model, the retriever
keeps only the first 32 components of its vectors, so that the store is twelve times smaller, and the
ranker reads all of them.
"""

from __future__ import annotations

import sys
from typing import Any

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_integrations.components.embedders.quaver import QuaverDocumentEmbedder
from haystack_integrations.components.rankers.quaver import QuantizedBiEncoderRanker
from haystack_integrations.components.retrievers.quaver import QuantizedBiEncoderRetriever

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUESTION = "What is the capital of France?"
TEXTS = [
    "Lyon is the third largest city of France.",
    "Paris is the capital of France.",
    "Berlin is the capital of Germany.",
    "The capital of a company is what its owners paid in.",
    "France is a republic in western Europe.",
    "In print, names of countries begin with a capital letter.",
    "A quaver is an eighth note.",
    "Paris, a prince of Troy, gave Aphrodite the apple.",
    "The French parliament has two houses.",
    "Madrid became the seat of the Spanish court in 1561.",
]


def main(retriever: str = MODEL, ranker: str | None = None) -> None:
    """Index ten sentences, ask, and send the pipeline through YAML and back."""
    small: dict[str, Any] = {"model": retriever, "truncate_dim": None if ranker else 32}
    large: dict[str, Any] = {"model": ranker or retriever}
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")

    index = Pipeline()
    index.add_component("embedder", QuaverDocumentEmbedder(**small))
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder", "writer")
    index.run({"embedder": {"documents": [Document(content=text) for text in TEXTS]}})

    pipeline = Pipeline()
    pipeline.add_component(
        "retriever", QuantizedBiEncoderRetriever(document_store=store, top_k=5, **small)
    )
    pipeline.add_component("ranker", QuantizedBiEncoderRanker(top_k=2, **large))
    pipeline.connect("retriever.documents", "ranker.documents")

    # A pipeline is data: YAML restores it without a flag, and a process loads each model once.
    saved = pipeline.dumps()
    pipeline = Pipeline.loads(saved)

    result = pipeline.run(
        {"retriever": {"query": QUESTION}, "ranker": {"query": QUESTION}},
        include_outputs_from={"retriever"},
    )
    print(QUESTION)
    for stage in ("retriever", "ranker"):
        print(f"\n{stage}")
        for document in result[stage]["documents"]:
            print(f"  {document.score:.3f}  {document.content}")
    assert result["ranker"]["documents"][0].content == "Paris is the capital of France."
    assert len(result["ranker"]["documents"]) == 2


if __name__ == "__main__":
    main(*sys.argv[1:])
