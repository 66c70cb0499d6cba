"""config.json to spec, tensors to weights, and everything that is refused on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quaver.errors import (
    ModelFolderError,
    PoolingError,
    UnsupportedArchitectureError,
    WeightsError,
)
from quaver.models.encoder_weights import EncoderWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import LayerSpec, RelativePositions
from quaver.models.positions import relative_rows
from tiny_model import tiny_config, tiny_tensors

CONFIG = tiny_config()
TENSORS = tiny_tensors(CONFIG)
SPEC = encoder_spec(CONFIG, pooling="mean", normalize=True)
QUERY = "encoder.layer.1.attention.self.query.weight"


def weights(changes: dict[str, NDArray[Any] | None]) -> EncoderWeights:
    tensors = {name: t for name, t in {**TENSORS, **changes}.items() if t is not None}
    return encoder_weights(SPEC, tensors)


def test_the_spec_of_a_bert() -> None:
    spec = encoder_spec(CONFIG, pooling="cls", normalize=False)
    assert (spec.model_type, spec.vocab_size, spec.hidden_size) == (
        "bert",
        CONFIG["vocab_size"],
        64,
    )
    layer = LayerSpec(heads=4, kv_heads=4, head_size=16, intermediate_size=256, activation="gelu")
    assert spec.layers == (layer, layer)
    assert (spec.max_positions, spec.position_offset, spec.type_vocab_size) == (64, 0, 2)
    assert spec.norm_eps == 1e-12
    assert (spec.pooling, spec.normalize) == ("cls", False)


@pytest.mark.parametrize(
    ("name", "activation"),
    [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("relu", "relu"), ("swish", "silu")],
)
def test_activations(name: str, activation: str) -> None:
    config = {**CONFIG, "hidden_act": name}
    assert {
        layer.activation for layer in encoder_spec(config, pooling="cls", normalize=True).layers
    } == {activation}


@pytest.mark.parametrize("model_type", ["gpt2", "bart", None])
def test_another_architecture_is_named_with_those_supported(model_type: object) -> None:
    config = {**CONFIG, "model_type": model_type}
    with pytest.raises(UnsupportedArchitectureError, match=f"{model_type!r}.*supported: bert"):
        encoder_spec(config, pooling="cls", normalize=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "quick_gelu"),
        ("hidden_act", None),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
    ],
)
def test_an_unsupported_option_is_named(key: str, value: object) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=f"{key}=.*support"):
        encoder_spec({**CONFIG, key: value}, pooling="cls", normalize=True)


DEBERTA = {
    **{key: value for key, value in CONFIG.items() if key != "position_embedding_type"},
    "model_type": "deberta-v2",
    "relative_attention": True,
    "position_buckets": 16,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}


def test_the_spec_of_a_deberta() -> None:
    spec = encoder_spec(DEBERTA, pooling="cls", normalize=False)
    assert spec.relative == RelativePositions(span=16, reach=64, norm=True)
    assert not spec.position_table
    assert spec.layers[0].score_scale == pytest.approx(1 / np.sqrt(3 * 16))
    every = encoder_spec({**DEBERTA, "position_buckets": -1}, pooling="cls", normalize=False)
    assert every.relative == RelativePositions(span=64, reach=None, norm=True)
    old = {**DEBERTA, "pos_att_type": "p2c|c2p", "max_relative_positions": 32}
    assert encoder_spec(old, pooling="cls", normalize=False).relative == RelativePositions(
        span=16, reach=32, norm=True
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("relative_attention", False),
        ("share_att_key", False),
        ("pos_att_type", ["c2p"]),
        ("pos_att_type", None),
        ("conv_kernel_size", 3),
        ("norm_rel_ebd", "rms_norm"),
        ("embedding_size", 32),
        ("attention_head_size", 32),
    ],
)
def test_an_unsupported_option_of_deberta_is_named(key: str, value: object) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=f"{key}=.*is supported with"):
        encoder_spec({**DEBERTA, key: value}, pooling="cls", normalize=True)


def test_buckets_must_reach_beyond_the_near_distances() -> None:
    with pytest.raises(ModelFolderError, match="position_buckets=16 for distances up to 9"):
        encoder_spec({**DEBERTA, "max_relative_positions": 9}, pooling="cls", normalize=True)


def test_rows_of_relative_positions() -> None:
    every = relative_rows(RelativePositions(span=3), 5)
    assert every.tolist() == [5, 5, 5, 4, 3, 2, 1, 0, 0]  # 4 tokens behind to 4 before
    shared = relative_rows(RelativePositions(span=8, reach=32), 33)
    # Up to 4 a row each; then 4 + ceil(3 log(d / 4) / log(31 / 4)): 7 at 31, kept below 2 * 8.
    assert shared[32::-1].tolist() == [8, 9, 10, 11, 12, *[13] * 3, *[14] * 8, *[15] * 17]
    assert shared[32:].tolist() == [8, 7, 6, 5, 4, *[3] * 3, *[2] * 8, *[1] * 16, 0]


@pytest.mark.parametrize("value", [0, 3, "16", True])
def test_position_buckets_must_be_a_number(value: object) -> None:
    with pytest.raises(ModelFolderError, match="position_buckets"):
        encoder_spec({**DEBERTA, "position_buckets": value}, pooling="cls", normalize=True)


@pytest.mark.parametrize("value", [None, 0, -3, 2.5, "64", True])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_sizes_must_be_positive_whole_numbers(key: str, value: object) -> None:
    with pytest.raises(ModelFolderError, match=rf"config\.json.*{key}"):
        encoder_spec({**CONFIG, key: value}, pooling="cls", normalize=True)


@pytest.mark.parametrize("value", [None, 0, 2, "1e-12"])
def test_norm_eps_must_be_small(value: object) -> None:
    with pytest.raises(ModelFolderError, match="layer_norm_eps"):
        encoder_spec({**CONFIG, "layer_norm_eps": value}, pooling="cls", normalize=True)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ModelFolderError, match="got 64 and 5"):
        encoder_spec({**CONFIG, "num_attention_heads": 5}, pooling="cls", normalize=True)


def test_pooling_is_never_guessed() -> None:
    with pytest.raises(PoolingError, match="pass pooling='cls' or pooling='mean'"):
        encoder_spec(CONFIG, pooling=None, normalize=True)
    with pytest.raises(UnsupportedArchitectureError, match=r"'sum' is not supported.*cls, mean"):
        encoder_spec(CONFIG, pooling="cls+sum", normalize=True)


def test_weights_are_picked_and_stacked() -> None:
    picked = weights({})
    assert np.array_equal(picked.word, TENSORS["embeddings.word_embeddings.weight"])
    assert len(picked.layers) == 2
    layer = picked.layers[1]
    assert layer.qkv.weight.shape == (192, 64)
    assert np.array_equal(layer.qkv.weight[:64], TENSORS[QUERY])
    name = "encoder.layer.1.attention.self.value.bias"
    assert np.array_equal(layer.qkv.bias[128:], TENSORS[name])
    assert layer.up.weight.shape == (256, 64)
    assert layer.down.weight.shape == (64, 256)
    arrays = [picked.word, layer.qkv.weight, layer.down.weight, layer.output_norm.gamma]
    assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in arrays)


@pytest.mark.parametrize("prefix", ["bert.", "model.encoder.bert."])
def test_a_prefix_and_old_names_are_understood(prefix: str) -> None:
    def old(name: str) -> str:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return prefix + name.replace("LayerNorm.bias", "LayerNorm.beta")

    tensors: dict[str, NDArray[Any]] = {old(name): tensor for name, tensor in TENSORS.items()}
    tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
    tensors[f"{prefix}pooler.dense.weight"] = np.zeros((64, 64), np.float32)
    tensors[f"{prefix}embeddings.position_ids"] = np.arange(64)
    picked, plain = encoder_weights(SPEC, tensors), weights({})
    assert np.array_equal(picked.embedding_norm.gamma, plain.embedding_norm.gamma)
    assert np.array_equal(picked.layers[0].down.weight, plain.layers[0].down.weight)


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(WeightsError, match=f"'{QUERY}' is missing"):
        weights({QUERY: None})


@pytest.mark.parametrize("shape", [(64, 63), (65, 64), (64,), (1, 64, 64)])
def test_a_wrong_shape_is_named_with_the_right_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match=rf"'{QUERY}' must have shape \(64, 64\).*got \("):
        weights({QUERY: np.zeros(shape, np.float32)})


def test_integers_are_no_weights() -> None:
    with pytest.raises(WeightsError, match=f"'{QUERY}' must hold floats: got int8"):
        weights({QUERY: np.zeros((64, 64), np.int8)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(value: float) -> None:
    broken = TENSORS[QUERY].copy()
    broken[63, 63] = value
    with pytest.raises(WeightsError, match=f"'{QUERY}' must be finite"):
        weights({QUERY: broken})


def test_infinities_that_cancel_are_found() -> None:
    broken = TENSORS[QUERY].copy()
    broken[0, :2] = np.inf, -np.inf
    with pytest.raises(WeightsError, match="must be finite"):
        weights({QUERY: broken})


def test_huge_finite_values_are_weights() -> None:
    assert weights({QUERY: np.full((64, 64), 3e38, np.float32)}).layers


def test_more_layers_than_the_config_says() -> None:
    name = "encoder.layer.2.output.dense.weight"
    with pytest.raises(WeightsError, match=rf"bert of 2 layers does not have, first '{name}'"):
        weights({name: np.zeros((64, 256), np.float32)})


def test_tensors_of_another_model() -> None:
    with pytest.raises(WeightsError, match=r"exactly one tensor.*found none among 1"):
        encoder_weights(SPEC, {"shared.weight": np.zeros((3, 3), np.float32)})


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 2048, "num_attention_heads": 1},
        {"hidden_size": 131072, "num_attention_heads": 256},
        {"intermediate_size": 65537},
    ],
)
def test_sizes_beyond_the_kernels_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="up to 65536 and heads of up to 1024"):
        encoder_spec({**CONFIG, **change}, pooling="cls", normalize=True)
