"""Retrieve with a small model and rerank with a better one, as a LangChain chain.

python examples/frameworks/langchain_rerank.py [RETRIEVER [CROSS_ENCODER]]

Without a cross-encoder, such as BAAI/bge-reranker-base, the retriever keeps only the first 32
components of its vectors and the ranker reads all of them.
"""

from __future__ import annotations

import sys
from operator import itemgetter
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

import quaver
from quaver.integrations.langchain import QuaverEmbeddings, QuaverReranker

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUESTION = "What is the capital of France?"
TEXTS = [
    "Lyon is the third largest city of France.",
    "Paris is the capital of France.",
    "Berlin is the capital of Germany.",
    "The capital of a company is what its owners paid in.",
    "In print, names of countries begin with a capital letter.",
    "Paris, a prince of Troy, gave Aphrodite the apple.",
]
TOP = 2


def ranking(model: str, cross_encoder: str | None) -> Any:
    """Return a runnable: {"question", "documents"} to the best documents."""
    if cross_encoder:
        reranker = QuaverReranker(model=cross_encoder, top_n=TOP)
        return RunnableLambda(
            lambda asked: reranker.compress_documents(asked["documents"], asked["question"])
        )
    ranker = quaver.BiEncoderRanker(quaver.Embedder.from_pretrained(model))

    def rank(asked: dict[str, Any]) -> list[Document]:
        texts = [document.page_content for document in asked["documents"]]
        best = ranker.rank(asked["question"], texts, top_k=TOP)
        return [asked["documents"][found.index] for found in best]

    return RunnableLambda(rank)


def main(retriever: str = MODEL, cross_encoder: str | None = None) -> None:
    """Build the chain and ask."""
    store = InMemoryVectorStore(QuaverEmbeddings(model=retriever, truncate_dim=32))
    store.add_texts(TEXTS)
    found = RunnablePassthrough.assign(
        documents=itemgetter("question") | store.as_retriever(search_kwargs={"k": 4})
    )
    chain = found | ranking(retriever, cross_encoder)

    print(QUESTION)
    best = chain.invoke({"question": QUESTION})
    for document in best:
        print(f"  {document.page_content}")
    assert best[0].page_content == TEXTS[1]
    assert len(best) == TOP


if __name__ == "__main__":
    main(*sys.argv[1:])
