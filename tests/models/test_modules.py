"""Modules of sentence-transformers behind the pooling: Dense and LayerNorm, and what they change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quaver import (
    Embedder,
    ModelFolderError,
    UnsupportedArchitectureError,
    quantize,
)
from tiny_model import write_json, write_tiny_model

TEXTS = ["which file has the class", "", "text and data"]
DENSE = {
    "in_features": 128,
    "out_features": 24,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}


def add(folder: Path, kind: str, config: dict[str, Any], **tensors: np.ndarray) -> None:
    """Put a module before Normalize."""
    modules = json.loads((folder / "modules.json").read_text())
    at = len(modules) - 1
    path = f"{at}_{kind}"
    modules.insert(at, {"path": path, "type": f"sentence_transformers.models.{kind}"})
    write_json(folder / "modules.json", modules)
    write_json(folder / path / "config.json", config)
    named = {name.replace("_", "."): array.astype(np.float32) for name, array in tensors.items()}
    if not named:
        return
    save_file(named, folder / path / "model.safetensors", {"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model that pools twice, with Dense and LayerNorm before Normalize."""
    folder = write_tiny_model(tmp_path / "tiny", pooling="cls+mean", normalize=True)
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((24, 128)) / 8, rng.standard_normal(24)
    add(folder, "Dense", DENSE, linear_weight=weight, linear_bias=bias)
    gamma, beta = rng.standard_normal(24), rng.standard_normal(24)
    add(folder, "LayerNorm", {"dimension": 24}, norm_weight=gamma, norm_bias=beta)
    return folder


def by_hand(folder: Path, pooled: np.ndarray) -> np.ndarray:
    from safetensors.numpy import load_file

    dense = load_file(folder / "2_Dense/model.safetensors")
    norm = load_file(folder / "3_LayerNorm/model.safetensors")
    x = np.tanh(pooled @ dense["linear.weight"].T + dense["linear.bias"])
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = x * norm["norm.weight"] + norm["norm.bias"]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_dense_and_layer_norm(folder: Path, tmp_path: Path, precision: Any) -> None:
    plain = write_tiny_model(tmp_path / "plain", pooling="cls+mean", normalize=False)
    pooled = Embedder.from_pretrained(plain, precision=precision).encode(TEXTS)
    assert pooled.shape == (3, 128)
    model = Embedder.from_pretrained(folder, precision=precision)
    assert model.dimension == 24
    # Sums of 128 products in float32, in another order.
    np.testing.assert_allclose(model.encode(TEXTS), by_hand(folder, pooled), atol=2e-5)
    assert model.encode(TEXTS, truncate_dim=24).shape == (3, 24)


def test_a_vector_of_zeros_stays_one_when_it_is_normalized_early(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", normalize=True)
    none = {**DENSE, "out_features": 8, "bias": False}
    add(folder, "Dense", none, linear_weight=np.zeros((8, 64)))
    add(folder, "Normalize", {})
    plain = {"activation_function": "torch.nn.modules.linear.Identity", "bias": False}
    add(folder, "Dense", {"out_features": 8, **plain}, linear_weight=np.eye(8))
    assert not Embedder.from_pretrained(folder).encode(TEXTS).any()


def test_joined_poolings_have_their_own_dimension(tmp_path: Path) -> None:
    model = Embedder.from_pretrained(write_tiny_model(tmp_path, pooling="cls+mean"))
    assert model.dimension == 128 == model.encode(TEXTS).shape[1]
    assert model.encode(TEXTS, truncate_dim=100).shape == (3, 100)


def test_a_quantized_folder_keeps_the_modules(folder: Path, tmp_path: Path) -> None:
    quantize(folder, tmp_path / "int8")
    expected = Embedder.from_pretrained(folder).encode(TEXTS)
    got = Embedder.from_pretrained(tmp_path / "int8").encode(TEXTS)
    # The embedding table of the folder is in half precision.
    np.testing.assert_allclose(got, expected, atol=0.02)
    assert (got * expected).sum(axis=1).min() > 0.999


def test_other_weights_are_another_model(folder: Path) -> None:
    before = Embedder.from_pretrained(folder).fingerprint
    path = folder / "2_Dense/model.safetensors"
    save_file({"linear.weight": np.zeros((24, 128), np.float32)}, path, {"format": "pt"})
    config = {**DENSE, "bias": False}
    write_json(folder / "2_Dense/config.json", config)
    assert Embedder.from_pretrained(folder).fingerprint != before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"out_features": None}, ModelFolderError, "must have out_features"),
        (
            {"activation_function": "os.system"},
            UnsupportedArchitectureError,
            "activation_function='os.system'; supported: Tanh",
        ),
        (
            {"module_input_name": "token_embeddings"},
            UnsupportedArchitectureError,
            "module_input_name='token_embeddings'; supported is 'sentence_embedding'",
        ),
    ],
)
def test_what_a_module_must_say(
    folder: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_json(folder / "2_Dense/config.json", {**DENSE, **changes})
    with pytest.raises(error, match=message):
        Embedder.from_pretrained(folder)


def test_a_module_without_a_config(folder: Path) -> None:
    (folder / "2_Dense/config.json").unlink()
    with pytest.raises(ModelFolderError, match="names a Dense module, but there is no"):
        Embedder.from_pretrained(folder)
