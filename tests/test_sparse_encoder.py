"""SparseEncoder: the weights of sentence-transformers on folders that it wrote, and what is refused.

tests/golden/folders holds tiny random models: `tools/module_folders.py --golden`.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from golden_folders import unpacked, unpacked_with_outputs
from quaver import (
    CrossEncoder,
    Embedder,
    InputError,
    ModelFolderError,
    SparseEncoder,
    SparseVector,
    SparseVectors,
    TokenizerError,
    UnsupportedArchitectureError,
    WeightsError,
)
from tiny_model import edit_json, write_tiny_cross_encoder, write_tiny_model

TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
]
MODELS = ["splade-bert", "splade-distilbert", "splade-xlm-roberta", "splade-modernbert"]
# Sums in float32 in another order.
TOLERANCE = 1e-5

every_model = pytest.mark.parametrize("name", MODELS)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products: NDArray[np.float32] = np.einsum("nd,nd->n", a, b) / lengths
    return products


@every_model
def test_weights_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = SparseEncoder.from_pretrained(folder, precision="float32")
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    np.testing.assert_allclose(documents.to_dense(), expected["documents"], atol=TOLERANCE)
    np.testing.assert_allclose(queries.to_dense(), expected["query_words"], atol=TOLERANCE)
    similarity = model.similarity(queries, documents)
    scale = np.abs(expected["similarity"]).max()
    np.testing.assert_allclose(similarity, expected["similarity"], atol=TOLERANCE * max(1, scale))
    assert model.dimension == documents.size == expected["documents"].shape[1]


@every_model
def test_int8_is_near_and_the_same_bits_alone(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = SparseEncoder.from_pretrained(folder)
    assert model.precision == "int8"
    together = model.encode_document(TEXTS)
    # Random weights of 24 features: real models lose a fifth of this.
    assert cosines(together.to_dense(), expected["documents"]).min() > 0.98
    for i, text in enumerate(TEXTS):
        for alone in (model.encode_document(text), model.encode_document([text])[0]):
            assert np.array_equal(alone.indices, together[i].indices)
            assert np.array_equal(alone.values, together[i].values)
    in_parts = model.encode_document(TEXTS, max_batch_tokens=1)
    assert np.array_equal(in_parts.values, together.values)


def test_the_layout_of_a_result(tmp_path: Path) -> None:
    model = SparseEncoder.from_pretrained(unpacked("splade-modernbert", tmp_path))
    vectors = model.encode(TEXTS)
    assert isinstance(vectors, SparseVectors)
    assert isinstance(model.encode("a text"), SparseVector)
    assert (vectors.indptr.dtype, vectors.indices.dtype, vectors.values.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )
    assert vectors.shape == (len(TEXTS), model.dimension)
    assert len(vectors.values) == vectors.indptr[-1] == sum(len(vectors[i]) for i in range(5))
    assert (vectors.values > 0).all()
    assert all((np.diff(vectors[i].indices) > 0).all() for i in range(len(vectors)))
    assert np.array_equal(vectors[-1].to_dense(), vectors.to_dense()[-1])
    with pytest.raises(IndexError):
        vectors[5]
    none = model.encode([])
    assert none.shape == (0, model.dimension)
    assert model.similarity(none, vectors).shape == (0, 5)
    assert model.similarity(vectors[0], vectors).shape == (5,)
    assert model.similarity(vectors[0], vectors[0]).shape == ()


def test_a_limit_keeps_the_largest_weights(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("splade-bert", tmp_path)
    model = SparseEncoder.from_pretrained(folder, precision="float32", max_active_dims=500)
    whole = model.encode_document(TEXTS)
    assert np.diff(whole.indptr).max() > 40
    assert SparseEncoder.from_pretrained(folder).max_active_dims == 40
    cut = model.encode_document(TEXTS, max_active_dims=7)
    for i in range(len(TEXTS)):
        largest = np.sort(np.argsort(-whole[i].values, kind="stable")[:7])
        assert np.array_equal(cut[i].indices, whole[i].indices[largest])
        assert np.array_equal(cut[i].values, whole[i].values[largest])
    at_forty = model.encode_document(TEXTS, max_active_dims=40).to_dense()
    np.testing.assert_allclose(at_forty, expected["documents"], atol=TOLERANCE)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="max_active_dims must be a whole number"):
            model.encode(TEXTS, max_active_dims=wrong)  # type: ignore[arg-type]


def test_words_are_decoded_heaviest_first(tmp_path: Path) -> None:
    model = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path))
    vectors = model.encode_query(TEXTS)
    decoded = model.decode(vectors, top_k=3)
    assert [len(words) for words in decoded] == [3] * 5
    assert model.decode(vectors[0])[:3] == decoded[0]
    weights = [weight for _, weight in model.decode(vectors[0])]
    assert weights == sorted(weights, reverse=True)
    ids = [model.tokenizer.token_id(word) for word, _ in decoded[0]]
    assert set(ids) <= set(vectors[0].indices.tolist())
    with pytest.raises(InputError, match="top_k"):
        model.decode(vectors, top_k=0)
    with pytest.raises(InputError, match="SparseVector"):
        model.decode(np.zeros(3))  # type: ignore[call-overload]


def test_queries_by_a_table(tmp_path: Path) -> None:
    folder = unpacked("splade-distilbert", tmp_path)
    model = SparseEncoder.from_pretrained(folder)
    assert model.queries_without_model
    one = model.encode_query("data data and text")
    words = {word for word, _ in model.decode(one)}
    assert words <= {"data", "and", "text"}
    assert len(model.encode_query("")) == 0
    assert (
        model.similarity(model.encode_query(""), model.encode_document(TEXTS)).tolist() == [0] * 5
    )


def test_prompts(tmp_path: Path) -> None:
    model = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path))
    by_name = model.encode(TEXTS, prompt_name="query")
    assert np.array_equal(by_name.values, model.encode_query(TEXTS).values)
    assert not np.array_equal(by_name.values, model.encode_document(TEXTS).values)
    with pytest.raises(InputError, match="no prompt is named"):
        model.encode(TEXTS, prompt_name="title")


def test_a_model_alone_takes_the_largest_value(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("splade-modernbert", tmp_path)
    for path in (*folder.glob("*sentence*"), folder / "modules.json"):
        path.unlink()
    assert json.loads((folder / "config.json").read_text())["architectures"]
    model = SparseEncoder.from_pretrained(folder, precision="float32")
    documents = model.encode_document(TEXTS).to_dense()
    np.testing.assert_allclose(documents, expected["documents"], atol=TOLERANCE)


def test_pickling_loads_it_again(tmp_path: Path) -> None:
    folder = unpacked("splade-bert", tmp_path)
    model = SparseEncoder.from_pretrained(folder, max_active_dims=5, precision="float32")
    again = pickle.loads(pickle.dumps(model))
    assert (again.max_active_dims, again.precision) == (5, "float32")
    assert np.array_equal(again.encode(TEXTS).values, model.encode(TEXTS).values)
    state = pickle.dumps(model)
    edit_json(folder / "1_SpladePooling/config.json", pooling_strategy="sum")
    with pytest.raises(ModelFolderError, match="a pickled sparse encoder"):
        pickle.loads(state)


def test_a_folder_of_another_kind_names_the_class_that_opens_it(tmp_path: Path) -> None:
    sparse = unpacked("splade-bert", tmp_path)
    for opens in (Embedder, CrossEncoder):
        with pytest.raises(UnsupportedArchitectureError, match="open it with SparseEncoder"):
            opens.from_pretrained(sparse)  # type: ignore[attr-defined]
    embedder = write_tiny_model(tmp_path / "embedder")
    scorer = write_tiny_cross_encoder(tmp_path / "scorer")
    bare = write_tiny_model(tmp_path / "bare", pooling=None)
    for folder, kind in ((embedder, "Embedder"), (scorer, "CrossEncoder"), (bare, "Embedder")):
        with pytest.raises(UnsupportedArchitectureError, match=f"open it with {kind}"):
            SparseEncoder.from_pretrained(folder)
    with pytest.raises(InputError, match=r"SparseEncoder\.from_pretrained"):
        SparseEncoder(str(sparse))  # type: ignore[arg-type]


def without_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "cls." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "path", "changes", "error", "message"),
    [
        (
            "splade-bert",
            "1_SpladePooling/config.json",
            {"pooling_strategy": "mean"},
            UnsupportedArchitectureError,
            "'max' and 'sum'",
        ),
        (
            "splade-bert",
            "1_SpladePooling/config.json",
            {"activation_function": "tanh"},
            UnsupportedArchitectureError,
            "'relu' and 'log1p_relu'",
        ),
        (
            "splade-bert",
            "sentence_bert_config.json",
            {"transformer_task": "feature-extraction"},
            UnsupportedArchitectureError,
            "for a sparse encoder is 'fill-mask'",
        ),
        (
            "splade-bert",
            "config.json",
            {"model_type": "qwen2"},
            UnsupportedArchitectureError,
            "masked-language-model heads of bert",
        ),
        (
            "splade-bert",
            "config_sentence_transformers.json",
            {"similarity_fn_name": "euclidean"},
            UnsupportedArchitectureError,
            "'dot' and 'cosine'",
        ),
        (
            "splade-distilbert",
            "router_config.json",
            {"structure": {"document": ["document_0_Transformer"]}},
            ModelFolderError,
            "it has none for 'query'",
        ),
        (
            "splade-distilbert",
            "router_config.json",
            {"types": {}},
            ModelFolderError,
            "router_config.json",
        ),
    ],
)
def test_what_is_refused(
    name: str,
    path: str,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    folder = unpacked(name, tmp_path)
    edit_json(folder / path, **changes)
    with pytest.raises(error, match=message):
        SparseEncoder.from_pretrained(folder)


def test_a_sparse_encoder_without_its_head(tmp_path: Path) -> None:
    folder = unpacked("splade-bert", tmp_path)
    without_head(folder)
    with pytest.raises(WeightsError, match="needs its masked-language-model head"):
        SparseEncoder.from_pretrained(folder)


def test_a_broken_table_of_queries(tmp_path: Path) -> None:
    folder = unpacked("splade-distilbert", tmp_path)
    (inside,) = folder.glob("query_0_*")
    save_file({"weight": np.ones(9, np.float32)}, inside / "model.safetensors")
    with pytest.raises(TokenizerError, match="every token needs a row"):
        SparseEncoder.from_pretrained(folder)
    save_file({"other": np.ones(9, np.float32)}, inside / "model.safetensors")
    with pytest.raises(WeightsError, match="tensor 'weight'"):
        SparseEncoder.from_pretrained(folder)
