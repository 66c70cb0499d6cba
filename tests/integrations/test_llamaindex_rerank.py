"""QuaverRerank in LlamaIndex 0.14."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import Field, ValidationError

from quaver import CrossEncoder
from quaver.integrations.llamaindex import QuaverEmbedding, QuaverRerank

TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
QUERY = "my file"


def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.1 * i)
        for i, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_nodes_come_in_the_models_order(tiny_cross: str, asynchronous: bool) -> None:
    rerank = QuaverRerank(model=tiny_cross, top_n=3, keep_retrieval_score=True)
    given = nodes()
    if asynchronous:
        found = asyncio.run(rerank.apostprocess_nodes(given, query_str=QUERY))
    else:
        found = rerank.postprocess_nodes(given, query_str=QUERY)
    wanted = CrossEncoder.from_pretrained(tiny_cross).rank(QUERY, TEXTS, top_k=3)
    assert [node.node.node_id for node in found] == [str(ranked.index) for ranked in wanted]
    assert [node.score for node in found] == pytest.approx([ranked.score for ranked in wanted])
    assert [node.node.metadata["retrieval_score"] for node in found] == pytest.approx(
        [0.1 * ranked.index for ranked in wanted]
    )
    assert [node.to_dict() for node in given] == [node.to_dict() for node in nodes()]


class Events(BaseEventHandler):
    """Keeps the events of reranking."""

    seen: list[Any] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **_: Any) -> None:
        if isinstance(event, (ReRankStartEvent, ReRankEndEvent)):
            self.seen.append(event)


def test_events_tell_of_start_and_end(tiny_cross: str) -> None:
    handler = Events()
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        found = QuaverRerank(model=tiny_cross).postprocess_nodes(nodes(), query_str=QUERY)
    finally:
        dispatcher.event_handlers.remove(handler)
    start, end = handler.seen
    assert (start.top_n, start.model_name, len(start.nodes)) == (2, tiny_cross, 4)
    assert end.nodes == found


def test_threshold_and_plain_scores(tiny_cross: str) -> None:
    rerank = QuaverRerank(model=tiny_cross, top_n=4, activation="identity")
    everything = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    some = QuaverRerank(
        model=tiny_cross, top_n=4, activation="identity", score_threshold=everything[1].score
    )
    assert some.postprocess_nodes(nodes(), query_str=QUERY) == everything[:2]


def test_wrong_input(tiny_cross: str) -> None:
    rerank = QuaverRerank(model=tiny_cross)
    with pytest.raises(ValueError, match="Missing query bundle in extra info"):
        rerank.postprocess_nodes(nodes())
    assert rerank.postprocess_nodes([], query_bundle=QueryBundle(QUERY)) == []
    with pytest.raises(ValidationError):
        QuaverRerank(model=tiny_cross, top_n=0)


def test_a_query_engine_takes_it(tiny: str, tiny_cross: str) -> None:
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS], embed_model=QuaverEmbedding(model_name=tiny)
    )
    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=4,
        node_postprocessors=[QuaverRerank(model=tiny_cross, top_n=2)],
    )
    wanted = CrossEncoder.from_pretrained(tiny_cross).rank(QUERY, TEXTS, top_k=2)
    found = engine.query(QUERY).source_nodes
    assert [node.text for node in found] == [ranked.text for ranked in wanted]
