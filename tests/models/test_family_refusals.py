"""What a family does not run is refused with its key and value; code of a model folder is never run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quaver
from quaver.errors import UnsupportedArchitectureError
from quaver.models.families.registry import classifier_spec, encoder_spec, encoder_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "families"


def config_of(family: str, kind: str = "encoder") -> dict[str, Any]:
    with np.load(GOLDEN / f"{family}.npz") as arrays:
        configs: dict[str, dict[str, Any]] = json.loads(arrays["configs"].tobytes())
    return configs[kind]


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("electra", "embedding_size", 8),
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


@pytest.mark.parametrize("model_type", ["xlm-roberta-flash", "qwen2", "llama_bidirec"])
def test_a_model_of_its_own_code(model_type: str) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Model"}}
    with pytest.raises(
        UnsupportedArchitectureError, match=r"\(auto_map\) is never run; supported: bert, .*new"
    ):
        encoder_spec(config, pooling="cls", normalize=False)


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
