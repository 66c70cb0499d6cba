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


# --- Six clients, and more ------------------------------------------------------------------------
def same(found: Any, wanted: Any) -> None:
    """Clients divide our unit vectors by their lengths again: the last bit may change, no more.

    float32 arithmetic, which torch would do, is a thousand times as far off: see the next test.
    """
    np.testing.assert_allclose(np.float32(found), wanted, atol=2e-7)


def test_int8_is_told_from_float32(tiny: str, plain: Embedder) -> None:
    own = st.SentenceTransformer(tiny, device="cpu").encode(TEXTS, prompt="")
    assert np.abs(own - plain.encode(TEXTS, prompt="")).max() > 2e-4


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
    assert [d.score for d in found] == pytest.approx([r.score for r in ranking], abs=1e-6)


def test_client_langchain_huggingface(folder: str, plain: Embedder) -> None:
    from langchain_huggingface import HuggingFaceEmbeddings

    embeddings = HuggingFaceEmbeddings(
        model_name=folder,
        model_kwargs={"trust_remote_code": True, "device": "cpu"},
        query_encode_kwargs={"prompt_name": "query"},
    )
    same(embeddings.embed_query(QUERY), plain.encode_query(QUERY))
    # It puts no prompt before documents, unless encode_kwargs names one.
    same(embeddings.embed_documents(TEXTS), plain.encode(TEXTS, prompt=""))


def test_client_llamaindex_huggingface(folder: str, plain: Embedder) -> None:
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedding = HuggingFaceEmbedding(
        model_name=folder,
        trust_remote_code=True,
        device="cpu",
        query_instruction="query: ",
        text_instruction="passage: ",
    )
    same(embedding.get_text_embedding_batch(TEXTS), plain.encode_document(TEXTS))
    same(embedding.get_query_embedding(QUERY), plain.encode_query(QUERY))


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
    assert [n.score for n in found] == pytest.approx([r.score for r in ranking], abs=1e-6)


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
    same(table.to_arrow()["vector"].to_pylist(), plain.encode(TEXTS, prompt=""))


def test_client_haystack_document_embedder(folder: str, plain: Embedder) -> None:
    from haystack import Document
    from haystack_integrations.components.embedders.sentence_transformers import (
        SentenceTransformersDocumentEmbedder,
    )

    embedder = SentenceTransformersDocumentEmbedder(
        model=folder, trust_remote_code=True, progress_bar=False, prefix="passage: "
    )
    embedder.warm_up()
    found = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    same([document.embedding for document in found], plain.encode_document(TEXTS))


def test_client_mteb(folder: str) -> None:
    import mteb
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask

    from quaver.integrations.mteb import MtebEncoder

    model = st.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    tasks: list[Any] = [MockRetrievalTask()]
    options: dict[str, Any] = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
    found, wanted = (
        mteb.evaluate(encoder, tasks, **options)[0].get_score()
        for encoder in (model, MtebEncoder(str(Path(folder) / "model")))
    )
    assert found == wanted


def test_client_txtai(folder: str, plain: Embedder) -> None:
    import txtai

    options = {"backend": "numpy", "normalize": False}
    through_a_folder = txtai.Embeddings(
        method="sentence-transformers",
        path=folder,
        gpu=False,
        vectors={"trust_remote_code": True},
        **options,
    )
    through_a_function = txtai.Embeddings(
        method="external", transform=lambda texts: plain.encode(texts), **options
    )
    query = {through_a_folder: plain.encode_query(QUERY), through_a_function: plain.encode(QUERY)}
    texts = {
        through_a_folder: plain.encode_document(TEXTS),
        through_a_function: plain.encode(TEXTS),
    }
    for embeddings in (through_a_folder, through_a_function):
        same(embeddings.transform(QUERY), query[embeddings])
        embeddings.index(TEXTS)
        scores = plain.similarity(query[embeddings], texts[embeddings])
        found = embeddings.search(QUERY, len(TEXTS))
        best = np.argsort(-scores)
        assert [at for at, _ in found] == best.tolist()
        assert [score for _, score in found] == pytest.approx(scores[best].tolist(), abs=1e-6)
        embeddings.close()


# --- Export ---------------------------------------------------------------------------------------
def test_what_is_exported(folder: str) -> None:
    config = json.loads((Path(folder) / "config_sentence_transformers.json").read_text())
    assert config["prompts"] == {"query": "query: ", "document": "passage: "}
    assert config["model_type"] == "SentenceTransformer"
