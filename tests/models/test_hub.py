"""Names and paths to folders; the hub itself is replaced, tests use no network."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from quaver.embedder import Embedder
from quaver.errors import InputError, ModelNotFoundError
from quaver.models.hub import find_folder
from quaver.reranker import CrossEncoder
from tiny_model import write_tiny_cross_encoder, write_tiny_model


def find(name: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    return find_folder(name, revision, offline, None)[0]


def replace_hub(monkeypatch: pytest.MonkeyPatch, result: Path | Exception) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def replace_hub_by_names(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, Path], missing: type[Exception]
) -> list[str]:
    """A hub that has some models; the names it was asked for."""
    asked: list[str] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append(name)
        if name not in has:
            raise hub_error(missing)
        return str(has[name])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def hub_error(kind: type[Exception]) -> Exception:
    """Make an error without the HTTP response that its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("the hub's own words",)
    return error


def test_an_existing_folder_wins_over_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    calls = replace_hub(monkeypatch, RuntimeError("the hub was asked"))
    found = find_folder("org/model", None, False, None)
    assert found == (Path("org/model"), "model", str(Path("org/model").resolve()))
    assert not calls


def test_a_hub_id_fetches_only_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = replace_hub(monkeypatch, write_tiny_model(tmp_path))
    assert find_folder("org/some-model", "v1", True, "key") == (
        tmp_path,
        "org/some-model",
        "org/some-model",
    )
    (call,) = calls
    patterns = call.pop("allow_patterns")
    files = ["config.json", "2_Dense/config.json", "model.safetensors", "2_Dense/model.safetensors"]
    files.append("chat_template.jinja")
    others = ["onnx/model.onnx", "openvino/openvino_model.bin", "tf_model.h5", "README.md"]
    assert [f for f in files + others if any(fnmatch(f, p) for p in patterns)] == files
    assert call == {
        "name": "org/some-model",
        "revision": "v1",
        "local_files_only": True,
        "token": "key",
    }


@pytest.mark.parametrize(
    ("gone", "fetched"),
    [
        ("model.safetensors", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"]),
        ("2_Dense/model.safetensors", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"]),
        ("tokenizer.json", ["vocab.txt", "merges.txt", "spm.model", "0_Transformer/vocab.txt"]),
    ],
)
def test_an_older_model_is_asked_for_what_it_has_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, fetched: list[str]
) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense/config.json").write_text("{}")
    (tmp_path / "2_Dense/model.safetensors").write_bytes(b"")
    (tmp_path / gone).unlink()
    calls = replace_hub(monkeypatch, tmp_path)
    find("org/m")
    files = [
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "vocab.txt",
        "merges.txt",
        "spm.model",
    ]
    files += ["0_Transformer/vocab.txt", "model.onnx", "training_args.bin", "0_Transformer/a.txt"]
    patterns = calls[1]["allow_patterns"]
    assert [f for f in files if any(fnmatch(f, p) for p in patterns)] == fetched
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (hub_errors.GatedRepoError, "needs permission"),
        (hub_errors.RevisionNotFoundError, "has no revision 'v9'"),
        (hub_errors.RepositoryNotFoundError, "neither a folder here nor a model on the hub"),
        (hub_errors.LocalEntryNotFoundError, "the hub cannot be reached; go online once"),
        (hub_errors.HFValidationError, "cannot get org/m at revision 'v9' from the hub"),
        (hub_errors.HfHubHTTPError.__bases__[0], "cannot get org/m at revision"),
        (ConnectionError, "cannot get org/m at revision 'v9' from the hub"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    replace_hub(monkeypatch, hub_error(kind))
    with pytest.raises(ModelNotFoundError, match=message):
        find("org/m", revision="v9")


def test_local_files_only_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="local_files_only is set"):
        find("org/never-downloaded", offline=True)


@pytest.mark.parametrize(
    "name", ["./gone", "../gone", "/gone", "~/gone", "a/b/c", "a b", "C:\\gone", "gone/"]
)
def test_what_looks_like_a_path_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_hub(monkeypatch, RuntimeError("the hub was asked"))
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        find(name)
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        find(Path("org/gone"))
    assert not calls


@pytest.mark.parametrize(
    "missing", [hub_errors.RepositoryNotFoundError, hub_errors.LocalEntryNotFoundError]
)
@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("bert-base-uncased", "bert-base-uncased"),
    ],
)
def test_a_name_without_an_organization(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: str,
    full: str,
    missing: type[Exception],
) -> None:
    monkeypatch.chdir(tmp_path)
    replace_hub_by_names(monkeypatch, {full: tmp_path}, missing)
    assert find_folder(short, None, False, None) == (tmp_path, full, full)


def test_each_class_looks_in_its_own_organization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "embedder")
    write_tiny_cross_encoder(tmp_path / "ranker")
    has = {
        "sentence-transformers/one": tmp_path / "embedder",
        "cross-encoder/one": tmp_path / "ranker",
    }
    asked = replace_hub_by_names(monkeypatch, has, hub_errors.RepositoryNotFoundError)
    assert Embedder.from_pretrained("one").source == "sentence-transformers/one"
    assert CrossEncoder.from_pretrained("one").source == "cross-encoder/one"
    assert asked == [*has]


def test_a_name_that_nobody_has_lists_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_hub_by_names(monkeypatch, {}, hub_errors.RepositoryNotFoundError)
    with pytest.raises(
        ModelNotFoundError,
        match="looked for: sentence-transformers/gone, cross-encoder/gone, gone",
    ):
        find("gone")


def test_a_gated_model_of_the_organization_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = replace_hub_by_names(monkeypatch, {}, hub_errors.GatedRepoError)
    with pytest.raises(ModelNotFoundError, match="sentence-transformers/m needs permission"):
        find("m")
    assert asked == ["sentence-transformers/m"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="is a file; give the folder"):
        find(tmp_path / "model.safetensors")


@pytest.mark.parametrize("wrong", ["", None, 3])
def test_a_name_must_be_a_text_or_a_path(wrong: Any) -> None:
    with pytest.raises(InputError, match="a model is a hub id or a folder"):
        find(wrong)
