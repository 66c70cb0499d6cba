"""Index three documents, then many, in Haystack 3 pipelines.

python examples/article/index.py [MODEL]

fastRAG's `document_store.update_embeddings(retriever)` is a pipeline now: an embedder and a writer.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.converters import TextFileToDocument
from haystack.components.preprocessors import DocumentSplitter
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

from haystack_integrations.components.embedders.quaver import QuaverDocumentEmbedder
from haystack_integrations.components.retrievers.quaver import QuantizedBiEncoderRetriever

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
FILES = sorted((Path(__file__).parent.parent / "python-docs" / "tutorial").glob("*.rst"))
THREE = [
    "Quaver's vectors come from int8 arithmetic.",
    "Paris is the capital of France.",
    "A quaver lasts half as long as a crotchet.",
]


def ask(store: InMemoryDocumentStore, model: str, question: str) -> Document:
    """Print the best document for a question and return it."""
    retriever = QuantizedBiEncoderRetriever(document_store=store, model=model, top_k=1)
    best: Document = retriever.run(question)["documents"][0]
    assert best.content is not None
    print(f"  {question}\n    {best.score:.3f}  {' '.join(best.content.split())[:90]}")
    return best


def three(model: str) -> None:
    """Embed documents that are at hand and write them into a store."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    index = Pipeline()
    index.add_component("embedder", QuaverDocumentEmbedder(model=model))
    index.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    index.connect("embedder.documents", "writer.documents")

    # An id is a string; Haystack treats 0 as missing and generates a hash.
    documents = [Document(id=str(at), content=text) for at, text in enumerate(THREE)]
    written = index.run({"embedder": {"documents": documents}})["writer"]["documents_written"]
    print(f"{written} documents")
    assert ask(store, model, "What is the capital of France?").content == THREE[1]


def many(model: str) -> None:
    """Read files, split them into passages, embed and write those: one pipeline."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    index = Pipeline()
    index.add_component("reader", TextFileToDocument())
    index.add_component("splitter", DocumentSplitter(split_by="word", split_length=120))
    index.add_component("embedder", QuaverDocumentEmbedder(model=model))
    index.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    index.connect("reader", "splitter")
    index.connect("splitter", "embedder")
    index.connect("embedder", "writer")

    begin = time.perf_counter()
    written = index.run({"reader": {"sources": FILES}})["writer"]["documents_written"]
    seconds = time.perf_counter() - begin
    print(
        f"\n{len(FILES)} files, {written} passages, {seconds:.1f} s with the loading of the model"
    )
    best = ask(store, model, "Why is 0.1 + 0.2 not exactly 0.3?")
    assert best.meta["file_path"] == "floatingpoint.rst"
    ask(store, model, "How do I write a number with two digits after the point?")


def main(model: str = MODEL) -> None:
    """Index both."""
    three(model)
    many(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
