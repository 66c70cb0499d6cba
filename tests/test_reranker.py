"""Rankers: scores by the formula, order, arguments, and the heads and activations of a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quaver import BiEncoderRanker, CrossEncoder, Embedder, Ranked, Ranker
from quaver.errors import (
    InputError,
    ModelFolderError,
    UnsupportedArchitectureError,
    WeightsError,
)
from quaver.models.families.registry import classifier_spec, encoder_weights
from quaver.models.folder import ModelFolder
from quaver.reference import encode as reference_encode
from tiny_model import write_json, write_tiny_cross_encoder

QUERY = "which file has the class"
DOCUMENTS = (
    "the python module has a class",
    "text and data",
    "a query that returns an error",
    "",
    "key value list " * 30,
)
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cross_encoder(tmp_path_factory.mktemp("ranker") / "tiny-reranker")


@pytest.fixture(scope="module")
def exact(folder: Path) -> CrossEncoder:
    return CrossEncoder.from_pretrained(folder, precision="float32", threads=2)


def expected_logits(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    opened = ModelFolder.open(folder)
    spec = classifier_spec(opened.config)
    tokens = CrossEncoder.from_pretrained(folder).tokenizer.encode_pairs(pairs)
    return reference_encode(spec, encoder_weights(spec, opened.tensors()), tokens)


# --- Scores ---------------------------------------------------------------------------------------
def test_scores_are_the_sigmoid_of_the_head(folder: Path, exact: CrossEncoder) -> None:
    logits = expected_logits(folder, PAIRS)[:, 0]
    scores = exact.predict(PAIRS)
    assert (scores.dtype, scores.shape) == (np.float32, (5,))
    # Two layers and a head of float32 sums in another order.
    np.testing.assert_allclose(exact.predict(PAIRS, activation="identity"), logits, atol=1e-5)
    np.testing.assert_allclose(scores, [1 / (1 + math.exp(-x)) for x in logits], atol=1e-5)
    assert len(set(scores.tolist())) == 5


def test_int8_scores_are_near(folder: Path, exact: CrossEncoder) -> None:
    small = CrossEncoder.from_pretrained(folder)
    plain = small.predict(PAIRS, activation="identity")
    # Rounding of eight bits through two layers of random weights; logits are around 1.
    np.testing.assert_allclose(plain, exact.predict(PAIRS, activation="identity"), atol=0.15)


def test_a_pair_is_the_same_bits_alone_and_in_any_batch(folder: Path) -> None:
    model = CrossEncoder.from_pretrained(folder, threads=2)
    together = model.predict(PAIRS)
    alone = np.concatenate([model.predict([pair]) for pair in PAIRS])
    assert np.array_equal(together, alone)
    assert np.array_equal(model.predict(PAIRS, max_batch_tokens=1), together)


def test_many_pairs(exact: CrossEncoder) -> None:
    pairs = [(QUERY, f"value {i}") for i in range(2500)]
    scores = exact.predict(pairs)
    assert scores.shape == (2500,)
    assert np.array_equal(scores[2400:], exact.predict(pairs[2400:]))


def test_several_labels_give_rows(tmp_path: Path) -> None:
    folder = write_tiny_cross_encoder(tmp_path / "three", labels=3)
    model = CrossEncoder.from_pretrained(folder, precision="float32")
    assert (model.labels, model.activation) == (3, "identity")
    assert model.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    np.testing.assert_allclose(model.predict(PAIRS), expected_logits(folder, PAIRS), atol=1e-5)
    assert model.predict([]).shape == (0, 3)
    with pytest.raises(InputError, match=r"rank needs a model with one label: three has 3 \(LABEL"):
        model.rank(QUERY, DOCUMENTS)


def test_no_pairs(exact: CrossEncoder) -> None:
    assert exact.predict([]).shape == (0,)
    assert exact.rank(QUERY, []) == []


def test_large_logits_neither_overflow_nor_tie(tmp_path: Path) -> None:
    folder = write_tiny_cross_encoder(tmp_path / "sure")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"] *= 1000
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = CrossEncoder.from_pretrained(folder, precision="float32")
    logits = model.predict(PAIRS, activation="identity")
    assert [r.index for r in model.rank(QUERY, DOCUMENTS)] == np.argsort(-logits).tolist()
    scores = model.predict(PAIRS)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


# --- Order ----------------------------------------------------------------------------------------
def test_rank_puts_the_best_first(exact: CrossEncoder) -> None:
    scores = exact.predict(PAIRS)
    ranked = exact.rank(QUERY, DOCUMENTS)
    assert [r.index for r in ranked] == np.argsort(-scores).tolist()
    best = ranked[0]
    assert best == Ranked(best.index, float(scores[best.index]), DOCUMENTS[best.index])
    assert exact.rank(QUERY, DOCUMENTS, top_k=2) == ranked[:2]
    assert exact.rank(QUERY, DOCUMENTS, top_k=99) == ranked


def test_equal_documents_keep_their_order(exact: CrossEncoder) -> None:
    ranked = exact.rank(QUERY, ["same", "same", "same"])
    assert [r.index for r in ranked] == [0, 1, 2]


# --- What does not fit ----------------------------------------------------------------------------
def test_the_document_is_cut_and_the_query_is_not(exact: CrossEncoder) -> None:
    long = "key value list " * 30
    room = exact.max_seq_length - 3 - exact.tokenizer.count(QUERY)
    fitting = " ".join(long.split()[:room])
    assert exact.tokenizer.count(fitting) == room
    assert np.array_equal(exact.predict([(QUERY, long)]), exact.predict([(QUERY, fitting)]))


def test_a_query_without_room_is_named(exact: CrossEncoder) -> None:
    pairs = [(QUERY, "text")] * 1030 + [("key value " * 40, "text")]
    with pytest.raises(InputError, match=r"pair 1030 has 80 tokens of 61; shorten it"):
        exact.predict(pairs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("text", "must be a list of .*got str"),
        ((QUERY, "text"), "got two texts; put the pair in a list"),
        ([QUERY, "text", "more"], r"pairs\[0\] must be \(text, text\): got str"),
        ([(QUERY, "text"), (QUERY,)], r"pairs\[1\] must be \(text, text\): got tuple"),
        ([(QUERY, None)], "second text of pair 0 is NoneType"),
        ([(QUERY, "text"), (3, "text")], "first text of pair 1 is int"),
        ([("\ud800", "text")], "first text of pair 0 has half of a surrogate pair"),
    ],
)
def test_pairs_that_are_none(exact: CrossEncoder, pairs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        exact.predict(pairs)


def test_rankers_are_loaded_by_from_pretrained(folder: Path) -> None:
    with pytest.raises(InputError, match=r"CrossEncoder.from_pretrained\('cross-encoder/x'\)"):
        CrossEncoder("cross-encoder/x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'max_length' .use max_seq_length"):
        CrossEncoder.from_pretrained(folder, max_length=32)  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"give it Embedder.from_pretrained\('x'\)"):
        BiEncoderRanker("x")  # type: ignore[arg-type]


def test_keywords_of_sentence_transformers_name_ours(exact: CrossEncoder) -> None:
    with pytest.raises(TypeError, match=r"predict\(\) does not take 'batch_size'"):
        exact.predict(PAIRS, batch_size=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'activation_fn' .use activation"):
        exact.predict(PAIRS, activation_fn=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'return_documents' .*has its document as text"):
        exact.rank(QUERY, DOCUMENTS, return_documents=True)  # type: ignore[call-arg]


def test_arguments_outside_their_rules(exact: CrossEncoder, folder: Path) -> None:
    with pytest.raises(InputError, match="activation must be one of 'sigmoid', 'identity', or"):
        exact.predict(PAIRS, activation="softmax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top_k must be a whole number"):
        exact.rank(QUERY, DOCUMENTS, top_k=0)
    with pytest.raises(InputError, match="query must be a str: got list"):
        exact.rank([QUERY], DOCUMENTS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="documents must be a list of str: got one str"):
        exact.rank(QUERY, "text")
    with pytest.raises(InputError, match=r"documents must be a list of str: got set.*sorted"):
        exact.rank(QUERY, {"text"})
    with pytest.raises(InputError, match=r"pairs must be a list of .*got dict; .*pairs.values"):
        exact.predict({QUERY: "text"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"documents\[1\] is int"):
        exact.rank(QUERY, ["text", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="max_seq_length must be a whole number from 1 to 64"):
        CrossEncoder.from_pretrained(folder, max_seq_length=65)
    with pytest.raises(InputError, match="precision must be"):
        CrossEncoder.from_pretrained(folder, precision="int4")  # type: ignore[arg-type]


# --- What a folder says ---------------------------------------------------------------------------
SIGMOID = "torch.nn.modules.activation.Sigmoid"
IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": IDENTITY, "version": "5"}}, "identity"),
        ({"sentence_transformers": {"version": "5"}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.Identity"}, "identity"),
        (
            {
                "sentence_transformers": {"activation_fn": SIGMOID},
                "sbert_ce_default_activation_function": IDENTITY,
            },
            "sigmoid",
        ),
    ],
)
def test_the_activation_of_the_config(
    tmp_path: Path, changes: dict[str, Any], activation: str
) -> None:
    folder = write_tiny_cross_encoder(tmp_path, changes=changes)
    model = CrossEncoder.from_pretrained(folder)
    assert model.activation == activation
    explicit = model.predict(PAIRS, activation=activation)  # type: ignore[arg-type]
    assert np.array_equal(model.predict(PAIRS), explicit)


@pytest.mark.parametrize("name", ["os.system", "torch.nn.Tanh", "my.Sigmoid", "torch.nn.Sigmoid()"])
def test_another_activation_is_refused_and_not_imported(tmp_path: Path, name: str) -> None:
    changes = {"sbert_ce_default_activation_function": name}
    folder = write_tiny_cross_encoder(tmp_path, changes=changes)
    with pytest.raises(UnsupportedArchitectureError, match="never imported as code"):
        CrossEncoder.from_pretrained(folder)


def test_a_model_without_a_head(tiny_folder: Path) -> None:
    with pytest.raises(
        UnsupportedArchitectureError, match=r"tiny is an embedding model.*BiEncoderRanker"
    ):
        CrossEncoder.from_pretrained(tiny_folder)


def test_a_head_that_contradicts_the_config(tmp_path: Path) -> None:
    folder = write_tiny_cross_encoder(tmp_path, changes={"id2label": {"0": "a", "1": "b"}})
    with pytest.raises(WeightsError, match=r"'classifier.weight' must have shape \(2, 64\)"):
        CrossEncoder.from_pretrained(folder)


@pytest.mark.parametrize("changes", [{"id2label": {}}, {"id2label": None, "num_labels": 0}])
def test_no_labels(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_tiny_cross_encoder(tmp_path, changes=changes)
    with pytest.raises(ModelFolderError, match="at least one label"):
        CrossEncoder.from_pretrained(folder)


# --- By similarity --------------------------------------------------------------------------------
def test_a_ranker_is_the_kind_that_its_folder_is(
    folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    cross = Ranker.from_pretrained(folder, precision="float32", threads=1)
    assert isinstance(cross, CrossEncoder)
    assert (cross.precision, cross.threads) == ("float32", 1)
    bi = Ranker.from_pretrained(tiny_folder, precision="float32", max_seq_length=32)
    assert isinstance(bi, BiEncoderRanker)
    assert (bi.embedder.precision, bi.embedder.max_seq_length) == ("float32", 32)
    again = BiEncoderRanker.from_pretrained(tiny_folder, precision="float32", max_seq_length=32)
    assert again.rank(QUERY, DOCUMENTS) == bi.rank(QUERY, DOCUMENTS)
    write_json(
        tmp_path / "bart" / "config.json", {"model_type": "bart", "architectures": ["BartModel"]}
    )
    with pytest.raises(UnsupportedArchitectureError, match="bart is neither"):
        Ranker.from_pretrained(tmp_path / "bart")
    with pytest.raises(TypeError, match="abstract"):
        Ranker()  # type: ignore[abstract]


def test_repr_says_what_runs(exact: CrossEncoder, tiny_folder: Path) -> None:
    assert repr(exact) == (
        f"CrossEncoder('tiny-reranker', labels=1, precision='float32', isa='{exact.isa}', threads=2)"
    )
    embedder = Embedder.from_pretrained(tiny_folder)
    assert repr(BiEncoderRanker(embedder)) == f"BiEncoderRanker({embedder!r})"


def test_a_bi_encoder_ranks_by_similarity(tiny_folder: Path) -> None:
    embedder = Embedder.from_pretrained(tiny_folder, threads=2)
    ranker = BiEncoderRanker(embedder)
    vectors = embedder.encode_document(DOCUMENTS)
    scores = embedder.similarity(embedder.encode_query(QUERY), vectors)
    ranked = ranker.rank(QUERY, DOCUMENTS)
    assert [r.index for r in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [r.score for r in ranked] == [float(scores[r.index]) for r in ranked]
    assert ranker.rank(QUERY, DOCUMENTS, embeddings=vectors, top_k=3) == ranked[:3]
    assert ranker.rank(QUERY, []) == []
    assert ranker.rank(QUERY, [], embeddings=vectors[:0]) == []


def test_embeddings_of_other_documents(tiny_folder: Path) -> None:
    ranker = BiEncoderRanker(Embedder.from_pretrained(tiny_folder))
    with pytest.raises(InputError, match=r"one row for each of 2 documents: got shape \(3, 64\)"):
        ranker.rank(QUERY, ["a", "b"], embeddings=np.zeros((3, 64), np.float32))
