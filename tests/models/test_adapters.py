"""Models with an adapter for each task: jina-embeddings-v3 as published, and folders of PEFT.

tests/golden/folders/jina-v3.zip has a tiny random model, with what transformers computes with the weights of each
task: `tools/module_folders.py --golden jina-v3`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from golden_folders import unpacked
from quaver import (
    Embedder,
    Index,
    InputError,
    ModelFolderError,
    QuantizationError,
    UnsupportedArchitectureError,
    WeightsError,
    quantize,
)
from tiny_model import edit_json, write_json, write_tiny_model

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
QUERIES, DOCUMENTS = TASKS[:2]
TOLERANCE = 1e-5
Tensors = dict[str, NDArray[Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpacked("jina-v3", tmp_path)


@pytest.fixture
def expected(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return {key: value if key == "texts" else np.array(value) for key, value in content.items()}


def change(folder: Path, edit_tensors: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit_tensors(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_merged_into_the_weights(
    task: str, folder: Path, expected: dict[str, Any]
) -> None:
    model = Embedder.from_pretrained(folder, precision="float32", task=task)
    texts = expected["texts"]
    assert model.task == task
    # A single task has a single prompt, which every method puts before a text.
    for vectors in (model.encode(texts), model.encode_query(texts), model.encode_document(texts)):
        np.testing.assert_allclose(vectors, expected[task], atol=TOLERANCE)
    int8 = Embedder.from_pretrained(folder, task=task).encode(texts)
    assert (int8 * expected[task]).sum(axis=1).min() > 0.99


def test_retrieval_has_an_adapter_for_queries_and_one_for_documents(
    folder: Path, expected: dict[str, Any]
) -> None:
    texts = expected["texts"]
    model = Embedder.from_pretrained(folder, precision="float32")
    assert model.task == "retrieval"
    documents = model.encode_document(texts)
    engine: Any = model._engine
    assert engine._loaded is None  # that of queries costs memory, and nobody has asked anything
    queries = model.encode_query(texts)
    assert engine._loaded is not None
    np.testing.assert_allclose(documents, expected[DOCUMENTS], atol=TOLERANCE)
    np.testing.assert_allclose(queries, expected[QUERIES], atol=TOLERANCE)
    assert np.abs(queries - documents).max() > 1e-2
    # Both in one batch, as a server puts them together: the same bits as alone.
    both = [text for pair in zip(texts, texts, strict=True) for text in pair]
    prompts = [model.prompts["query"], model.prompts["document"]] * len(texts)
    mixed = model.encode([p + text for p, text in zip(prompts, both, strict=True)], prompt="")
    assert np.array_equal(mixed[0::2], queries)
    assert np.array_equal(mixed[1::2], documents)


def test_spans_of_queries_and_documents(folder: Path) -> None:
    model = Embedder.from_pretrained(folder)
    text = "the python module has a class and the data has text"
    spans = [(0, 17), (18, 51)]
    for prompt in (model.prompts["query"], model.prompts["document"]):
        vectors = model.encode_spans(text, spans, prompt=prompt)
        one = model.encode_spans(text, spans[1:], prompt=prompt)
        assert np.array_equal(vectors[1:], one)
    tokens = model.tokenizer.encode([model.prompts["query"] + text, text])
    engine: Any = model._engine
    first = tokens.offsets[:-1]
    parts = np.stack([first + 1, first + 4], axis=1)
    together = engine.encode(tokens, spans=parts)
    for i in range(2):
        alone = engine.encode(tokens.select(i, i + 1), spans=parts[i : i + 1] - first[i])
        assert np.array_equal(together[i], alone[0])


def test_what_decides_the_vectors_is_in_the_fingerprint_and_the_pickle(folder: Path) -> None:
    models = [Embedder.from_pretrained(folder, task=task) for task in (None, *TASKS)]
    assert len({model.fingerprint for model in models}) == 6
    for model in models[:2]:
        copy = pickle.loads(pickle.dumps(model))
        assert (copy.task, copy.fingerprint) == (model.task, model.fingerprint)


def test_a_batch_that_no_engine_accepts(folder: Path) -> None:
    model = Embedder.from_pretrained(folder)
    with pytest.raises(InputError, match="offsets must increase"):
        model.encode_ids(np.arange(3, dtype=np.int32), np.array([0, 2, 2, 3], np.int32))


@pytest.mark.parametrize("task", [None, "text-matching"])
def test_a_store_remembers_the_task(folder: Path, tmp_path: Path, task: str | None) -> None:
    model = Embedder.from_pretrained(folder, task=task)
    with Index.create(tmp_path / "kb", model) as index:
        index.add_texts(["A text."])
        before = index.search("a text")
    with Index.open(tmp_path / "kb") as index:
        assert index.embedder.task == model.task
        assert index.search("a text") == before


def test_a_task_that_the_model_does_not_have(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one of retrieval, retrieval\.query, .*: got 'search'"):
        Embedder.from_pretrained(folder, task="search")
    plain = write_tiny_model(tmp_path / "plain")
    with pytest.raises(InputError, match="has no adapters of tasks"):
        Embedder.from_pretrained(plain, task="retrieval")
    edit_json(folder / "config.json", lora_adaptations=["a", "b"], task_instructions={})
    with pytest.raises(InputError, match="one of a, b: got None"):
        Embedder.from_pretrained(folder)
    with pytest.raises(QuantizationError, match="an adapter for each task"):
        quantize(restored(folder), tmp_path / "int8")


def restored(folder: Path) -> Path:
    edit_json(folder / "config.json", lora_adaptations=list(TASKS))
    return folder


def test_queries_without_a_prompt_of_their_own(folder: Path) -> None:
    edit_json(folder / "config.json", task_instructions={})
    with pytest.raises(ModelFolderError, match=r"open it twice, with task='retrieval\.query'"):
        Embedder.from_pretrained(folder)
    assert Embedder.from_pretrained(folder, task=QUERIES).prompts["query"] == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": None}, "lora_rank and lora_alpha"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_adaptations": ["a", "a"]}, "each once"),
        ({"lora_adaptations": "a"}, "lora_adaptations"),
        ({"task_instructions": {"a": 1}}, "task_instructions"),
    ],
)
def test_a_config_that_contradicts_itself(
    changes: dict[str, Any], message: str, folder: Path
) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ModelFolderError, match=message):
        Embedder.from_pretrained(folder)


IN = "roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.0"


@pytest.mark.parametrize(
    ("edit_tensors", "message"),
    [
        (lambda tensors: tensors.pop(f"{IN}.lora_A"), "lora_A' is missing"),
        (
            lambda tensors: tensors.update({f"{IN}.lora_A": tensors[f"{IN}.lora_A"][:2]}),
            "the first for 5 tasks",
        ),
        (
            lambda tensors: tensors.update({f"{IN}.lora_B": tensors[f"{IN}.lora_B"][:, :3]}),
            "must multiply to",
        ),
        (
            lambda tensors: tensors.update(
                {f"{IN}.lora_A": np.full_like(tensors[f"{IN}.lora_A"], np.nan)}
            ),
            "must be finite",
        ),
    ],
)
def test_adapters_that_do_not_fit(
    edit_tensors: Callable[[Tensors], object], message: str, folder: Path
) -> None:
    change(folder, edit_tensors)
    with pytest.raises(WeightsError, match=message):
        Embedder.from_pretrained(folder)


def test_weights_without_the_adapters_of_the_config(folder: Path) -> None:
    def plain(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".parametrizations." in name]:
            tensor = tensors.pop(name)
            if name.endswith(".original"):
                tensors[f"{name.removesuffix('.parametrizations.weight.original')}.weight"] = tensor

    change(folder, plain)
    with pytest.raises(WeightsError, match="the weights have no adapters"):
        Embedder.from_pretrained(folder)


# --- PEFT -----------------------------------------------------------------------------------------
def as_peft(folder: Path) -> None:
    """Write the adapters of the file into folders of their own, as PEFT does."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for number, task in enumerate(TASKS):
        adapter = {}
        for name, stacked in tensors.items():
            start, inside, end = name.removeprefix("roberta.").partition(
                ".parametrizations.weight.0."
            )
            if not inside:
                continue
            part = np.ascontiguousarray(stacked[number])
            if start.endswith("_embeddings"):  # PEFT stores both the other way round
                end = f"lora_embedding_{end[-1]}"
                part = np.ascontiguousarray(part.T)
            else:
                end += ".weight"
            adapter[f"base_model.model.{start}.{end}"] = part
        place = folder / task.replace(".", "_")
        place.mkdir()
        save_file(adapter, place / "adapter_model.safetensors", {"format": "pt"})
        settings = {
            "peft_type": "LORA",
            "r": config["lora_rank"],
            "lora_alpha": config["lora_alpha"],
        }
        write_json(place / "adapter_config.json", {**settings, "bias": "none"})
    plain = {
        name.replace(".parametrizations.weight.original", ".weight"): tensor
        for name, tensor in tensors.items()
        if ".weight.0." not in name
    }
    save_file(plain, folder / "model.safetensors", {"format": "pt"})
    for key in ("lora_adaptations", "lora_rank", "lora_alpha", "task_instructions"):
        config.pop(key)
    write_json(folder / "config.json", config)


