"""Quantizing sparse encoders and multi-vector models: what is written, that it loads, and how near it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import quaver
from golden_folders import unpacked
from quaver import CrossEncoder, Embedder, MultiVectorEncoder, SparseEncoder
from quaver.errors import (
    InputError,
    PoolingError,
    UnsupportedArchitectureError,
    WeightsError,
)
from tiny_model import WORDS

TEXTS = [" ".join(WORDS[i : i + 3 + i % 9]) for i in range(0, 100, 2)]
SPARSE = ["splade-bert", "splade-distilbert", "splade-modernbert", "splade-xlm-roberta"]
MULTI = ["colbert", "colbert-modernbert", "colbert-pylate", "colbert-stanford"]


def cosines(a: Any, b: Any) -> Any:
    """Return the cosine of each row; 1 where both are zero."""
    left, right = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    found = np.einsum("nd,nd->n", a, b) / np.maximum(left * right, 1e-30)
    return np.where((left == 0) & (right == 0), 1, found)


def masked_lm_alone(folder: Path) -> Path:
    """Leave the masked language model of a sparse encoder without modules.json."""
    for path in (*folder.glob("*sentence*"), folder / "modules.json"):
        path.unlink()
    return folder


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_encoder(name: str, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    report = quaver.quantize(folder, tmp_path / "int8")
    assert {layer.precision for layer in report.layers} == {"dynamic"}
    assert "quaver.SparseEncoder" in (tmp_path / "int8/README.md").read_text()
    model, source = SparseEncoder.from_pretrained(tmp_path / "int8"), SparseEncoder.from_pretrained
    assert model.precision == "int8"
    exact, loaded = source(folder, precision="float32"), source(folder)
    for method in ("encode_document", "encode_query"):
        found = getattr(model, method)(TEXTS).to_dense()
        assert cosines(found, getattr(exact, method)(TEXTS).to_dense()).min() > 0.97
        # Quantized while loading, the table of words stays in floats below the layers.
        assert cosines(found, getattr(loaded, method)(TEXTS).to_dense()).mean() > 0.995
    assert model.queries_without_model == exact.queries_without_model
    assert model.max_active_dims == exact.max_active_dims
    assert model.prompts == exact.prompts


@pytest.mark.parametrize("name", MULTI)
def test_a_multi_vector_model(name: str, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    quaver.quantize(folder, tmp_path / "int8")
    assert "quaver.MultiVectorEncoder" in (tmp_path / "int8/README.md").read_text()
    model = MultiVectorEncoder.from_pretrained(tmp_path / "int8")
    exact = MultiVectorEncoder.from_pretrained(folder, precision="float32")
    assert model.precision == "int8"
    for method in ("encode_document", "encode_query"):
        found, wanted = getattr(model, method)(TEXTS), getattr(exact, method)(TEXTS)
        assert np.array_equal(found.offsets, wanted.offsets)
        assert cosines(found.vectors, wanted.vectors).mean() > 0.99
    scores = [m.similarity(m.encode_query(TEXTS), m.encode_document(TEXTS)) for m in (model, exact)]
    assert np.abs(scores[0] - scores[1]).max() < 0.03 * np.abs(scores[1]).max()
    projections = load_file(tmp_path / "int8/model.safetensors")
    inline = projections.get("linear.weight")
    assert inline is None or inline.dtype == np.float32


@pytest.mark.parametrize("name", ["splade-bert", "colbert", "colbert-stanford"])
def test_calibration_measures_the_models_own_vectors(name: str, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    options = {"calibration": TEXTS, "samples": 40}
    report = quaver.quantize(folder, tmp_path / "int8", **options)
    assert report.loss is not None
    assert 0 < report.loss < 0.02
    bound = report.loss / 3
    kept = quaver.quantize(folder, tmp_path / "kept", **options, max_loss=bound)
    assert kept.loss is not None
    assert kept.loss <= bound
    assert kept.kept
    opens = SparseEncoder if name.startswith("splade") else MultiVectorEncoder
    opens.from_pretrained(tmp_path / "kept")


def test_a_masked_language_model_alone_is_a_sparse_encoder(tmp_path: Path) -> None:
    folder = masked_lm_alone(unpacked("splade-modernbert", tmp_path))
    quaver.quantize(folder, tmp_path / "int8")
    exact = SparseEncoder.from_pretrained(folder, precision="float32").encode(TEXTS).to_dense()
    found = SparseEncoder.from_pretrained(tmp_path / "int8").encode(TEXTS).to_dense()
    assert cosines(found, exact).min() > 0.97
    with pytest.raises(PoolingError, match="if it is a sparse encoder, open it with SparseEncoder"):
        Embedder.from_pretrained(tmp_path / "int8")
    # With a pooling it is an encoder, as before; the same folder serves both.
    quaver.quantize(folder, tmp_path / "pooled", pooling="mean")
    assert "quaver.Embedder" in (tmp_path / "pooled/README.md").read_text()
    Embedder.from_pretrained(tmp_path / "pooled", pooling="mean")


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = unpacked("splade-bert", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if n.endswith("word_embeddings.weight"))
    tensors["cls.predictions.decoder.weight"] = tensors[name][:, ::-1].copy()
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    quaver.quantize(folder, tmp_path / "int8")
    exact = SparseEncoder.from_pretrained(folder, precision="float32").encode(TEXTS).to_dense()
    found = SparseEncoder.from_pretrained(tmp_path / "int8").encode(TEXTS).to_dense()
    assert cosines(found, exact).min() > 0.97


def test_a_head_that_is_missing_and_is_not_the_word_embeddings(tmp_path: Path) -> None:
    folder = unpacked("splade-bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(
        WeightsError, match=r"decoder\.weight, because .* tie_word_embeddings=false"
    ):
        SparseEncoder.from_pretrained(folder)
    with pytest.raises(WeightsError, match="tie_word_embeddings=false"):
        quaver.quantize(folder, tmp_path / "int8")


def test_what_is_refused(tmp_path: Path) -> None:
    sparse, multi = unpacked("splade-bert", tmp_path), unpacked("colbert", tmp_path)
    for folder, kind in ((sparse, "a sparse encoder"), (multi, "a multi-vector model")):
        with pytest.raises(InputError, match=f"pooling is for models with one vector.*{kind}"):
            quaver.quantize(folder, tmp_path / "int8", pooling="mean")
    quaver.quantize(sparse, tmp_path / "int8")
    quaver.quantize(multi, tmp_path / "int8-multi")
    for opens in (Embedder, CrossEncoder, MultiVectorEncoder):
        with pytest.raises(UnsupportedArchitectureError, match="open it with SparseEncoder"):
            opens.from_pretrained(tmp_path / "int8")  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedArchitectureError, match="open it with MultiVectorEncoder"):
        SparseEncoder.from_pretrained(tmp_path / "int8-multi")
    with pytest.raises(quaver.QuantizationError, match="quantized already"):
        quaver.quantize(tmp_path / "int8", tmp_path / "again")
    shutil.rmtree(sparse / "1_SpladePooling")
    edited = json.loads((sparse / "config.json").read_text())
    (sparse / "config.json").write_text(json.dumps({**edited, "model_type": "qwen2"}))
    with pytest.raises(UnsupportedArchitectureError):
        quaver.quantize(sparse, tmp_path / "third")
