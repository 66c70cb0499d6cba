"""What a family does not run is refused with its key and value; code of a model folder is never run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import quaver
from quaver import cli
from quaver.errors import (
    InputError,
    ModelFolderError,
    PoolingError,
    UnsupportedArchitectureError,
    WeightsError,
)
from quaver.models.families.registry import classifier_spec, encoder_spec, encoder_weights
from tiny_model import write_json, write_tiny_decoder, write_tiny_embedding_gemma2

GOLDEN = Path(__file__).parents[1] / "golden" / "families"


def config_of(family: str, kind: str = "encoder") -> dict[str, Any]:
    with np.load(GOLDEN / f"{family}.npz") as arrays:
        configs: dict[str, dict[str, Any]] = json.loads(arrays["configs"].tobytes())
    return configs[kind]


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("albert", "position_embedding_type", "relative_key"),
        ("t5", "feed_forward_proj", "sparse-relu"),
        ("t5", "feed_forward_proj", "gated-mish"),
        ("jinaembeddingsv3", "rotary_emb_interleaved", True),
        ("mpnet", "relative_attention_num_buckets", 64),
        ("roberta", "position_embedding_type", "relative_key_query"),
        ("modernbert", "attention_bias", True),
        ("modernbert", "norm_bias", True),
        ("modernbert", "hidden_activation", "quick_gelu"),
        ("gte", "layer_norm_type", "rms_norm"),
        ("gte", "logn_attention_scale", True),
        ("gte", "rope_parameters", {"rope_type": "yarn", "factor": 2.0}),
        ("nomicbert", "rotary_emb_fraction", 0.5),
        ("nomicbert", "rotary_scaling_factor", 2.0),
        ("nomicbert", "moe_every_n_layers", 2),
        ("nomicbert", "prenorm", True),
        ("nomicbert", "causal", True),
        ("distilbert", "activation", "mish"),
        ("debertav2", "conv_kernel_size", 3),
        ("jinav2", "feed_forward_type", "original"),
        ("gtev15", "rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("llama", "rope_scaling", {"rope_type": "longrope", "factor": 2.0}),
        ("llama", "pretraining_tp", 2),
        ("qwen3", "rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("qwen3", "partial_rotary_factor", 0.5),
        ("mistral", "hidden_act", "quick_gelu"),
        ("gemma3text", "attn_logit_softcapping", 50.0),
        ("embeddinggemma2text", "use_bidirectional_attention", False),
        ("embeddinggemma2text", "per_layer_config", {"1": {"intermediate_size": 8}}),
        ("embeddinggemma2text", "per_layer_config", {"1": {"skip": ["mlp"]}}),
        ("llama", "per_layer_config", {"0": {"num_key_value_heads": 1}}),
    ],
)
def test_an_option_that_is_not_run(family: str, key: str, value: object) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="support") as caught:
        encoder_spec({**config_of(family), key: value}, pooling="cls", normalize=False)
    assert f"{key}=" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_rope_of_all_layers_together() -> None:
    config = {**config_of("modernbert"), "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}
    with pytest.raises(UnsupportedArchitectureError, match="rope_type='yarn'"):
        encoder_spec(config, pooling="cls", normalize=False)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling='max'"),
        ("modernbert", {"classifier_activation": "mish"}, "classifier_activation='mish'"),
        ("debertav2", {"pooler_hidden_act": "mish"}, "pooler_hidden_act='mish'"),
        ("debertav2", {"pooler_hidden_size": 8}, "pooler_hidden_size=8"),
        ("bert", {"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM.*BiEncoderRanker"),
        ("roberta", {"architectures": ["RobertaForTokenClassification"]}, "has a classification"),
    ],
)
def test_a_head_that_is_not_run(family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=message):
        classifier_spec({**config_of(family, "classifier"), **change})


def tensors_of(family: str, kind: str = "encoder") -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{family}.npz") as arrays:
        return {
            name.removeprefix(f"{kind}/"): arrays[name].astype(np.float32)
            for name in arrays.files
            if name.startswith(f"{kind}/")
        }


def test_jinas_norms_of_query_and_key_are_named() -> None:
    config, tensors = config_of("jinav2"), tensors_of("jinav2")
    spec = encoder_spec(config, pooling="mean", normalize=True)
    tensors["encoder.layer.0.attention.self.layer_norm_q.weight"] = np.ones(24, np.float32)
    with pytest.raises(UnsupportedArchitectureError, match=r"base-code.*supported.*v2-base-en"):
        encoder_weights(spec, tensors)


def test_jinas_gate_is_named_by_its_type_and_not_by_hidden_act() -> None:
    config = {**config_of("jinav2"), "hidden_act": "silu"}
    assert encoder_spec(config, pooling="mean", normalize=True).layers[0].activation == "gelu"
    config["feed_forward_type"] = "reglu"
    assert encoder_spec(config, pooling="mean", normalize=True).layers[0].activation == "relu"


@pytest.mark.parametrize("model_type", ["xlm-roberta-flash", "chatglm", "NewModel"])
def test_a_model_of_its_own_code(model_type: str) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Model"}}
    with pytest.raises(
        UnsupportedArchitectureError, match=r"\(auto_map\) is never run; supported: bert, .*new"
    ):
        encoder_spec(config, pooling="cls", normalize=False)


@pytest.mark.parametrize(
    ("model_type", "what"),
    [
        ("qwen3_moe", "a mixture of experts"),
        ("gemma3", "a model of texts and pictures"),
        ("umt5", "a bias of positions each"),
        ("deberta", "projections of their own"),
    ],
)
def test_relatives_of_decoders_are_refused_by_name(model_type: str, what: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=f"{model_type}.*{what}.*qwen3"):
        encoder_spec({"model_type": model_type}, pooling="mean", normalize=False)


def test_code_of_its_own_may_see_what_comes_after() -> None:
    config = {**config_of("qwen2"), "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}
    with pytest.raises(UnsupportedArchitectureError, match='add "is_causal": true or false'):
        encoder_spec(config, pooling="lasttoken", normalize=False)
    for stated in (True, False):
        spec = encoder_spec({**config, "is_causal": stated}, pooling="mean", normalize=False)
        assert {layer.causal for layer in spec.layers} == {stated}


@pytest.mark.parametrize("stated", [True, False])
def test_the_caller_says_what_a_token_sees(stated: bool, tmp_path: Path) -> None:
    folder = write_tiny_decoder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoModel": "modeling_qwen.Qwen3Model"}}
    write_json(folder / "config.json", {**config, **own})
    with pytest.raises(
        UnsupportedArchitectureError, match="pass is_causal=True or is_causal=False"
    ):
        quaver.Embedder.from_pretrained(folder)
    model = quaver.Embedder.from_pretrained(folder, is_causal=stated)
    assert {layer.causal for layer in model.spec.layers} == {stated}
    vector = model.encode("the list of files")
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.encode("the list of files"), vector)
    # An int8 folder and a store keep it.
    quaver.quantize(folder, tmp_path / "int8", words="float16", is_causal=stated)
    kept = quaver.Embedder.from_pretrained(tmp_path / "int8")
    assert {layer.causal for layer in kept.spec.layers} == {stated}
    assert kept.encode("the list of files") @ vector > 0.999  # word embeddings were rounded
    option = "--causal" if stated else "--no-causal"
    line = ["quantize", str(folder), str(tmp_path / "cli"), option, "--words", "float16"]
    assert CliRunner().invoke(cli.app, line).exit_code == 0
    assert (tmp_path / "cli/config.json").read_text() == (tmp_path / "int8/config.json").read_text()
    write_json(tmp_path / "docs/a.json", {"text": "the list of files"})
    with quaver.Index.create(tmp_path / "store", model) as index:
        index.update(tmp_path / "docs")
    with quaver.Index.open(tmp_path / "store") as index:
        assert index.search("files")
    # It is the same model as one whose config.json says it.
    write_json(folder / "config.json", {**config, **own, "is_causal": stated})
    assert quaver.Embedder.from_pretrained(folder).fingerprint == model.fingerprint
    quaver.Embedder.from_pretrained(folder, is_causal=stated)
    with pytest.raises(InputError, match=f"says is_causal={stated}: got is_causal={not stated}"):
        quaver.Embedder.from_pretrained(folder, is_causal=not stated)


def test_what_a_token_sees_is_said_of_decoders_alone(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is_causal is for qwen3, .* is 'bert'.*leave it out"):
        quaver.Embedder.from_pretrained(tiny_folder, is_causal=False)
    decoder = write_tiny_decoder(tmp_path / "model")
    with pytest.raises(InputError, match="is_causal must be True, False or None: got 'no'"):
        quaver.Embedder.from_pretrained(decoder, is_causal="no")  # type: ignore[arg-type]


def test_windows_of_decoders() -> None:
    def windows(family: str, **changes: object) -> list[int | None]:
        config = {**config_of(family), **changes}
        spec = encoder_spec(config, pooling="mean", normalize=False)
        return [layer.window for layer in spec.layers]

    assert windows("mistral") == [7, 7, 7]  # a causal window of 8 counts the token itself
    assert windows("mistral", is_causal=False) == [8, 8, 8]
    assert windows("mistral", sliding_window=None) == [None, None, None]
    assert windows("qwen2") == [None, 7, 7]
    assert windows("qwen3") == [None, None, None]
    assert windows("gemma3text") == [7, None, 7]
    assert windows("gemma3textboth") == [4, None, 4]  # half on each side


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "use_sliding_window=true"),
        ("qwen2", {"layer_types": ["full_attention"]}, "for each of 3 layers"),
        ("llama", {"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ("llama", {"head_dim": 7}, "head_dim must be even"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "a factor from 1"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "low_freq_factor below high_freq_factor",
        ),
        ("llama", {"rope_parameters": {"rope_theta": 1.0}}, "rope_theta above 1"),
        ("embeddinggemma2text", {"per_layer_config": {"3": {}}}, "numbers of 3 layers"),
        (
            "embeddinggemma2text",
            {"per_layer_config": {"1": {"head_dim": 9}}},
            "head_dim must be even",
        ),
        ("embeddinggemma2text", {"model_type": "embedding_gemma2"}, "must have text_config"),
    ],
)
def test_a_decoder_whose_config_contradicts_itself(
    family: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        encoder_spec({**config_of(family), **changes}, pooling="mean", normalize=False)


def test_layers_of_embedding_gemma_2() -> None:
    config = config_of("embeddinggemma2text")
    del config["per_layer_config"], config["layer_types"]
    config |= {"num_hidden_layers": 8, "global_head_dim": 24, "num_global_key_value_heads": 4}
    spec = encoder_spec(config, pooling="mean", normalize=True)
    # Every sixth layer sees everything, and the last one.
    assert [layer.window for layer in spec.layers] == [4, 4, 4, 4, 4, None, 4, None]
    assert [layer.head_size for layer in spec.layers] == [8, 8, 8, 8, 8, 24, 8, 24]
    assert [layer.kv_heads for layer in spec.layers] == [2, 2, 2, 2, 2, 4, 2, 4]
    with pytest.raises(UnsupportedArchitectureError, match="no classification head"):
        classifier_spec({**config, "architectures": ["EmbeddingGemma2ForSequenceClassification"]})


def test_the_text_model_beside_others(tmp_path: Path) -> None:
    folder = write_tiny_embedding_gemma2(tmp_path / "three")
    model = quaver.Embedder.from_pretrained(folder, precision="float32")
    vectors = model.encode(["a file", "where the data is"])
    assert vectors.shape == (2, 96)
    short = quaver.Embedder.from_pretrained(folder, precision="float32", max_seq_length=16)
    assert np.array_equal(short.encode(["a file", "where the data is"]), vectors)
    # The same model alone, as transformers saves EmbeddingGemma2TextModel.
    tensors = load_file(folder / "model.safetensors")
    text = {
        name.removeprefix("language_model."): value
        for name, value in tensors.items()
        if name.startswith("language_model.")
    }
    save_file(text, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config["text_config"])
    alone = quaver.Embedder.from_pretrained(folder, precision="float32")
    assert np.array_equal(alone.encode(["a file", "where the data is"]), vectors)
    for missing in ("layers.1.layer_scalar", "ple.per_layer_model_projection.weight"):
        save_file({n: v for n, v in text.items() if n != missing}, folder / "model.safetensors")
        with pytest.raises(WeightsError, match=f"{missing}.* is missing"):
            quaver.Embedder.from_pretrained(folder)


def test_bidirectional_types_of_their_own() -> None:
    for family, model_type in (("llama", "llama_bidirec"), ("qwen3", "bidirectional_pplx_qwen3")):
        config = {**config_of(family), "model_type": model_type, "auto_map": {"AutoModel": "x.Y"}}
        spec = encoder_spec(config, pooling="mean", normalize=False)
        assert spec.family == model_type
        assert not any(layer.causal for layer in spec.layers)


def test_a_buffer_of_old_checkpoints_is_left_alone() -> None:
    spec = encoder_spec(config_of("llama"), pooling="mean", normalize=False)
    with np.load(GOLDEN / "llama.npz") as arrays:
        tensors = {
            name.removeprefix("encoder/"): array.astype(np.float32)
            for name, array in arrays.items()
            if name.startswith("encoder/")
        }
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    encoder_weights(spec, tensors)
    tensors["layers.0.self_attn.q_norm.weight"] = np.ones(8, np.float32)
    with pytest.raises(WeightsError, match=r"does not have, first 'layers\.0\.self_attn\.q_norm"):
        list(encoder_weights(spec, tensors).layers)


def test_code_beside_a_model_that_is_native_stays_where_it_is(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "was-run"
    shutil.copytree(tiny_folder, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    path.write_text(json.dumps(config))
    (folder / "modeling.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    plain = quaver.Embedder.from_pretrained(tiny_folder).encode("a text")
    assert np.array_equal(quaver.Embedder.from_pretrained(folder).encode("a text"), plain)
    assert not mark.exists()


def test_a_model_that_generates_says_so(tmp_path: Path) -> None:
    folder = write_tiny_decoder(tmp_path / "model")
    (folder / "modules.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "architectures": ["Qwen3ForCausalLM"]})
    with pytest.raises(PoolingError, match=r"Qwen3ForCausalLM .* generates text"):
        quaver.Embedder.from_pretrained(folder)
    with pytest.raises(PoolingError, match=r"Qwen3ForCausalLM .* generates text"):
        quaver.quantize(folder, tmp_path / "int8")
    write_json(folder / "config.json", {**config, "architectures": ["Qwen3Model"]})
    with pytest.raises(PoolingError, match="pass pooling='lasttoken' or pooling='mean'"):
        quaver.Embedder.from_pretrained(folder)
    assert quaver.Embedder.from_pretrained(folder, pooling="lasttoken").encode("text").shape == (
        256,
    )
