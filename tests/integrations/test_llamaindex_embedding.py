"""QuaverEmbedding in LlamaIndex 0.14."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from quaver import Embedder, InputError, ModelNotFoundError
from quaver.integrations.llamaindex import QuaverEmbedding

TEXTS = ["the file of her own", "a list of keys", "they return an error"]


class Spans(SimpleSpanHandler):
    """Keeps the names of the spans that begin."""

    entered: list[str] = []  # noqa: RUF012 - pydantic copies it for each

    def span_enter(self, id_: str, **options: Any) -> None:
        self.entered.append(id_.split("-")[0])


class Events(BaseEventHandler):
    """Keeps events."""

    seen: list[Any] = []  # noqa: RUF012 - pydantic copies it for each

    def handle(self, event: BaseEvent, **options: Any) -> None:
        self.seen.append(event)


def test_queries_and_texts_get_their_own_prompts(tiny: str) -> None:
    embedding, plain = QuaverEmbedding(model_name=tiny), Embedder.from_pretrained(tiny)
    query = np.float32(embedding.get_query_embedding("my file"))
    np.testing.assert_array_equal(query, plain.encode_query("my file"))
    np.testing.assert_array_equal(
        np.float32(asyncio.run(embedding.aget_query_embedding("my file"))), query
    )
    one = np.float32(embedding.get_text_embedding("my file"))
    np.testing.assert_array_equal(one, plain.encode_document("my file"))
    np.testing.assert_array_equal(
        np.float32(asyncio.run(embedding.aget_text_embedding("my file"))), one
    )


def test_a_batch_is_one_call(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = QuaverEmbedding(model_name=tiny)
    sizes: list[int] = []
    encode = embedding._shared.model.encode_document

    def counted(texts: list[str], **options: Any) -> Any:
        sizes.append(len(texts))
        return encode(texts, **options)

    monkeypatch.setattr(embedding._shared.model, "encode_document", counted)
    texts = [f"list {i}" for i in range(300)]
    wanted = encode(texts)
    np.testing.assert_array_equal(np.float32(embedding.get_text_embedding_batch(texts)), wanted)
    found = asyncio.run(embedding.aget_text_embedding_batch(texts))
    np.testing.assert_array_equal(np.float32(found), wanted)
    assert sizes == [300, 300]


def test_instructions_replace_the_prompts(tiny: str) -> None:
    embedding = QuaverEmbedding(model_name=tiny, query_instruction="find: ", text_instruction="")
    wanted = Embedder.from_pretrained(tiny).encode(["find: my file", "my file"], prompt="")
    found = [embedding.get_query_embedding("my file"), embedding.get_text_embedding("my file")]
    np.testing.assert_array_equal(np.float32(found), wanted)


def test_a_cache_that_mixes_queries_and_texts_is_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match="embeddings_cache needs a model with one prompt"):
        QuaverEmbedding(model_name=tiny, embeddings_cache=SimpleKVStore())
    same = QuaverEmbedding(
        model_name=tiny, embeddings_cache=SimpleKVStore(), query_instruction="passage: "
    )
    assert same.get_query_embedding("my file") == same.get_text_embedding("my file")


def test_a_query_is_one_span_with_its_events(tiny: str) -> None:
    spans, events = Spans(), Events()
    dispatcher = get_dispatcher()
    dispatcher.add_span_handler(spans)
    dispatcher.add_event_handler(events)
    try:
        embedding = QuaverEmbedding(model_name=tiny)
        found = embedding.get_query_embedding("my file")
        asyncio.run(embedding.aget_text_embedding("my file"))
    finally:
        dispatcher.span_handlers.remove(spans)
        dispatcher.event_handlers.remove(events)
    assert spans.entered == [
        "QuaverEmbedding.get_query_embedding",
        "QuaverEmbedding.aget_text_embedding",
    ]
    start, end = events.seen[:2]
    assert start.model_dict["model_name"] == tiny
    assert (end.chunks, end.embeddings) == (["my file"], [found])


def test_copies_and_workers_of_a_pipeline_give_the_same_bits(tiny: str) -> None:
    embedding = QuaverEmbedding(model_name=tiny)
    wanted = embedding.get_text_embedding_batch(TEXTS)
    for copied in (copy.deepcopy(embedding), pickle.loads(pickle.dumps(embedding))):
        assert copied.get_text_embedding_batch(TEXTS) == wanted
    documents = [Document(text=text) for text in TEXTS]
    nodes = IngestionPipeline(transformations=[embedding]).run(documents=documents, num_workers=2)
    assert sorted(node.embedding for node in nodes) == sorted(wanted)


def test_what_others_see_holds_no_token(tiny: str) -> None:
    embedding = QuaverEmbedding(model_name=tiny, token="secret")
    assert "secret" not in embedding.to_json()
    assert "secret" not in str(embedding.to_payload())
    assert embedding.class_name() == "QuaverEmbedding"


def test_wrong_input(tiny: str) -> None:
    embedding = QuaverEmbedding(model_name=tiny)
    with pytest.raises(InputError, match="every text must be a str"):
        embedding.get_query_embedding(["a", "list"])  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        QuaverEmbedding(model_name=tiny, embed_batch_size=0)
    with pytest.raises(ValidationError, match="model_name\n  Field required"):
        QuaverEmbedding()
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        QuaverEmbedding(model_name="no/such-model", local_files_only=True)


def test_an_index_and_an_ingestion_pipeline_take_it(tiny: str) -> None:
    embedding = QuaverEmbedding(model_name=tiny, query_instruction="passage: ")
    documents = [Document(text=text) for text in TEXTS]
    index = VectorStoreIndex.from_documents(documents, embed_model=embedding)
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[1])
    assert found.text == TEXTS[1]
    assert found.score == pytest.approx(1, abs=1e-5)
    nodes = IngestionPipeline(transformations=[embedding]).run(documents=documents)
    plain = Embedder.from_pretrained(tiny)
    np.testing.assert_array_equal(
        np.float32([node.embedding for node in nodes]), plain.encode_document(TEXTS)
    )
