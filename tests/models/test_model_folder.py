"""Model folders: what they say, what they lack, what is broken in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quaver.embedder import Embedder
from quaver.errors import (
    ModelFolderError,
    ModelNotFoundError,
    UnsupportedArchitectureError,
)
from quaver.models.folder import ModelFolder
from tiny_model import PROMPTS, edit_json, write_json, write_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def test_what_the_folder_says(folder: Path) -> None:
    opened = ModelFolder.open(folder)
    assert (opened.path, opened.transformer, opened.name) == (folder, folder, "tiny")
    assert (opened.pooling, opened.normalize, opened.max_seq_length) == ("mean", True, 64)
    assert (opened.prompts, opened.default_prompt_name) == (PROMPTS, None)
    assert (opened.similarity, opened.lowercase) == ("cosine", False)
    assert opened.config["hidden_size"] == 64


def test_a_bare_transformer_folder_says_nothing_about_pooling(tmp_path: Path) -> None:
    opened = ModelFolder.open(write_tiny_model(tmp_path / "bare", pooling=None))
    assert (opened.pooling, opened.normalize) == (None, False)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_flags_and_normalize(tmp_path: Path, pooling: str, normalize: bool) -> None:
    opened = ModelFolder.open(
        write_tiny_model(tmp_path / "m", pooling=pooling, normalize=normalize)
    )
    assert (opened.pooling, opened.normalize) == (pooling, normalize)


@pytest.mark.parametrize("mode", ["cls", ["cls"]])
def test_the_newer_pooling_mode(folder: Path, mode: object) -> None:
    write_json(folder / "1_Pooling/config.json", {"embedding_dimension": 64, "pooling_mode": mode})
    assert ModelFolder.open(folder).pooling == "cls"


def test_the_newer_module_names(folder: Path) -> None:
    names = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]
    modules = [
        {"path": path, "type": f"sentence_transformers.{name}"}
        for path, name in zip(["", "1_Pooling"], names, strict=True)
    ]
    write_json(folder / "modules.json", modules)
    assert ModelFolder.open(folder).pooling == "mean"


def test_a_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "old")
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "sentence_bert_config.json",
    ):
        (folder / name).rename(inner / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    opened = ModelFolder.open(folder)
    assert opened.transformer == inner
    assert opened.tensors()
    assert opened.max_seq_length == 64


@pytest.mark.parametrize(
    ("stated", "model_max_length", "positions", "expected"),
    [
        (32, 48, 64, 32),
        (None, 48, 64, 48),
        (None, None, 64, 64),
        (128, None, 64, 64),
        (None, 1e30, 64, 64),
    ],
)
def test_max_seq_length(
    folder: Path,
    stated: int | None,
    model_max_length: float | None,
    positions: int,
    expected: int,
) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": stated})
    write_json(folder / "tokenizer_config.json", {"model_max_length": model_max_length})
    edit_json(folder / "config.json", max_position_embeddings=positions)
    assert Embedder.from_pretrained(folder).max_seq_length == expected


def test_do_lower_case(folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 8, "do_lower_case": True})
    assert ModelFolder.open(folder).lowercase


def test_similarity_from_the_folder(folder: Path) -> None:
    for name in ("dot", "euclidean", "manhattan"):
        edit_json(folder / "config_sentence_transformers.json", similarity_fn_name=name)
        assert ModelFolder.open(folder).similarity == name
    edit_json(folder / "config_sentence_transformers.json", similarity_fn_name="hamming")
    with pytest.raises(UnsupportedArchitectureError, match=r"'hamming'; supported are cosine"):
        ModelFolder.open(folder)


def test_truncate_dim_of_the_folder(folder: Path) -> None:
    whole = Embedder.from_pretrained(folder)
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=16)
    short = Embedder.from_pretrained(folder)
    assert (short.truncate_dim, short.dimension) == (16, 16)
    expected = whole.encode(["the file", "a list"], truncate_dim=16)
    assert np.array_equal(short.encode(["the file", "a list"]), expected)
    assert short.fingerprint != whole.fingerprint
    # What the caller says wins, back to the whole vector too.
    assert Embedder.from_pretrained(folder, truncate_dim=8).dimension == 8
    assert Embedder.from_pretrained(folder, truncate_dim=64).dimension == 64
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=1000)
    assert Embedder.from_pretrained(folder).dimension == 64


def test_another_module_is_named(folder: Path) -> None:
    name = "WeightedLayerPooling"
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"path": f"2_{name}", "type": f"sentence_transformers.models.{name}"})
    write_json(folder / "modules.json", modules)
    with pytest.raises(UnsupportedArchitectureError, match=f"{name}.*supported are Transformer"):
        ModelFolder.open(folder)


def test_joined_pooling_modes(folder: Path) -> None:
    edit_json(folder / "1_Pooling/config.json", pooling_mode_cls_token=True)
    assert ModelFolder.open(folder).pooling == "cls+mean"
    edit_json(folder / "1_Pooling/config.json", pooling_mode=["mean", "max"])
    assert ModelFolder.open(folder).pooling == "mean+max"


def test_pooling_without_the_prompt(folder: Path) -> None:
    assert ModelFolder.open(folder).pools_prompt
    edit_json(folder / "1_Pooling/config.json", include_prompt=False)
    assert not ModelFolder.open(folder).pools_prompt
    edit_json(folder / "1_Pooling/config.json", pooling_mode="weightedmean")
    with pytest.raises(UnsupportedArchitectureError, match="include_prompt=false for weightedmean"):
        ModelFolder.open(folder)


def test_pooling_without_a_mode_or_a_file(folder: Path) -> None:
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": 64})
    with pytest.raises(ModelFolderError, match="must name a pooling mode"):
        ModelFolder.open(folder)
    (folder / "1_Pooling/config.json").unlink()
    with pytest.raises(ModelFolderError, match="names a Pooling module, but there is no"):
        ModelFolder.open(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00"])
@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json"])
def test_broken_json_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelFolderError, match=name):
        ModelFolder.open(folder)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"type": "x"}]', '[{"path": ""}]'])
def test_broken_modules_are_named(folder: Path, content: str) -> None:
    (folder / "modules.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"modules\.json"):
        ModelFolder.open(folder)


@pytest.mark.parametrize(
    "changes", [{"prompts": ["a"]}, {"prompts": {"q": 1}}, {"default_prompt_name": "missing"}]
)
def test_prompts_must_be_texts(folder: Path, changes: dict[str, Any]) -> None:
    edit_json(folder / "config_sentence_transformers.json", **changes)
    with pytest.raises(ModelFolderError, match=r"config_sentence_transformers.json.*must"):
        ModelFolder.open(folder)


@pytest.mark.parametrize("length", [0.5, -1, True, "long"])
def test_a_length_must_be_positive(folder: Path, length: object) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(ModelFolderError, match="max_seq_length must be"):
        ModelFolder.open(folder)


def test_a_folder_without_a_length_leaves_it_to_the_model(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    assert ModelFolder.open(folder).max_seq_length is None
    assert Embedder.from_pretrained(folder).max_seq_length == 64


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"needs config\.json"):
        ModelFolder.open(tmp_path)


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    first = write_tiny_model(tmp_path / "a")
    same = write_tiny_model(tmp_path / "elsewhere")
    other = write_tiny_model(tmp_path / "b", seed=1)
    assert ModelFolder.open(first).fingerprint == ModelFolder.open(same).fingerprint
    assert ModelFolder.open(first).fingerprint != ModelFolder.open(other).fingerprint
    edit_json(same / "config.json", layer_norm_eps=1e-5)
    assert ModelFolder.open(first).fingerprint != ModelFolder.open(same).fingerprint


def test_missing_folders_are_not_asked_from_the_hub(tmp_path: Path) -> None:
    for missing in (tmp_path / "nothing", str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(ModelNotFoundError, match="there is no folder"):
            ModelFolder.open(missing)
