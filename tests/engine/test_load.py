"""Loading: the parts of a model agree, and each kind of model is opened by its own class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quaver.engine.load import load_classifier, load_model
from quaver.errors import InputError, ModelFolderError, UnsupportedArchitectureError
from tiny_model import write_json, write_tiny_cross_encoder, write_tiny_model


@pytest.fixture(scope="module")
def cross_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cross_encoder(tmp_path_factory.mktemp("load") / "tiny-reranker")


def test_the_engine_leaves_normalizing_to_the_caller(tiny_folder: Path) -> None:
    model = load_model(tiny_folder)
    assert (model.spec.normalize, model.engine.spec.normalize) == (True, False)
    assert model.tokenizer.max_length == model.spec.max_length == 64
    assert (model.engine.precision, model.spec.pooling) == ("int8", "mean")


def test_options_load_the_same_model_again_and_hold_no_secret(tiny_folder: Path) -> None:
    model = load_model(
        tiny_folder,
        precision="float32",
        max_seq_length=9,
        threads=2,
        normalize=False,
        token="secret",
    )
    assert "secret" not in map(str, model.options.values())
    again = load_model(model.folder.source, **model.options)
    assert again.options == model.options
    assert (again.tokenizer.max_length, again.engine.threads, again.spec.normalize) == (9, 2, False)


def test_a_cross_encoder_has_a_head_and_no_pooling_option(cross_folder: Path) -> None:
    model = load_classifier(cross_folder, precision="float32", max_seq_length=20)
    assert model.spec.outputs == 1
    assert len(model.spec.head) > 0
    assert "pooling" not in model.options
    assert load_classifier(model.folder.source, **model.options).options == model.options


def test_each_kind_of_model_names_the_class_that_opens_it(
    cross_folder: Path, tiny_folder: Path
) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=r"CrossEncoder\.from_pretrained"):
        load_model(cross_folder)
    with pytest.raises(UnsupportedArchitectureError, match=r"Embedder\.from_pretrained"):
        load_classifier(tiny_folder)


def test_a_length_of_the_folder_without_room_is_the_folders_fault(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "short")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 2})
    with pytest.raises(ModelFolderError, match="a text may have 2 tokens"):
        load_model(folder)
    with pytest.raises(InputError, match="must leave room"):
        load_model(folder, max_seq_length=2)
    assert load_model(folder, max_seq_length=10).tokenizer.max_length == 10


@pytest.mark.parametrize("load", [load_model, load_classifier])
def test_an_unknown_precision(load: Any, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match="precision must be 'int8', 'bfloat16', 'bfloat16-weights' or 'float32': got 'int4'",
    ):
        load(tmp_path / "none", precision="int4")  # before the folder is looked for
