"""Folders of sentence-transformers' modules, as that library wrote them and with what it computed from them.

tests/golden/folders holds tiny random models: `tools/module_folders.py --golden`.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver import (
    CrossEncoder,
    Embedder,
    ModelFolderError,
    Ranker,
    UnsupportedArchitectureError,
    quantize,
)
from tiny_model import write_json, write_tiny_cross_encoder, write_tiny_model

GOLDEN = Path(__file__).parents[1] / "golden" / "folders"
QUERY = "which file has the class"
TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
]
PAIRS = [(QUERY, text) for text in TEXTS]
# Sums in float32 in another order.
TOLERANCE = 1e-5
SCORERS = ["ettin-reranker", "gte-reranker-modernbert", "labels-with-prompt"]


def unpacked(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Unpack a golden folder; return it with what is expected of it."""
    with zipfile.ZipFile(GOLDEN / f"{name}.zip") as packed:
        packed.extractall(folder / name)
    expected = json.loads((folder / name / "expected.json").read_text(encoding="utf-8"))
    return folder / name, {key: np.asarray(values, np.float32) for key, values in expected.items()}


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, {**value, **changes})


@pytest.mark.parametrize("name", SCORERS)
def test_a_reranker_scores_as_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked(name, tmp_path)
    model = CrossEncoder.from_pretrained(folder, precision="float32")
    np.testing.assert_allclose(model.predict(PAIRS), expected["scores"], atol=TOLERANCE)
    logits = model.predict(PAIRS, activation="identity")
    np.testing.assert_allclose(logits, expected["logits"], atol=TOLERANCE)
    assert model.labels == (1 if logits.ndim == 1 else logits.shape[1])


@pytest.mark.parametrize("name", SCORERS)
def test_a_score_alone_has_the_same_bits(name: str, tmp_path: Path) -> None:
    model = CrossEncoder.from_pretrained(unpacked(name, tmp_path)[0])
    alone = np.concatenate([model.predict([pair]) for pair in PAIRS])
    assert np.array_equal(alone, model.predict(PAIRS))


def test_a_modular_reranker_ranks_and_keeps_its_activation(tmp_path: Path) -> None:
    folder, expected = unpacked("ettin-reranker", tmp_path)
    model = Ranker.from_pretrained(folder, precision="float32")
    assert isinstance(model, CrossEncoder)
    assert (model.labels, model.activation, model.label_names) == (1, "identity", ("LABEL_0",))
    ranked = model.rank(QUERY, TEXTS)
    assert [hit.index for hit in ranked] == np.argsort(-expected["scores"], kind="stable").tolist()


def test_the_prompt_of_a_reranker(tmp_path: Path) -> None:
    folder, expected = unpacked("labels-with-prompt", tmp_path)
    model = CrossEncoder.from_pretrained(folder, precision="float32")
    assert model.default_prompt_name == "query"
    default = model.predict(PAIRS)
    assert np.array_equal(default, model.predict(PAIRS, prompt_name="query"))
    assert np.array_equal(default, model.predict(PAIRS, prompt="query: "))
    by_hand = [(f"the text of a query: {query}", text) for query, text in PAIRS]
    assert np.array_equal(
        model.predict(by_hand, prompt=""), model.predict(PAIRS, prompt_name="long")
    )
    assert np.abs(default - model.predict(PAIRS, prompt="")).max() > 1e-3
    np.testing.assert_allclose(default, expected["scores"], atol=TOLERANCE)


def test_a_dense_behind_a_normalize_and_a_dropout(tmp_path: Path) -> None:
    folder, expected = unpacked("normalized-early", tmp_path)
    model = Embedder.from_pretrained(folder, precision="float32")
    assert (model.dimension, model.normalize, model.similarity_fn_name) == (12, False, "euclidean")
    vectors = model.encode(TEXTS)
    np.testing.assert_allclose(vectors, expected["vectors"], atol=TOLERANCE)
    np.testing.assert_allclose(model.encode_query(TEXTS), expected["queries"], atol=TOLERANCE)
    got = model.similarity(vectors, vectors)
    np.testing.assert_allclose(got, expected["similarity"], atol=TOLERANCE)
    pairs = model.similarity_pairwise(vectors, vectors[::-1])
    np.testing.assert_allclose(pairs, np.diag(expected["similarity"][:, ::-1]), atol=TOLERANCE)


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_a_modular_reranker_in_int8(scheme: Any, tmp_path: Path) -> None:
    folder, expected = unpacked("ettin-reranker", tmp_path)
    calibration = [f"{QUERY} {text}" for text in TEXTS] if scheme == "static" else None
    quantize(folder, tmp_path / "int8", scheme=scheme, calibration=calibration, samples=5)
    model = CrossEncoder.from_pretrained(tmp_path / "int8")
    assert (model.precision, model.activation) == ("int8", "identity")
    assert "quaver.CrossEncoder" in (tmp_path / "int8/README.md").read_text()
    ignored = json.loads((tmp_path / "int8/config.json").read_text())["quantization_config"]
    assert not any("modules" in pattern for pattern in ignored["ignore"])
    scores = model.predict(PAIRS)
    # int8 of a random model: the order of magnitude tells a wrong layer from rounding.
    assert np.abs(scores - expected["scores"]).max() < 0.2 * np.abs(expected["scores"]).max()
    assert np.corrcoef(scores, expected["scores"])[0, 1] > 0.99


