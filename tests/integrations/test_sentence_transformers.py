"""SentenceTransformer and CrossEncoder on Quaver's engine, and the tools built on them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers as st

from quaver import CrossEncoder, Embedder, InputError
from quaver.integrations.sentence_transformers import QuaverModule
from quaver.integrations.sentence_transformers_export import export_sentence_transformers

TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]
QUERY = "my file"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("st") / "embedder"
    assert export_sentence_transformers(tiny, target) == "embed"
    return str(target)


@pytest.fixture(scope="module")
def cross_folder(tiny_cross: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("st") / "cross"
    assert export_sentence_transformers(tiny_cross, target) == "rank"
    return str(target)


@pytest.fixture(scope="module")
def plain(tiny: str) -> Embedder:
    return Embedder.from_pretrained(tiny)


@pytest.fixture(scope="module")
def ranking(tiny_cross: str) -> list[Any]:
    return CrossEncoder.from_pretrained(tiny_cross).rank(QUERY, TEXTS)


# --- sentence-transformers itself -----------------------------------------------------------------
def test_a_sentence_transformer_gives_our_vectors(folder: str, plain: Embedder) -> None:
    model = st.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(model.encode_query(TEXTS), plain.encode_query(TEXTS))
    np.testing.assert_array_equal(model.encode_document(TEXTS), plain.encode_document(TEXTS))
    assert model.get_embedding_dimension() == 64
    assert model.max_seq_length == 64
    assert model.similarity_fn_name == "cosine"
    assert model.encode([]).shape[0] == 0
    assert model.encode("one").shape == (64,)


def test_a_cross_encoder_gives_our_order_and_scores(cross_folder: str, ranking: Any) -> None:
    model = st.CrossEncoder(cross_folder, trust_remote_code=True, device="cpu")
    found = model.rank(QUERY, TEXTS)
    assert [hit["corpus_id"] for hit in found] == [ranked.index for ranked in ranking]
    assert [hit["score"] for hit in found] == pytest.approx([r.score for r in ranking], abs=1e-6)
    assert model.predict((QUERY, TEXTS[0])).shape == ()


def test_the_exported_folder_holds_a_model_quaver_opens(folder: str, plain: Embedder) -> None:
    again = Embedder.from_pretrained(Path(folder) / "model")
    np.testing.assert_array_equal(again.encode_query(TEXTS), plain.encode_query(TEXTS))


@pytest.mark.parametrize("kind", ["embed", "rank"])
def test_saving_and_loading_again(
    folder: str, cross_folder: str, kind: str, tmp_path: Path
) -> None:
    cls = st.SentenceTransformer if kind == "embed" else st.CrossEncoder
    first = cls(folder if kind == "embed" else cross_folder, trust_remote_code=True, device="cpu")
    first.save_pretrained(str(tmp_path))
    again = cls(str(tmp_path), trust_remote_code=True, device="cpu")
    inputs = TEXTS if kind == "embed" else [(QUERY, text) for text in TEXTS]
    run = "encode" if kind == "embed" else "predict"
    np.testing.assert_array_equal(getattr(again, run)(inputs), getattr(first, run)(inputs))


def test_the_module_needs_no_folder_and_no_flag(tiny: str, plain: Embedder) -> None:
    model = st.SentenceTransformer(modules=[QuaverModule(tiny)], device="cpu")
    wanted = plain.encode(TEXTS, prompt="")
    np.testing.assert_array_equal(model.encode(TEXTS), wanted)
    copied = pickle.loads(pickle.dumps(model[0]))
    np.testing.assert_array_equal(
        copied(copied.preprocess(TEXTS))["sentence_embedding"].numpy(), wanted
    )
    model.max_seq_length = 5
    shorter = Embedder.from_pretrained(tiny, max_seq_length=5).encode(TEXTS, prompt="")
    np.testing.assert_array_equal(model.encode(TEXTS), shorter)


def test_without_the_flag_sentence_transformers_says_so(folder: str) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        st.SentenceTransformer(folder, device="cpu")


def test_fp32_is_close_to_sentence_transformers_own(tiny: str) -> None:
    own = st.SentenceTransformer(tiny, device="cpu")
    ours = st.SentenceTransformer(modules=[QuaverModule(tiny, precision="float32")], device="cpu")
    # The same sums in another order; 2e-6 is what float32 leaves of unit vectors.
    np.testing.assert_allclose(ours.encode(TEXTS), own.encode(TEXTS, prompt=""), atol=2e-6)


def test_wrong_input(tiny_cross: str, tiny: str) -> None:
    with pytest.raises(InputError, match="task must be 'embed' or 'rank': got 'sing'"):
        QuaverModule(tiny, task="sing")  # type: ignore[arg-type]
    module = QuaverModule(tiny_cross, task="rank")
    with pytest.raises(InputError, match="reads pairs without a prompt"):
        module.preprocess([(QUERY, "text")], prompt="query: ")


# --- Six clients ----------------------------------------------------------------------------------
def test_client_haystack_embedder(folder: str, plain: Embedder) -> None:
    from haystack_integrations.components.embedders.sentence_transformers import (
        SentenceTransformersTextEmbedder,
    )

    embedder = SentenceTransformersTextEmbedder(
        model=folder, trust_remote_code=True, progress_bar=False, prefix="query: "
    )
    embedder.warm_up()
    found = np.float32(embedder.run(QUERY)["embedding"])
    np.testing.assert_array_equal(found, plain.encode_query(QUERY))


def test_client_haystack_ranker(cross_folder: str, ranking: Any) -> None:
    from haystack import Document
    from haystack_integrations.components.rankers.sentence_transformers import (
        SentenceTransformersSimilarityRanker,
    )

    ranker = SentenceTransformersSimilarityRanker(model=cross_folder, trust_remote_code=True)
    ranker.warm_up()
    documents = [Document(content=text) for text in TEXTS]
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    assert [document.content for document in found] == [ranked.text for ranked in ranking]


def test_client_langchain_huggingface(folder: str, plain: Embedder) -> None:
    from langchain_huggingface import HuggingFaceEmbeddings

    embeddings = HuggingFaceEmbeddings(
        model_name=folder, model_kwargs={"trust_remote_code": True, "device": "cpu"}
    )
    found = np.float32(embeddings.embed_documents(TEXTS))
    assert found.shape == (4, 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_client_llamaindex_huggingface(folder: str, plain: Embedder) -> None:
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedding = HuggingFaceEmbedding(model_name=folder, trust_remote_code=True, device="cpu")
    found = np.float32(embedding.get_text_embedding_batch(TEXTS))
    assert found.shape == (4, 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_client_llamaindex_sbert_rerank(cross_folder: str, ranking: Any) -> None:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

    rerank = SentenceTransformerRerank(
        model=cross_folder,
        top_n=4,
        device="cpu",
        cross_encoder_kwargs={"trust_remote_code": True},
    )
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.text for node in found] == [ranked.text for ranked in ranking]


def test_client_lancedb(folder: str, plain: Embedder, tmp_path: Path) -> None:
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    function = (
        get_registry()
        .get("sentence-transformers")
        .create(name=folder, device="cpu", trust_remote_code=True)
    )

    class Row(LanceModel):  # type: ignore[misc]
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(str(tmp_path)).create_table("rows", schema=Row)
    table.add([{"text": text} for text in TEXTS])
    assert table.search(TEXTS[1]).limit(1).to_list()[0]["text"] == TEXTS[1]


# --- Export ---------------------------------------------------------------------------------------
def test_what_is_exported(folder: str) -> None:
    config = json.loads((Path(folder) / "config_sentence_transformers.json").read_text())
    assert config["prompts"] == {"query": "query: ", "document": "passage: "}
    assert config["model_type"] == "SentenceTransformer"
