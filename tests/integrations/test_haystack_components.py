"""What every Haystack component has: saving and loading, no guessed pooling, early refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import DeserializationError, Pipeline

from haystack_integrations.components.embedders.quaver import (
    QuaverDocumentEmbedder,
    QuaverTextEmbedder,
)
from haystack_integrations.components.rankers.quaver import QuantizedBiEncoderRanker, QuaverRanker
from haystack_integrations.components.retrievers.quaver import (
    QuantizedBiEncoderRetriever,
    QuaverEmbeddingRetriever,
)
from haystack_integrations.document_stores.quaver import QuaverDocumentStore
from quaver import Embedder, InputError, PoolingError
from tiny_model import write_tiny_model

TEXTS = ["the file of her own", "a list of keys", "they return an error"]
QUERY = "my file"


def retriever(**options: Any) -> QuantizedBiEncoderRetriever:
    return QuantizedBiEncoderRetriever(
        document_store=QuaverDocumentStore(embedding_dim=64), **options
    )


EMBEDDING: list[Callable[..., Any]] = [
    QuaverTextEmbedder,
    QuaverDocumentEmbedder,
    QuantizedBiEncoderRanker,
    retriever,
]
EVERY: list[Callable[..., Any]] = [
    *EMBEDDING,
    QuaverRanker,
    lambda model: QuaverEmbeddingRetriever(QuaverDocumentStore()),
    lambda model: QuaverDocumentStore(),
]


@pytest.mark.parametrize("make", [*EMBEDDING, QuaverRanker])
def test_a_path_is_saved_and_loaded_again(make: Callable[..., Any], tiny: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("one", make(model=Path(tiny)))
    again = Pipeline.loads(pipeline.dumps()).get_component("one")
    assert again.model == tiny


def test_a_stores_path_is_saved_and_loaded_again(tmp_path: Path) -> None:
    store = QuaverDocumentStore(path=tmp_path / "store", embedding_dim=64)
    pipeline = Pipeline()
    pipeline.add_component("one", QuaverEmbeddingRetriever(store))
    again = Pipeline.loads(pipeline.dumps()).get_component("one")
    assert again.document_store.path == str(tmp_path / "store")


# --- Loading --------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", EMBEDDING)
def test_pooling_is_never_guessed(make: Callable[..., Any], tmp_path: Path) -> None:
    silent = str(write_tiny_model(tmp_path / "silent", pooling=None))
    with pytest.raises(PoolingError, match="pooling"):
        make(model=silent).warm_up()
    chosen = make(model=silent, pooling="cls")
    chosen.warm_up()
    wanted = Embedder.from_pretrained(silent, pooling="cls").encode(TEXTS)
    np.testing.assert_array_equal(chosen.shared.model.encode(TEXTS), wanted)


# --- Wrong input ----------------------------------------------------------------------------------
@pytest.mark.parametrize("make", EVERY)
def test_a_parameter_of_another_version_is_refused(make: Callable[..., Any]) -> None:
    data = make(model="some/model").to_dict()
    kind = type(make(model="some/model"))
    assert type(kind.from_dict(copy.deepcopy(data))) is kind
    data["init_parameters"]["turbo"] = True
    with pytest.raises(DeserializationError, match=r"got 'turbo'; another version of Quaver may"):
        kind.from_dict(data)


def test_a_saved_pipeline_of_another_version_names_the_parameter(tiny: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever(model=tiny))
    text = pipeline.dumps()
    assert Pipeline.loads(text).get_component("retriever").model == tiny
    with pytest.raises(DeserializationError, match="got 'depth'"):
        Pipeline.loads(text.replace("truncate_dim:", "depth:"))


@pytest.mark.parametrize("kind", [QuaverDocumentEmbedder, QuaverRanker, QuantizedBiEncoderRanker])
def test_a_string_is_no_list_of_meta_fields(kind: Any) -> None:
    with pytest.raises(TypeError, match="list of strings as meta_fields_to_embed: got 'title'"):
        kind(model="some/model", meta_fields_to_embed="title")


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"retriever with run\(query_embedding, ...\): got object"):
        QuantizedBiEncoderRetriever(model="some/model", retriever=object())
    with pytest.raises(ValueError, match="embedding_dim must be an integer of at least 1"):
        QuaverDocumentStore(embedding_dim=0)
    with pytest.raises(InputError, match="model must be a folder or a hub id: got None"):
        QuaverTextEmbedder(model=None).warm_up()