@pytest.mark.parametrize("task", TASKS)
def test_an_adapter_in_a_folder_of_its_own(
    task: str, folder: Path, expected: dict[str, Any]
) -> None:
    instruction = json.loads((folder / "config.json").read_text())["task_instructions"][task]
    as_peft(folder)
    model = Embedder.from_pretrained(folder, precision="float32", task=task)
    vectors = model.encode([instruction + text for text in expected["texts"]])
    np.testing.assert_allclose(vectors, expected[task], atol=TOLERANCE)


def test_prompts_of_a_folder_that_are_named_as_its_tasks(folder: Path) -> None:
    as_peft(folder)
    settings = folder / "config_sentence_transformers.json"
    edit_json(settings, prompts={"retrieval.query": "query: ", "document": "text: "})
    assert Embedder.from_pretrained(folder, task=QUERIES).prompts["query"] == "query: "
    both = Embedder.from_pretrained(folder)
    assert (both.prompts["query"], both.document_prompt) == ("query: ", "text: ")
    assert both.default_prompt_name is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedArchitectureError, "peft_type='IA3'"),
        ({"use_dora": True}, UnsupportedArchitectureError, "use_dora=True"),
        ({"modules_to_save": ["x"]}, UnsupportedArchitectureError, "modules_to_save"),
        ({"r": None}, ModelFolderError, "must have r and lora_alpha"),
    ],
)
def test_an_adapter_of_another_kind(
    changes: dict[str, Any], error: type[Exception], message: str, folder: Path
) -> None:
    as_peft(folder)
    edit_json(folder / "separation/adapter_config.json", **changes)
    with pytest.raises(error, match=message):
        Embedder.from_pretrained(folder, task="separation")


def test_an_adapter_of_another_model(folder: Path) -> None:
    as_peft(folder)
    path = folder / "separation/adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.other.lora_A.weight"] = np.zeros((2, 2), np.float32)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(WeightsError, match="adapts 'other', which the model does not have"):
        Embedder.from_pretrained(folder, task="separation")
    path.unlink()
    with pytest.raises(ModelFolderError, match=r"needs adapter_model\.safetensors"):
        Embedder.from_pretrained(folder, task="separation")
