"""SentenceTransformer and CrossEncoder on Quaver's engine, and the tools built on them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers as st
import torch

from quaver import CrossEncoder, Embedder, InputError
from quaver.integrations.sentence_transformers import QuaverModule
from quaver.integrations.sentence_transformers_export import export_sentence_transformers
from quaver.integrations.shared_models import shared_cross_encoder
from tiny_model import write_tiny_cross_encoder, write_tiny_model

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
    np.testing.assert_array_equal(model.encode_query(TEXTS), plain.encode_query(TEXTS))
    np.testing.assert_array_equal(model.encode_document(TEXTS), plain.encode_document(TEXTS))
    wanted = plain.encode(TEXTS, prompt="")
    np.testing.assert_array_equal(model.encode(TEXTS), wanted)
    copied = pickle.loads(pickle.dumps(model[0]))
    np.testing.assert_array_equal(
        copied(copied.preprocess(TEXTS))["sentence_embedding"].numpy(), wanted
    )
    model.max_seq_length = 5
    shorter = Embedder.from_pretrained(tiny, max_seq_length=5).encode(TEXTS, prompt="")
    np.testing.assert_array_equal(model.encode(TEXTS), shorter)


@pytest.fixture
def other_settings(tmp_path: Path) -> Path:
    """A folder that says more than its prompts."""
    folder = write_tiny_model(tmp_path / "settings")
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings["prompts"] |= {"clustering": "cluster: "}
    settings |= {"default_prompt_name": "clustering", "similarity_fn_name": "dot"}
    path.write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("route", ["module", "folder"])
def test_what_the_folder_says_arrives(route: str, other_settings: Path, tmp_path: Path) -> None:
    if route == "module":
        module = QuaverModule(str(other_settings))
        model = st.SentenceTransformer(modules=[module], device="cpu")
    else:
        export_sentence_transformers(other_settings, tmp_path / "st")
        model = st.SentenceTransformer(str(tmp_path / "st"), trust_remote_code=True, device="cpu")
    own = st.SentenceTransformer(str(other_settings), device="cpu")
    assert (model.prompts, model.default_prompt_name) == (own.prompts, own.default_prompt_name)
    assert model.similarity_fn_name == own.similarity_fn_name == "dot"
    ours = Embedder.from_pretrained(other_settings)
    for name in ("encode", "encode_query", "encode_document"):
        np.testing.assert_array_equal(getattr(model, name)(TEXTS), getattr(ours, name)(TEXTS))
    assert not np.array_equal(model.encode_query(TEXTS), model.encode_document(TEXTS))
    model.save_pretrained(str(tmp_path / "saved"))
    again = st.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert (again.prompts, again.similarity_fn_name) == (own.prompts, "dot")
    np.testing.assert_array_equal(again.encode(TEXTS), ours.encode(TEXTS))


def test_what_the_caller_says_comes_first(other_settings: Path, folder: str) -> None:
    model = st.SentenceTransformer(
        modules=[QuaverModule(str(other_settings))],
        device="cpu",
        prompts={"query": "ask: ", "document": ""},
        default_prompt_name="query",
        similarity_fn_name="cosine",
    )
    assert model.prompts == {"query": "ask: ", "document": "passage: ", "clustering": "cluster: "}
    assert (model.default_prompt_name, model.similarity_fn_name) == ("query", "cosine")
    none = QuaverModule(str(other_settings), prompts={})
    bare = st.SentenceTransformer(modules=[none], device="cpu")
    assert bare.prompts == {"query": "", "document": ""}
    assert bare.default_prompt_name is None
    np.testing.assert_array_equal(bare.encode_query(TEXTS), bare.encode_document(TEXTS))
    kept = pickle.loads(pickle.dumps(none))
    assert kept.prompts == {}
    # A folder's file tells an empty prompt from a missing one.
    emptied = st.SentenceTransformer(
        folder, trust_remote_code=True, device="cpu", prompts={"query": "", "document": ""}
    )
    assert emptied.prompts == {"query": "", "document": ""}


@pytest.mark.parametrize("kind", ["Identity", "Sigmoid"])
def test_the_activation_arrives(kind: str, tmp_path: Path) -> None:
    source = write_tiny_cross_encoder(tmp_path / "cross")
    config = json.loads((source / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": f"torch.nn.modules.linear.{kind}"}
    (source / "config.json").write_text(json.dumps(config))
    pairs = [(QUERY, text) for text in TEXTS]
    module = QuaverModule(str(source), task="rank")
    model = st.CrossEncoder(modules=[module], device="cpu")
    wanted = CrossEncoder.from_pretrained(source).predict(pairs)
    np.testing.assert_allclose(model.predict(pairs), wanted, atol=1e-6)
    plain = st.CrossEncoder(modules=[module], device="cpu", activation_fn=torch.nn.Tanh())
    assert isinstance(plain.activation_fn, torch.nn.Tanh)


def test_several_labels(tmp_path: Path) -> None:
    source = write_tiny_cross_encoder(tmp_path / "cross", labels=3)
    assert export_sentence_transformers(source, tmp_path / "st") == "rank"
    model = st.CrossEncoder(str(tmp_path / "st"), trust_remote_code=True, device="cpu")
    pairs = [(QUERY, text) for text in TEXTS]
    wanted = CrossEncoder.from_pretrained(source).predict(pairs)
    assert model.num_labels == 3
    np.testing.assert_array_equal(model.predict(pairs), wanted)
    np.testing.assert_allclose(model.predict(pairs, apply_softmax=True).sum(axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="num_labels=1"):
        model.rank(QUERY, TEXTS)
    model.save_pretrained(str(tmp_path / "saved"))
    again = st.CrossEncoder(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.predict(pairs), wanted)
    with pytest.raises(InputError, match=r"one label: cross has 3 \(LABEL_0.*export-st"):
        st.CrossEncoder(modules=[QuaverModule(str(source), task="rank")], device="cpu")
    with pytest.raises(InputError, match="a reranker needs a model with one label"):
        shared_cross_encoder(str(source))


def test_what_the_engine_does_not_do_is_said(folder: str, tiny: str) -> None:
    model = st.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    with pytest.raises(InputError, match="one vector for each text and no 'token_embeddings'"):
        model.encode(TEXTS, output_value="token_embeddings")
    with pytest.raises(InputError, match=r"takes no processing_kwargs: got {.text."):
        model.encode(TEXTS, processing_kwargs={"text": {"max_length": 4}})
    with pytest.raises(InputError, match="reads the tokenizer of the model folder"):
        model.tokenizer = model.tokenizer
    with pytest.raises(InputError, match=r"reads pairs without a prompt: got \{'query'"):
        QuaverModule(tiny, task="rank", prompts={"query": "q: "})
    for kwargs, message in (
        ({"backend": "onnx"}, "got backend='onnx'"),
        ({"model_kwargs": {"dtype": "float16"}}, "got dtype=float16"),
        ({"model_kwargs": {"device_map": "cuda"}}, "got a device_map"),
        ({"config_kwargs": {"num_labels": 2}}, "config_kwargs has no effect"),
    ):
        with pytest.raises(InputError, match=message):
            st.SentenceTransformer(folder, trust_remote_code=True, device="cpu", **kwargs)


def test_all_outputs_of_a_text(folder: str, plain: Embedder) -> None:
    model = st.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    found = model.encode(TEXTS, output_value=None)
    vectors = np.stack([output["sentence_embedding"].numpy() for output in found])
    np.testing.assert_array_equal(vectors, plain.encode(TEXTS))


def test_the_tokenizer_is_the_folders(folder: str, tiny: str) -> None:
    model = st.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    ids = model.tokenizer(TEXTS)["input_ids"]
    batch = Embedder.from_pretrained(tiny).tokenizer.encode(TEXTS)
    assert [i for row in ids for i in row] == batch.ids.tolist()
    assert model.tokenizer.model_max_length == model.max_seq_length == 64


def test_the_longest_text_is_taken_from_the_constructor(folder: str, tiny: str) -> None:
    options: dict[str, Any] = {"trust_remote_code": True, "device": "cpu"}
    processor = {"model_max_length": 512, "local_files_only": True}
    longer = st.SentenceTransformer(folder, processor_kwargs=processor, **options)
    assert longer.max_seq_length == 64  # the model allows no more
    model = st.SentenceTransformer(folder, processor_kwargs={"model_max_length": 5}, **options)
    shorter = Embedder.from_pretrained(tiny, max_seq_length=5)
    assert model.max_seq_length == 5
    np.testing.assert_array_equal(model.encode(TEXTS), shorter.encode(TEXTS))


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
        encode_kwargs={"prompt_name": "document"},
    )
    same(embeddings.embed_query(QUERY), plain.encode_query(QUERY))
    same(embeddings.embed_documents(TEXTS), plain.encode_document(TEXTS))


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
    from mteb.models import SentenceTransformerEncoderWrapper

    from quaver.integrations.mteb import MtebEncoder

    model = st.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    tasks: list[Any] = [MockRetrievalTask()]
    options: dict[str, Any] = {"cache": None, "co2_tracker": False, "show_progress_bar": False}
    found, wanted = (
        mteb.evaluate(encoder, tasks, **options)[0].get_score()
        for encoder in (model, MtebEncoder(str(Path(folder) / "model")))
    )
    assert found == wanted
    assert SentenceTransformerEncoderWrapper(model).mteb_model_meta.name == (
        "local/embedder-quaver-int8"
    )
    module = st.SentenceTransformer(modules=[QuaverModule(folder + "/model")], device="cpu")
    ours = MtebEncoder(folder + "/model").mteb_model_meta.name
    assert SentenceTransformerEncoderWrapper(module).mteb_model_meta.name == ours


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
