"""Folders with weights in four bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quaver
from quaver.errors import (
    InputError,
    QuantizationError,
    UnsupportedArchitectureError,
    WeightsError,
)
from quaver.models.linear import (
    LinearWeights,
    equal_groups,
    packed_int4,
    quantize_weight,
    ranges_of_inputs,
    unpacked_int4,
)
from tiny_model import (
    WORDS,
    write_json,
    write_tiny_decoder,
    write_tiny_embedding_gemma2,
    write_tiny_model,
)

TEXTS = [" ".join(WORDS[i : i + 3 + i % 9]) for i in range(0, 100, 2)]
QUERY = "layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_decoder(tmp_path_factory.mktemp("source") / "decoder", wide=5)


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("target") / "int4"
    quaver.quantize(source, target, scheme="int4")
    return target


def encoded(folder: Path, precision: Any = "int8") -> np.ndarray:
    return np.asarray(quaver.Embedder.from_pretrained(folder, precision=precision).encode(TEXTS))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.astype(np.float64) * b).sum(axis=1).mean())


def test_packing_is_that_of_compressed_tensors() -> None:
    weight = np.array([[-8, -7, -1, 0, 1, 2, 6, 7]], np.int8)
    assert packed_int4(weight).tolist() == [[-(0x100000000 - 0xFEA98710)]]
    drawn = np.random.default_rng(0).integers(-8, 8, (5, 64)).astype(np.int8)
    assert np.array_equal(unpacked_int4(packed_int4(drawn)), drawn)


def test_what_is_written(source: Path, folder: Path) -> None:
    before, tensors = (
        load_file(source / "model.safetensors"),
        load_file(folder / "model.safetensors"),
    )
    assert f"{QUERY}.weight" not in tensors
    assert tensors[f"{QUERY}.weight_packed"].dtype == np.int32
    assert tensors[f"{QUERY}.weight_packed"].shape == (128, 32)
    assert tensors[f"{QUERY}.weight_shape"].tolist() == [128, 256]
    scale = tensors[f"{QUERY}.weight_scale"]
    assert (scale.dtype, scale.shape) == (np.float32, (128, 8))
    restored = unpacked_int4(tensors[f"{QUERY}.weight_packed"]) * np.repeat(scale, 32, axis=1)
    restored *= tensors[
        "layers.0.input_layernorm.weight"
    ]  # factors moved from there, where it was 1
    error = np.abs(restored - before[f"{QUERY}.weight"])
    assert np.square(error).mean() < 0.01 * np.square(before[f"{QUERY}.weight"]).mean()
    assert tensors["embed_tokens.weight"].dtype == np.float16
    assert np.array_equal(tensors["norm.weight"], before["norm.weight"])
    described = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert described["format"] == "pack-quantized"
    (group,) = described["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, 32)
    assert len(group["targets"]) == 14
    card = (folder / "README.md").read_text()
    assert "- int4" in card
    assert "pack-quantized" in card


def test_the_engine_computes_what_the_weights_say(source: Path, folder: Path) -> None:
    exact, rounded = encoded(source, "float32"), encoded(folder, "float32")
    assert 0.9 < cosine(exact, rounded) < 0.9999
    # Activations in eight bits cost little beside the weights, though five channels are wide.
    assert cosine(encoded(folder), rounded) > 0.999


def test_a_call_has_the_same_bits_alone(folder: Path) -> None:
    model = quaver.Embedder.from_pretrained(folder)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    assert np.array_equal(alone, model.encode(TEXTS))


def test_wide_features_have_a_range_of_their_own(
    source: Path, folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert len(set(config["quaver"]["wide_features"])) == 64
    other = tmp_path / "other"
    quaver.quantize(source, other, scheme="int4")
    write_json(other / "config.json", {k: v for k, v in config.items() if k != "quaver"})
    apart, together = encoded(folder), encoded(other)
    assert not np.array_equal(apart, together)
    assert cosine(apart, together) > 0.999


@pytest.mark.slow
def test_gptq_loses_less_than_rounding_to_nearest(source: Path, tmp_path: Path) -> None:
    report = quaver.quantize(
        source, tmp_path / "gptq", scheme="int4", calibration=TEXTS, samples=40
    )
    assert [layer.precision for layer in report.layers] == ["int4"] * 8
    nearest = quaver.quantize(
        source,
        tmp_path / "nearest",
        scheme="int4",
        calibration=TEXTS,
        samples=40,
        rounding="nearest",
    )
    assert report.loss is not None
    assert nearest.loss is not None
    assert report.loss < 0.7 * nearest.loss


@pytest.mark.slow
def test_groups_and_a_bound(source: Path, tmp_path: Path) -> None:
    losses = {}
    for size in (32, 128):
        losses[size] = quaver.quantize(
            source,
            tmp_path / str(size),
            scheme="int4",
            group_size=size,
            calibration=TEXTS,
            samples=40,
            rounding="nearest",
        ).loss
        encoded(tmp_path / str(size))
    assert losses[32] < losses[128]
    kept = quaver.quantize(
        source, tmp_path / "kept", scheme="int4", calibration=TEXTS, samples=40, max_loss=0.000001
    )
    assert len(kept.kept) > 0
    assert cosine(encoded(source, "float32"), encoded(tmp_path / "kept")) > 0.999


def test_an_encoder(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", hidden=64)
    quaver.quantize(source, tmp_path / "int4", scheme="int4")
    rounded = encoded(tmp_path / "int4", "float32")
    assert cosine(encoded(source, "float32"), rounded) > 0.95
    assert cosine(encoded(tmp_path / "int4"), rounded) > 0.998


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group_size": 16}, InputError, "group_size must be one of 32, 64, 128: got 16"),
        ({"words": "int8"}, InputError, "word embeddings of an int4 folder must be float16"),
    ],
)
def test_arguments_that_do_not_fit(
    source: Path, tmp_path: Path, options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        quaver.quantize(source, tmp_path / "int4", scheme="int4", **options)


def test_inputs_that_groups_do_not_divide(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", hidden=48)
    with pytest.raises(
        QuantizationError, match="multiple of group_size=32: source has a layer of 48"
    ):
        quaver.quantize(source, tmp_path / "int4", scheme="int4")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight_packed", np.zeros((128, 32), np.int64), "must hold int32"),
        ("weight_packed", np.zeros((128, 31), np.int32), r"must have shape \(128, 32\)"),
        ("weight_scale", np.ones((128, 16), np.float32), "32, 64 or 128 of 256 inputs"),
        ("weight_scale", np.zeros((128, 8), np.float32), "positive scales"),
        ("weight_shape", np.array([128, 255]), r"must be \[128, 256\] by config.json"),
        ("weight_zero_point", np.zeros((16, 8), np.int32), "must be symmetric"),
        ("weight_g_idx", np.zeros(256, np.int32), "side by side"),
    ],
)
def test_a_damaged_layer(
    source: Path, tmp_path: Path, name: str, value: np.ndarray, message: str
) -> None:
    quaver.quantize(source, tmp_path / "int4", scheme="int4")
    tensors = load_file(tmp_path / "int4/model.safetensors")
    tensors[f"{QUERY}.{name}"] = value
    save_file(tensors, tmp_path / "int4/model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=message):
        quaver.Embedder.from_pretrained(tmp_path / "int4")


@pytest.mark.parametrize("change", [{"group_size": 16}, {"symmetric": False}, {"num_bits": 8}])
def test_other_forms_of_four_bits_are_refused(
    source: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    quaver.quantize(source, tmp_path / "int4", scheme="int4")
    config = json.loads((tmp_path / "int4/config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"].update(change)
    write_json(tmp_path / "int4/config.json", config)
    with pytest.raises(UnsupportedArchitectureError, match=r"quantization_config=.*supported"):
        quaver.Embedder.from_pretrained(tmp_path / "int4")


def test_ranges_of_inputs() -> None:
    assert ranges_of_inputs(192, 32) == ()
    assert ranges_of_inputs(512, 32) == (192, 384, 512)
    assert ranges_of_inputs(3072, 32) == tuple(range(384, 3073, 384))
    assert ranges_of_inputs(4864, 128)[-2:] == (4480, 4864)


@pytest.mark.parametrize("wide", [0, 5])
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 0.999),
        ({"calibration": TEXTS, "samples": 50}, 0.999),
        ({"scheme": "static", "calibration": TEXTS, "samples": 50}, 0.97),
        ({"scheme": "int4"}, 0.96),
    ],
)
def test_a_folder_of_embedding_gemma_2(
    options: dict[str, Any], least: float, wide: int, tmp_path: Path
) -> None:
    source = write_tiny_embedding_gemma2(tmp_path / "source", wide=wide)
    quaver.quantize(source, tmp_path / "target", **options)
    truth = encoded(source, "float32")
    int8 = encoded(tmp_path / "target")
    assert cosine(int8, truth) > least
    # In float32 only the weights are rounded.
    assert cosine(encoded(tmp_path / "target", "float32"), truth) > least
    tensors = load_file(tmp_path / "target" / "model.safetensors")
    projection = "language_model.ple.per_layer_model_projection.weight"
    assert tensors[projection].dtype == np.float16
    assert tensors["language_model.embedding_projection.weight"].dtype == np.float32
    config = json.loads((tmp_path / "target" / "config.json").read_text(encoding="utf-8"))
    described = config["quantization_config"]
    targets = [t for group in described["config_groups"].values() for t in group["targets"]]
    # Towers of pictures and sounds may have layers of the same names.
    assert targets
    assert all(target.startswith(r"re:(.*\.)?language_model\.") for target in targets)
    assert r"re:(.*\.)?language_model\.embedding_projection$" in described["ignore"]


@pytest.mark.parametrize(("wide", "dtype"), [(0, np.int8), (5, np.float16)])
def test_word_embeddings_with_wide_features_stay_in_floats(
    wide: int, dtype: Any, tmp_path: Path
) -> None:
    source = write_tiny_decoder(tmp_path / "source", wide=wide)
    quaver.quantize(source, tmp_path / "target")
    tensors = load_file(tmp_path / "target" / "model.safetensors")
    assert tensors["embed_tokens.weight"].dtype == dtype
    assert cosine(encoded(tmp_path / "target"), encoded(source, "float32")) > 0.999
    if wide:  # in eight bits 0.966
        quaver.quantize(source, tmp_path / "int8", words="int8")
        assert cosine(encoded(tmp_path / "int8"), encoded(source, "float32")) < 0.98


def test_four_bits_of_any_shape() -> None:
    """Scales are those that lose least, whatever the blocks that they are computed in."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((70, 1056), np.float32)  # several blocks of rows
    weight[3] = 0
    power = np.exp(rng.standard_normal(1056))
    linear = LinearWeights(weight, np.zeros(70, np.float32))
    for size in (32, 64, 128):  # 1,056 inputs end with a shorter group of 32
        groups = equal_groups(1056, size)
        found = quantize_weight(linear, groups=groups, bits=4, power=power)
        plain = quantize_weight(linear, groups=groups, bits=4)
        assert found.scale.shape == plain.scale.shape == (70, len(groups))
        for group, columns in enumerate(found.slices):
            w, p = weight[:, columns].astype(np.float64), power[columns]
            largest = np.abs(w).max(axis=1)
            np.testing.assert_allclose(
                plain.scale[:, group], np.where(largest > 0, largest / 7, 1), rtol=1e-6
            )

            def loss(scale: np.ndarray, w: np.ndarray = w, p: np.ndarray = p) -> np.ndarray:
                q = np.clip(np.rint(w / scale[:, None]), -8, 7)
                return np.asarray(np.square(w - q * scale[:, None]) @ p)

            tried = [loss(plain.scale[:, group] * f) for f in np.linspace(0.7, 1, 13)]
            np.testing.assert_allclose(
                loss(found.scale[:, group].astype(np.float64)), np.min(tried, axis=0), rtol=1e-3
            )
    assert not found.weight[3].any()
