"""Quantizing a folder: what is written, that it loads, and everything that must end in an error."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quaver
from quaver.engine.engine import Engine
from quaver.errors import (
    CalibrationError,
    InputError,
    PoolingError,
    QuantizationError,
    UnsupportedArchitectureError,
    WeightsError,
)
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.folder import ModelFolder
from quaver.models.linear import QuantizedLinear, dequantized
from quaver.models.quantization_config import is_quantized
from quaver.quantization.convert import convert, linear_places
from quaver.quantization.folder import Words, quantized_tensors
from tiny_model import (
    WORDS,
    tiny_config,
    tiny_tensors,
    tiny_vocabulary,
    write_json,
    write_tiny_cross_encoder,
    write_tiny_model,
)

TEXTS = [" ".join(WORDS[i : i + 3 + i % 9]) for i in range(0, 100, 2)]
GOLDEN = Path(__file__).parents[1] / "golden"
QUERY = "encoder.layer.0.attention.self.query"


def quantize(source: Path, target: Path, **options: Any) -> quaver.QuantizationReport:
    return quaver.quantize(source, target, **{"samples": 40, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a.astype(np.float64) * b).sum(axis=1))


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> np.ndarray:
    model = quaver.Embedder.from_pretrained(tiny_folder, precision="float32", threads=1)
    return np.asarray(model.encode(TEXTS))


# --- What is written ------------------------------------------------------------------------------
def test_a_dynamic_folder(tiny_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "int8"
    report = quantize(tiny_folder, target)
    assert (report.scheme, report.rounding, report.calibration) == ("dynamic", "nearest", None)
    assert [layer.precision for layer in report.layers] == ["dynamic"] * 8
    assert report.layers[0].name == "encoder.layer.0.attention.self.query+key+value"
    source, tensors = (
        load_file(tiny_folder / "model.safetensors"),
        load_file(target / "model.safetensors"),
    )
    weight = source[f"{QUERY}.weight"]
    scale, zero = (tensors[f"{QUERY}.weight_{name}"] for name in ("scale", "zero_point"))
    assert (scale.shape, zero.shape, zero.dtype) == ((64, 1), (64, 1), np.int8)
    # The least scale spreads a row over 256 steps; one at most 15 % larger may lose less.
    least = (weight.max(axis=1).clip(0) - weight.min(axis=1).clip(max=0)) / 255
    assert np.all((scale[:, 0] >= least * 0.999) & (scale[:, 0] <= least * 1.151))
    restored = (tensors[f"{QUERY}.weight"].astype(np.float32) - zero) * scale
    assert np.abs(restored - weight).max() <= 1.001 * scale.max()
    assert np.square(restored - weight).mean() <= 1.1 * np.square(scale).mean() / 12
    assert "encoder.layer.0.attention.output.dense.weight_zero_point" not in tensors
    assert f"{QUERY}.input_scale" not in tensors
    words = source["embeddings.word_embeddings.weight"]
    step = np.abs(words).max(axis=1, keepdims=True) / np.float32(127)
    stored = tensors["embeddings.word_embeddings.weight"]
    assert np.array_equal(stored, np.rint(words / step).astype(np.int8))
    assert np.array_equal(tensors["embeddings.word_embeddings.weight_scale"], step)
    assert tensors["embeddings.position_embeddings.weight"].dtype == np.float16
    assert tensors["encoder.layer.0.output.LayerNorm.weight"].dtype == np.float32
    assert sum(t.dtype == np.int8 for t in tensors.values()) == 13 + 2 * 5
    config = json.loads((target / "config.json").read_text())
    group, symmetric, table = config["quantization_config"]["config_groups"].values()
    assert len(table["targets"]) == 1
    assert table["input_activations"] is None
    assert group["input_activations"]["strategy"] == "token"
    assert group["input_activations"]["dynamic"] is True
    assert (len(group["targets"]), len(symmetric["targets"])) == (10, 2)
    assert (group["weights"]["symmetric"], symmetric["weights"]["symmetric"]) == (False, True)
    assert is_quantized(config)
    kept = set(contents(tiny_folder)) - {"model.safetensors", "config.json"}
    assert all((target / name).read_bytes() == (tiny_folder / name).read_bytes() for name in kept)
    card = (target / "README.md").read_text()
    assert "| Scheme | dynamic" in card
    assert "quaver evaluate: start" in card
    assert report.target_bytes == sum(map(len, contents(target).values()))
    assert (target / "model.safetensors").stat().st_mode & 0o444 == 0o444


def test_a_folder_with_wide_features_and_groups(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", hidden=256)
    quantize(source, tmp_path / "int8")
    config = json.loads((tmp_path / "int8/config.json").read_text())
    wide = config["quaver"]["wide_features"]
    assert len(set(wide)) == 64
    # transformers restores every weight of a folder with the first group's size.
    groups = list(config["quantization_config"]["config_groups"].values())
    assert [group["weights"].get("group_size") for group in groups] == [256, None, None, None]
    tensors = load_file(tmp_path / "int8/model.safetensors")
    down = "encoder.layer.0.output.dense.weight"
    assert tensors[f"{down}_scale"].shape == tensors[f"{down}_zero_point"].shape == (256, 4)
    folder = ModelFolder.open(tmp_path / "int8")
    spec = folder.encoder_spec()
    made = convert(spec, encoder_weights(spec, load_file(source / "model.safetensors"))).quantized
    stored = encoder_weights(spec, folder.tensors())
    assert made.wide is not None
    assert made.wide.tolist() == wide
    for (place, ours), (_, theirs) in zip(linear_places(made), linear_places(stored), strict=True):
        assert isinstance(ours, QuantizedLinear)
        assert isinstance(theirs, QuantizedLinear)
        assert ours.groups == theirs.groups
        assert np.array_equal(dequantized(ours).weight, dequantized(theirs).weight), place
    model = quaver.Embedder.from_pretrained(tmp_path / "int8", threads=1)
    assert model.precision == "int8"
    # The same vectors as the engine that quantizes the same tables itself.
    engine = Engine(replace(spec, normalize=False), replace(stored, wide=made.wide), precision=None)
    got = engine.encode(model.tokenizer.encode(TEXTS))
    got /= np.linalg.norm(got, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS), got, atol=1e-6)


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_a_folder_of_an_earlier_version(scheme: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(GOLDEN / f"old-int8-{scheme}.zip") as archive:
        archive.extractall(tmp_path)
    folder = ModelFolder.open(tmp_path)
    weights = encoder_weights(folder.encoder_spec(), folder.tensors())
    assert weights.wide is None
    for _, linear in linear_places(weights):
        assert isinstance(linear, QuantizedLinear)
        assert (linear.zero, linear.groups) == (None, ())
    vectors = np.load(tmp_path / "vectors.npy")
    texts = [" ".join(WORDS[i : i + 3 + i % 9]) for i in range(0, 40, 2)]
    got = quaver.Embedder.from_pretrained(tmp_path).encode(texts)
    # The file holds the vectors of that version on AVX2; another instruction set rounds the last bits.
    assert cosines(got, vectors).min() > 0.9999
    model = quaver.Embedder.from_pretrained(tmp_path)
    if model.isa == "avx2":
        assert np.array_equal(got, vectors)


def test_a_dynamic_folder_gives_what_quantizing_on_load_gives(
    tiny_folder: Path, tmp_path: Path, exact: np.ndarray
) -> None:
    quantize(tiny_folder, tmp_path / "int8")
    stored = quaver.Embedder.from_pretrained(tmp_path / "int8", threads=1)
    on_load = quaver.Embedder.from_pretrained(tiny_folder, threads=1)
    assert stored.precision == "int8"
    assert stored.prompts == on_load.prompts
    # The same integers in the layers; the tables differ, by their rounding.
    assert cosines(stored.encode(TEXTS), on_load.encode(TEXTS)).min() > 0.999
    quantize(tiny_folder, tmp_path / "float16", words="float16")
    finer = quaver.Embedder.from_pretrained(tmp_path / "float16", threads=1)
    assert cosines(finer.encode(TEXTS), on_load.encode(TEXTS)).min() > 0.9995
    dequantized = quaver.Embedder.from_pretrained(tmp_path / "int8", precision="float32", threads=1)
    assert dequantized.precision == "float32"
    assert cosines(dequantized.encode(TEXTS), exact).min() > 0.998


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_a_static_folder(
    tiny_folder: Path, tmp_path: Path, exact: np.ndarray, observer: str
) -> None:
    report = quantize(
        tiny_folder, tmp_path / "int8", scheme="static", calibration=TEXTS, observer=observer
    )
    assert report.samples == 40
    assert report.digest is not None
    assert all(layer.error is not None and 0 < layer.error < 0.05 for layer in report.layers)
    assert {layer.precision for layer in report.layers} >= {"static"}
    tensors = load_file(tmp_path / "int8/model.safetensors")
    for name in (name for name in tensors if name.endswith(".input_scale")):
        assert tensors[name].shape == (1,)
        assert tensors[name].dtype == np.float32
        point = tensors[name.replace("input_scale", "input_zero_point")]
        assert (point.shape, point.dtype) == ((1,), np.int8)
    model = quaver.Embedder.from_pretrained(tmp_path / "int8", threads=1)
    assert cosines(model.encode(TEXTS), exact).mean() > 0.98
    assert report.loss == pytest.approx(
        1 - cosines(model.encode(TEXTS[:40]), exact[:40]).mean(), abs=5e-3
    )


def test_a_layer_with_wide_tokens_keeps_ranges_by_token(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", hidden=256)
    tensors = load_file(source / "model.safetensors")
    words = tensors["embeddings.word_embeddings.weight"]
    # In the first token of every text, as in trained encoders, one feature is wide.
    words[tiny_vocabulary().index("[CLS]"), 3] = 100 * np.abs(words).max()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    options = {
        "scheme": "static",
        "calibration": TEXTS,
        "rounding": "nearest",
        "observer": "minmax",
    }
    free = quantize(source, tmp_path / "free", **options)
    strict = quantize(source, tmp_path / "strict", strict=True, **options)
    assert {layer.precision for layer in free.layers} == {"static", "dynamic"}
    assert {layer.precision for layer in strict.layers} == {"static"}
    assert free.loss is not None
    assert strict.loss is not None
    assert free.loss < strict.loss
    config = json.loads((tmp_path / "free/config.json").read_text())
    kinds = [
        g["input_activations"] for g in config["quantization_config"]["config_groups"].values()
    ]
    assert [kind["strategy"] for kind in kinds] == ["token", "tensor"]
    # The word embeddings of a model whose features are so unequal stay in 16 bits.
    assert (
        load_file(tmp_path / "free/model.safetensors")["embeddings.word_embeddings.weight"].dtype
        == np.float16
    )
    assert "Ranges by token | `" in (tmp_path / "free/README.md").read_text()
    loaded = quaver.Embedder.from_pretrained(tmp_path / "free", threads=1)
    assert loaded.encode(TEXTS).shape == (len(TEXTS), 256)
    # These layers have the form of the dynamic scheme: wide features apart, asymmetric weights.
    assert len(config["quaver"]["wide_features"]) == 64
    folder = ModelFolder.open(tmp_path / "free")
    for (_, name), linear in linear_places(
        encoder_weights(folder.encoder_spec(), folder.tensors())
    ):
        assert isinstance(linear, QuantizedLinear)
        assert (linear.zero is None) == (linear.input is not None or name == "out")
    assert "quaver" not in json.loads((tmp_path / "strict/config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "megabytes"),
    [(384, {"float16": 46, "int8": 35}), (768, {"float16": 135, "int8": 112})],
)
def test_the_size_of_a_file_with_the_shapes_of_bge(
    hidden: int, megabytes: dict[Words, int]
) -> None:
    def sizes(layers: int) -> dict[Words, int]:
        config = tiny_config(hidden=hidden, heads=12, layers=layers, max_positions=512)
        config["vocab_size"] = 30522
        tensors = tiny_tensors(config)
        tensors["pooler.dense.weight"] = tensors["encoder.layer.0.attention.self.query.weight"]
        spec = encoder_spec(config, pooling="cls", normalize=True)
        weights = convert(spec, encoder_weights(spec, tensors)).quantized
        return {
            words: sum(t.nbytes for _, t in quantized_tensors(tensors, weights, words))
            for words in megabytes
        }

    one, two = sizes(1), sizes(2)
    for words, most in megabytes.items():
        # Tokenizer, vocabulary and the small files of bge-small-en-v1.5 take another 0.95 MB.
        assert (one[words] + 11 * (two[words] - one[words])) / 1e6 < most


def test_a_cross_encoder(tmp_path: Path) -> None:
    source = write_tiny_cross_encoder(tmp_path / "source")
    pairs = [(text, TEXTS[-i]) for i, text in enumerate(TEXTS)]
    truth = quaver.CrossEncoder.from_pretrained(source, precision="float32", threads=1)
    expected = truth.predict(pairs, activation="identity")
    for scheme, text in (("dynamic", None), ("static", TEXTS)):
        quantize(source, tmp_path / scheme, scheme=scheme, calibration=text)
        model = quaver.CrossEncoder.from_pretrained(tmp_path / scheme, threads=1)
        got = model.predict(pairs, activation="identity")
        assert np.corrcoef(got, expected)[0, 1] > 0.98
        tensors = load_file(tmp_path / scheme / "model.safetensors")
        assert (
            next(t.dtype for n, t in tensors.items() if n.endswith("classifier.weight"))
            == np.float32
        )


def test_the_same_input_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    for scheme in ("dynamic", "static"):
        for run in ("a", "b"):
            quantize(tiny_folder, tmp_path / run / scheme, scheme=scheme, calibration=TEXTS)
        assert contents(tmp_path / "a" / scheme) == contents(tmp_path / "b" / scheme)


def test_rounding_by_output_errs_less(tiny_folder: Path, tmp_path: Path) -> None:
    errors = {}
    for rounding in ("nearest", "gptq"):
        report = quantize(
            tiny_folder, tmp_path / rounding, rounding=rounding, calibration=TEXTS, samples=50
        )
        errors[rounding] = sum(layer.error or 0 for layer in report.layers)
    assert errors["gptq"] < errors["nearest"]


def test_a_bound_keeps_layers_in_float32(
    tiny_folder: Path, tmp_path: Path, exact: np.ndarray
) -> None:
    free = quantize(tiny_folder, tmp_path / "free", calibration=TEXTS, samples=50)
    assert free.loss is not None
    assert not free.kept
    bound = free.loss / 2
    report = quantize(
        tiny_folder, tmp_path / "bound", calibration=TEXTS, samples=50, max_loss=bound
    )
    assert report.loss is not None
    assert report.loss <= bound
    assert 0 < len(report.kept) < 8
    assert report.slowdown is not None
    assert sum(layer.share or 0 for layer in report.layers) == pytest.approx(1)
    tensors = load_file(tmp_path / "bound/model.safetensors")
    config = json.loads((tmp_path / "bound/config.json").read_text())
    assert len(config["quantization_config"]["ignore"]) > 0
    source = load_file(tiny_folder / "model.safetensors")
    for layer in report.kept:
        first = layer.name.partition("+")[0]
        assert np.array_equal(tensors[f"{first}.weight"], source[f"{first}.weight"])
    model = quaver.Embedder.from_pretrained(tmp_path / "bound", threads=1)
    assert model.precision == "int8"
    assert 1 - cosines(model.encode(TEXTS), exact).mean() < free.loss


# --- Whole or not at all --------------------------------------------------------------------------
def command(source: Path, target: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "quaver.cli", "quantize", str(source), str(target), *options]


KILLS = min(int(os.environ.get("QUAVER_TEST_KILLS", "1")), 4)
"""`make test-long` kills four times."""


@pytest.mark.slow
@pytest.mark.timeout(600)  # several processes, on a machine that may be busy
def test_a_killed_run_leaves_no_folder(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", hidden=128, layers=6)
    done = 0
    begin = time.perf_counter()
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    whole = contents(tmp_path / "whole")
    lasts = time.perf_counter() - begin
    for i, share in enumerate((0.8, 0.5, 0.95, 0.65)[:KILLS]):
        target = tmp_path / f"target-{i}"
        process = subprocess.Popen(command(source, target), stdout=-3, stderr=-3)
        try:
            process.wait(lasts * share)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait(60)
        if target.exists():
            done += 1
            got = contents(target)
            assert set(got) == set(whole)
            assert got["model.safetensors"] == whole["model.safetensors"]
        else:  # the next run puts it right, and clears what the killed one left
            subprocess.run(command(source, target), check=True, capture_output=True)
            assert not list(tmp_path.glob(f".{target.name}.partial-*"))


@pytest.mark.slow
def test_a_disk_that_fills(tiny_folder: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        command(tiny_folder, tmp_path / "int8"),
        preexec_fn=small_files,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_seen_before(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.disk_usage", full)
    with pytest.raises(QuantizationError, match="No space left"):
        quantize(tiny_folder, tmp_path / "int8")
    assert not list(tmp_path.iterdir())


# --- Bad input ------------------------------------------------------------------------------------
def test_a_target_that_exists(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="must not exist yet"):
        quantize(tiny_folder, tmp_path)


def test_a_model_that_is_quantized_already(tiny_folder: Path, tmp_path: Path) -> None:
    quantize(tiny_folder, tmp_path / "once")
    with pytest.raises(QuantizationError, match="once is quantized already"):
        quantize(tmp_path / "once", tmp_path / "twice")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scheme": "int2"}, InputError, "scheme must be one of dynamic, static, int4: got 'int2'"),
        ({"rounding": "up", "calibration": TEXTS}, InputError, "rounding must be"),
        ({"observer": "max"}, InputError, "observer must be"),
        ({"samples": 0}, InputError, "samples must be"),
        ({"max_loss": 3, "calibration": TEXTS}, InputError, "max_loss must be between 0 and 1"),
        ({"words": "int4"}, InputError, "words must be one of int8, float16"),
        ({"pooling": "middle"}, InputError, "pooling must be"),
        ({"scheme": "static"}, CalibrationError, "static scheme needs calibration text"),
        ({"rounding": "gptq"}, CalibrationError, "'gptq' needs calibration text"),
        ({"max_loss": 0.1}, CalibrationError, "max_loss needs calibration text"),
        ({"calibration": TEXTS[:3]}, CalibrationError, "40 different texts: found 3"),
    ],
)
def test_arguments_outside_their_rule(
    tiny_folder: Path, tmp_path: Path, options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize(tiny_folder, tmp_path / "int8", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_pooling(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", pooling=None)
    with pytest.raises(PoolingError, match="does not say how to pool"):
        quantize(source, tmp_path / "int8")
    quantize(source, tmp_path / "int8", pooling="cls+mean")
    quaver.Embedder.from_pretrained(tmp_path / "int8", pooling="cls+mean")


def test_a_folder_that_names_its_pooling_is_not_quantized_with_another(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source", pooling="mean")
    with pytest.raises(PoolingError, match=r"trained with mean pooling.*got pooling='cls'"):
        quantize(source, tmp_path / "int8", pooling="cls")
    assert not (tmp_path / "int8").exists()


def test_a_layer_that_the_text_does_not_reach(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.quantization.convert.run_layers", lambda *_, **__: [])
    with pytest.raises(CalibrationError, match="never reached encoder"):
        quantize(tiny_folder, tmp_path / "int8", calibration=TEXTS)


def test_a_layer_that_reads_only_zeros(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    for name in ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"):
        tensors[name] *= 0
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CalibrationError, match="nothing but zeros"):
        quantize(source, tmp_path / "int8", calibration=TEXTS)


# --- Reading --------------------------------------------------------------------------------------
@pytest.fixture
def static_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    quantize(tiny_folder, tmp_path / "int8", scheme="static", calibration=TEXTS, samples=8)
    return tmp_path / "int8"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", np.zeros((64, 64), np.float32), "must hold int8"),
        ("weight", np.zeros((64, 63), np.int8), r"must have shape \(64, 64\)"),
        ("weight_scale", np.zeros((64, 1), np.float32), "positive scales"),
        ("weight_scale", np.full((64, 1), np.nan, np.float32), "must be finite"),
        ("weight_scale", np.ones(64, np.float32), r"must have shape \(64, 1\)"),
        ("input_scale", np.array([-1], np.float32), "positive scales"),
        ("input_scale", np.array([7], np.float32), "the same input_scale"),
        ("input_zero_point", np.array([3], np.int32), "must hold int8"),
    ],
)
def test_a_damaged_int8_layer(
    static_folder: Path, name: str, value: np.ndarray, message: str
) -> None:
    tensors = load_file(static_folder / "model.safetensors")
    tensors[f"{QUERY}.{name}"] = value
    save_file(tensors, static_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=message):
        quaver.Embedder.from_pretrained(static_folder)


@pytest.mark.parametrize(
    "change",
    [
        {"quant_method": "gptq"},
        {"format": "pack-quantized"},
        {"config_groups": {}},
        {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
    ],
)
def test_other_layouts_are_refused(static_folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((static_folder / "config.json").read_text())
    config["quantization_config"].update(change)
    write_json(static_folder / "config.json", config)
    with pytest.raises(UnsupportedArchitectureError, match=r"quantization_config=.*supported"):
        quaver.Embedder.from_pretrained(static_folder)
