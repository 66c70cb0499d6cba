"""QuaverReranker in LangChain 1.x."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from quaver import CrossEncoder, InputError
from quaver.integrations.langchain import QuaverEmbeddings, QuaverReranker

TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
QUERY = "my file"


def documents() -> list[Document]:
    return [
        Document(page_content=text, id=str(i), metadata={"n": i}) for i, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_documents_come_in_the_models_order_with_scores(
    tiny_cross: str, asynchronous: bool
) -> None:
    reranker, given = QuaverReranker(model=tiny_cross), documents()
    found = (
        asyncio.run(reranker.acompress_documents(given, QUERY))
        if asynchronous
        else reranker.compress_documents(given, QUERY)
    )
    wanted = CrossEncoder.from_pretrained(tiny_cross).rank(QUERY, TEXTS, top_k=3)
    assert [document.metadata for document in found] == [
        {"n": ranked.index, "relevance_score": pytest.approx(ranked.score)} for ranked in wanted
    ]
    assert [document.id for document in found] == [str(ranked.index) for ranked in wanted]
    assert given == documents()


def test_top_n_and_threshold(tiny_cross: str) -> None:
    everything = QuaverReranker(model=tiny_cross, top_n=None).compress_documents(documents(), QUERY)
    assert len(everything) == 4
    least = everything[1].metadata["relevance_score"]
    some = QuaverReranker(model=tiny_cross, top_n=None, score_threshold=least)
    assert some.compress_documents(documents(), QUERY) == everything[:2]
    assert list(QuaverReranker(model=tiny_cross).compress_documents([], QUERY)) == []


def test_pairs_are_scored(tiny_cross: str) -> None:
    reranker = QuaverReranker(model=tiny_cross, activation="identity")
    pairs = [(QUERY, text) for text in TEXTS]
    wanted = CrossEncoder.from_pretrained(tiny_cross).predict(pairs, activation="identity")
    assert reranker.score(pairs) == wanted.tolist()


@pytest.mark.parametrize("role", ["compressor", "cross-encoder"])
def test_langchains_retrievers_take_it(tiny: str, tiny_cross: str, role: str) -> None:
    store = InMemoryVectorStore.from_documents(documents(), QuaverEmbeddings(model=tiny))
    reranker: Any = QuaverReranker(model=tiny_cross, top_n=2)
    if role == "cross-encoder":
        reranker = CrossEncoderReranker(model=reranker, top_n=2)
    retriever = ContextualCompressionRetriever(
        base_compressor=reranker, base_retriever=store.as_retriever(search_kwargs={"k": 4})
    )
    wanted = CrossEncoder.from_pretrained(tiny_cross).rank(QUERY, TEXTS, top_k=2)
    found = [document.page_content for document in retriever.invoke(QUERY)]
    assert found == [ranked.text for ranked in wanted]
    again = asyncio.run(retriever.ainvoke(QUERY))
    assert [document.page_content for document in again] == found


def test_wrong_input(tiny_cross: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        QuaverReranker(model=tiny_cross, top_n=0)
    with pytest.raises(InputError):
        QuaverReranker(model=tiny_cross).compress_documents(documents(), ["a"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two texts"):
        QuaverReranker(model=tiny_cross).score(("a", "b"))  # type: ignore[arg-type]