# --- Refusals -------------------------------------------------------------------------------------
def test_each_class_names_the_one_that_opens_the_folder(tmp_path: Path) -> None:
    modular = unpacked("ettin-reranker", tmp_path)[0]
    with pytest.raises(UnsupportedArchitectureError, match=r"open it with CrossEncoder\.from_pret"):
        Embedder.from_pretrained(modular)
    with pytest.raises(UnsupportedArchitectureError, match=r"open it with CrossEncoder\.from_pret"):
        Embedder.from_pretrained(write_tiny_cross_encoder(tmp_path / "plain"))
    with pytest.raises(UnsupportedArchitectureError, match=r"with Embedder\.from_pretrained"):
        CrossEncoder.from_pretrained(unpacked("normalized-early", tmp_path)[0])


@pytest.mark.parametrize(
    ("modules", "settings", "kind"),
    [
        (["sentence_transformers.sparse_encoder.modules.MLMTransformer"], {}, "a sparse encoder"),
        (
            [
                "sentence_transformers.models.Transformer",
                "sentence_transformers.sparse_encoder.models.SpladePooling",
            ],
            {},
            "a sparse encoder",
        ),
        (
            ["sentence_transformers.models.Transformer"],
            {"model_type": "SparseEncoder"},
            "a sparse encoder",
        ),
        (
            ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"],
            {},
            "a multi-vector model",
        ),
        (
            ["a.Transformer", "a.Dense"],
            {"model_type": "MultiVectorEncoder"},
            "a multi-vector model",
        ),
        (
            [
                "sentence_transformers.base.modules.transformer.Transformer",
                "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
            ],
            {"model_type": "CrossEncoder"},
            "a reranker that reads its score from a language model's words",
        ),
    ],
)
def test_kinds_that_come_later(
    modules: list[str], settings: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    folder = write_tiny_model(tmp_path / "other")
    entries = [{"path": f"{i}_x" if i else "", "type": kind} for i, kind in enumerate(modules)]
    write_json(folder / "modules.json", entries)
    write_json(folder / "config_sentence_transformers.json", settings)
    for opens in (Embedder, CrossEncoder, Ranker):
        with pytest.raises(
            UnsupportedArchitectureError, match=f"{kind}, which Quaver does not run yet"
        ) as caught:
            opens.from_pretrained(folder)  # type: ignore[attr-defined]
        assert str(caught.value).count("does not run yet") == 1


@pytest.mark.parametrize(
    ("path", "changes", "error", "message"),
    [
        ("4_Dense", {"use_residual": True}, UnsupportedArchitectureError, "use_residual=true"),
        ("4_Dense", {"out_features": 2**20}, UnsupportedArchitectureError, "up to 65536"),
        (
            "4_Dense",
            {"module_input_name": "token_embeddings"},
            UnsupportedArchitectureError,
            "module_input_name='token_embeddings'; supported is 'sentence_embedding'",
        ),
        (
            "4_Dense",
            {"module_output_name": "sparse"},
            UnsupportedArchitectureError,
            "writes 'sparse'; supported are",
        ),
        (
            "2_Dense",
            {"module_output_name": "scores"},
            UnsupportedArchitectureError,
            "module_input_name='sentence_embedding'; supported is 'scores'",
        ),
        (
            "",
            {"transformer_task": "text-generation"},
            UnsupportedArchitectureError,
            "text-generation",
        ),
        ("", {"transformer_task": "fill-mask"}, UnsupportedArchitectureError, "a sparse encoder"),
        (
            "",
            {"modality_config": {"text": {"method_output_name": ["hidden_states", -2]}}},
            UnsupportedArchitectureError,
            r"reads \['hidden_states', -2\]",
        ),
        (
            "",
            {"modality_config": {"message": {}, "text": {}}},
            UnsupportedArchitectureError,
            "a chat template",
        ),
        (
            "4_Dense",
            {"use_residual": "yes"},
            ModelFolderError,
            "use_residual must be true or false",
        ),
    ],
)
def test_options_that_would_change_the_scores(
    path: str, changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder, _ = unpacked("ettin-reranker", tmp_path)
    name = f"{path}/config.json" if path else "sentence_bert_config.json"
    edit(folder / name, **changes)
    with pytest.raises(error, match=message):
        CrossEncoder.from_pretrained(folder)


def test_an_activation_is_never_imported(tmp_path: Path) -> None:
    folder, _ = unpacked("ettin-reranker", tmp_path)
    edit(folder / "config_sentence_transformers.json", activation_fn="os.system")
    with pytest.raises(UnsupportedArchitectureError, match="never imported"):
        CrossEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["sentence_roberta_config.json", "sentence_distilbert_config.json"]
)
def test_old_names_of_the_text_settings(name: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "old")
    (folder / "sentence_bert_config.json").rename(folder / name)
    write_json(folder / name, {"max_seq_length": 21, "do_lower_case": False})
    assert Embedder.from_pretrained(folder).max_seq_length == 21
