"""MultiVectorEncoder: the vectors and scores of sentence-transformers on ColBERT folders of three libraries.

tests/golden/folders holds tiny random models: `tools/module_folders.py --golden`.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from golden_folders import unpacked, unpacked_with_outputs
from quaver import (
    Embedder,
    InputError,
    ModelFolderError,
    MultiVectorEncoder,
    SparseEncoder,
    TokenVectors,
    UnsupportedArchitectureError,
)
from tiny_model import WORDS, edit_json, write_tiny_model

TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
    "who? the file. what, the list!",
    " ".join(WORDS[:70]),
]
MODELS = ["colbert", "colbert-modernbert", "colbert-pylate", "colbert-stanford"]
# Sums in float32 in another order.
TOLERANCE = 1e-5

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_vectors_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = MultiVectorEncoder.from_pretrained(folder, precision="float32")
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    assert np.diff(documents.offsets).tolist() == expected["document_counts"].tolist()
    assert np.diff(queries.offsets).tolist() == expected["query_counts"].tolist()
    np.testing.assert_allclose(documents.vectors, expected["document_tokens"], atol=TOLERANCE)
    np.testing.assert_allclose(queries.vectors, expected["query_tokens"], atol=TOLERANCE)
    scores = model.similarity(queries, documents)
    np.testing.assert_allclose(scores, expected["similarity"], rtol=TOLERANCE, atol=TOLERANCE)


@every_model
def test_int8_scores_are_near_and_the_same_bits_alone(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = MultiVectorEncoder.from_pretrained(folder)
    assert model.precision == "int8"
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    scores = model.similarity(queries, documents)
    # Random weights of 24 features; a trained model's scores differ by a tenth of this.
    assert np.abs(scores / expected["similarity"] - 1).max() < 0.05
    for i, text in enumerate(TEXTS):
        assert np.array_equal(model.encode_document(text), documents[i])
        assert np.array_equal(model.encode_query(text), queries[i])
    assert np.array_equal(
        model.encode_document(TEXTS, max_batch_tokens=1).vectors, documents.vectors
    )


def test_scores_by_hand(tmp_path: Path) -> None:
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path))
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS[:3])
    scores = model.similarity(queries, documents)
    assert scores.shape == (3, len(TEXTS))
    for i in range(3):
        for j in range(len(TEXTS)):
            by_hand = (queries[i] @ documents[j].T).max(axis=1).sum()
            assert scores[i, j] == pytest.approx(by_hand, abs=1e-4)
    one = model.similarity(queries[0], documents)
    np.testing.assert_allclose(one, scores[0], atol=1e-5)
    assert model.similarity(queries[0], documents[1]).shape == ()
    assert model.similarity(queries, documents[1]).shape == (3,)
    none = model.encode_document([])
    assert (len(none), model.similarity(queries, none).shape) == (0, (3, 0))
    vectors = np.concatenate([documents.vectors[:4], documents.vectors[4:9]])
    ragged = TokenVectors(vectors, np.array([0, 4, 4, 9]))
    scores = model.similarity(queries, ragged)
    assert scores[:, 1].tolist() == [0, 0, 0]
    np.testing.assert_allclose(scores[:, 2], model.similarity(queries, vectors[4:]), atol=1e-5)


def test_a_block_of_documents_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path))
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    whole = model.similarity(queries, documents)
    monkeypatch.setattr("quaver.multi_vector_encoder._MOST_PRODUCTS", 100)
    np.testing.assert_allclose(model.similarity(queries, documents), whole, atol=1e-5)


def test_short_outputs(tmp_path: Path) -> None:
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert-modernbert", tmp_path))
    documents, queries = model.encode_document(TEXTS), model.encode_query(TEXTS)
    scores = model.similarity(queries, documents)
    small = model.encode_document(TEXTS, output="int8")
    assert (small.vectors.dtype, small.vectors.shape) == (np.int8, documents.vectors.shape)
    np.testing.assert_allclose(model.similarity(queries, small), scores, atol=0.01)
    signs = model.encode_document(TEXTS, output="binary")
    assert (signs.vectors.dtype, signs.vectors.shape[1]) == (np.uint8, 2)
    unit = np.where(documents.vectors > 0, 0.25, -0.25).astype(np.float32)
    expected = model.similarity(queries, TokenVectors(unit, documents.offsets))
    np.testing.assert_allclose(model.similarity(queries, signs), expected, atol=1e-5)
    with pytest.raises(InputError, match="output must be"):
        model.encode_query(TEXTS, output="int4")  # type: ignore[call-overload]


def test_queries_get_mask_tokens_and_documents_lose_punctuation(tmp_path: Path) -> None:
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path))
    assert (model.query_length, model.max_seq_length, model.dimension) == (16, 24, 12)
    assert np.diff(model.encode_query(TEXTS).offsets).tolist() == [16] * len(TEXTS)
    documents = model.encode_document(["data, text!", "data text"])
    assert len(documents[0]) == len(documents[1])
    # What is skipped was read by the other tokens.
    assert not np.allclose(documents[0], documents[1], atol=1e-3)


def test_pooled_tokens(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path))
    whole = model.encode_document(TEXTS)
    halves = model.encode_document(TEXTS, pool_factor=2)
    for i in range(len(TEXTS)):
        assert len(halves[i]) == 1 + max((len(whole[i]) - 1) // 2, 1)
        np.testing.assert_allclose(halves[i][0], whole[i][0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(halves.vectors, axis=1), 1, atol=1e-5)
    same = model.encode_document(TEXTS, pool_factor=1)
    assert np.array_equal(same.vectors, whole.vectors)
    for wrong in (0.5, 0, True, "2", float("nan")):
        with pytest.raises(InputError, match="pool_factor must be"):
            model.encode_document(TEXTS, pool_factor=wrong)  # type: ignore[call-overload]


def test_pooling_without_scipy_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path))
    monkeypatch.setitem(sys.modules, "scipy.cluster", None)
    with pytest.raises(ImportError, match=r"quaver\[scipy\]"):
        model.encode_document(TEXTS, pool_factor=2)


def test_pickling_loads_it_again(tmp_path: Path) -> None:
    folder = unpacked("colbert", tmp_path)
    model = MultiVectorEncoder.from_pretrained(folder, max_seq_length=9)
    again = pickle.loads(pickle.dumps(model))
    assert again.max_seq_length == 9
    assert np.array_equal(
        again.encode_document(TEXTS).vectors, model.encode_document(TEXTS).vectors
    )
    state = pickle.dumps(model)
    edit_json(folder / "2_MultiVectorMask/config.json", skiplist_words=["text"])
    with pytest.raises(ModelFolderError, match="a pickled multi-vector encoder"):
        pickle.loads(state)


def test_a_folder_of_another_kind_names_the_class_that_opens_it(tmp_path: Path) -> None:
    for name in MODELS:
        folder = unpacked(name, tmp_path)
        for opens in (Embedder, SparseEncoder):
            with pytest.raises(UnsupportedArchitectureError, match="open it with MultiVectorEncod"):
                opens.from_pretrained(folder)  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedArchitectureError, match="open it with Embedder"):
        MultiVectorEncoder.from_pretrained(write_tiny_model(tmp_path / "embedder"))


@pytest.mark.parametrize(
    ("path", "changes", "error", "message"),
    [
        (
            "1_Dense/config.json",
            {"module_input_name": "sentence_embedding"},
            UnsupportedArchitectureError,
            "supported is 'token_embeddings'",
        ),
        (
            "2_MultiVectorMask/config.json",
            {"keep_only_token_ids": [3]},
            UnsupportedArchitectureError,
            "models of images",
        ),
        (
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "other", "length": 9}},
            UnsupportedArchitectureError,
            "'fixed' and 'min'",
        ),
        (
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "fixed", "length": 9, "token": "[NONE]"}},
            ModelFolderError,
            r"none of '\[NONE\]'",
        ),
        ("sentence_bert_config.json", {"document_length": 3}, ModelFolderError, "must have room"),
    ],
)
def test_what_is_refused(
    path: str, changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = unpacked("colbert", tmp_path)
    edit_json(folder / path, **changes)
    with pytest.raises(error, match=message):
        MultiVectorEncoder.from_pretrained(folder)


def test_a_colbert_without_its_projection(tmp_path: Path) -> None:
    folder = unpacked("colbert-stanford", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["linear.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFolderError, match="must have its projection"):
        MultiVectorEncoder.from_pretrained(folder)


def test_wrong_vectors_are_refused(tmp_path: Path) -> None:
    model = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path))
    with pytest.raises(InputError, match="must be TokenVectors"):
        model.similarity(np.zeros(12, np.float32), np.zeros((2, 12), np.float32))
    with pytest.raises(InputError, match="must have the model's dimension, 12"):
        model.similarity(np.zeros((2, 12), np.float32), np.zeros((2, 13), np.float32))
