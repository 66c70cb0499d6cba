"""SparseEncoder and MultiVectorEncoder of sentence-transformers on Quaver's engine."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers as st
import torch

import quaver
from golden_folders import unpacked
from quaver.integrations.sentence_transformers import QuaverModule
from quaver.integrations.sentence_transformers_export import export_sentence_transformers

TEXTS = ["the file of her own", "a list of keys, and text!", "they return an error", "my own way"]
SPARSE = ["splade-bert", "splade-distilbert", "splade-modernbert"]
MULTI = ["colbert", "colbert-pylate", "colbert-stanford"]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:Sparse invariant checks are implicitly disabled:UserWarning",
    "ignore:Sparse CSR tensor support is in beta state:UserWarning",
)


def opened(kind: Any, folder: str, route: str, task: str, target: Path) -> Any:
    """Open a model with a class of sentence-transformers, by an exported folder or by the module alone."""
    if route == "module":
        return kind(modules=[QuaverModule(folder, task=task)], device="cpu")
    assert export_sentence_transformers(folder, target) == task
    return kind(str(target), trust_remote_code=True, device="cpu")


routes = pytest.mark.parametrize("route", ["module", "folder"])


@routes
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_encoder_gives_our_weights(name: str, route: str, tmp_path: Path) -> None:
    folder = str(unpacked(name, tmp_path))
    plain = quaver.SparseEncoder.from_pretrained(folder)
    model = opened(st.SparseEncoder, folder, route, "sparse", tmp_path / "st")
    for method in ("encode_query", "encode_document"):
        found, wanted = getattr(model, method)(TEXTS), getattr(plain, method)(TEXTS)
        assert found.is_sparse
        np.testing.assert_array_equal(found.to_dense().numpy(), wanted.to_dense())
    wanted = plain.encode(TEXTS, prompt="")
    np.testing.assert_array_equal(model.encode(TEXTS).to_dense().numpy(), wanted.to_dense())
    assert model.get_embedding_dimension() == plain.dimension
    assert model.similarity_fn_name == plain.similarity_fn_name
    scores = model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS))
    expected = plain.similarity(plain.encode_query(TEXTS), plain.encode_document(TEXTS))
    np.testing.assert_allclose(scores.to_dense().numpy(), expected, rtol=1e-5)
    words = {word for word, _ in plain.decode(plain.encode_document("the file"), top_k=3)}
    assert {word for word, _ in model.decode(model.encode_document("the file"), top_k=3)} == words
    few = model.encode_document(TEXTS, max_active_dims=4, convert_to_sparse_tensor=False)
    assert (few.numpy() > 0).sum(axis=1).tolist() == [4] * 4
    assert model.encode([]).shape[0] == 0


@routes
@pytest.mark.parametrize("name", MULTI)
def test_a_multi_vector_encoder_gives_our_vectors(name: str, route: str, tmp_path: Path) -> None:
    folder = str(unpacked(name, tmp_path))
    plain = quaver.MultiVectorEncoder.from_pretrained(folder)
    model = opened(st.MultiVectorEncoder, folder, route, "multi-vector", tmp_path / "st")
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    ours = plain.encode_query(TEXTS), plain.encode_document(TEXTS)
    for found, wanted in zip((queries, documents), ours, strict=True):
        assert len(found) == len(wanted) == len(TEXTS)
        for i, vectors in enumerate(found):
            np.testing.assert_array_equal(vectors.numpy(), wanted[i])
    scores = model.similarity(queries, documents).numpy()
    np.testing.assert_allclose(scores, plain.similarity(*ours), rtol=1e-5)
    assert model.similarity_fn_name == plain.similarity_fn_name
    assert model.get_embedding_dimension() == plain.dimension
    assert model.encode_document("one").shape == plain.encode_document("one").shape


@pytest.mark.parametrize(
    ("kind", "name", "task"),
    [
        (st.SparseEncoder, "splade-bert", "sparse"),
        (st.MultiVectorEncoder, "colbert", "multi-vector"),
    ],
)
def test_saving_and_pickling(kind: Any, name: str, task: str, tmp_path: Path) -> None:
    first = opened(kind, str(unpacked(name, tmp_path)), "folder", task, tmp_path / "st")
    first.save_pretrained(str(tmp_path / "saved"))
    again = kind(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    copied = pickle.loads(pickle.dumps(first[0]))
    assert copied.task == task
    for other in (again, kind(modules=[copied], device="cpu", prompts=first.prompts)):
        for a, b in zip(other.encode_query(TEXTS), first.encode_query(TEXTS), strict=True):
            assert torch.equal(a.to_dense(), b.to_dense())


def test_an_evaluator_of_the_library_runs(splade: str, colbert: str) -> None:
    from sentence_transformers.multi_vector_encoder import evaluation as multi
    from sentence_transformers.sparse_encoder import evaluation as sparse

    queries, corpus = {"q": TEXTS[1]}, {f"d{i}": text for i, text in enumerate(TEXTS)}
    relevant = {"q": {"d1"}}
    for kind, task, folder, evaluator in (
        (st.SparseEncoder, "sparse", splade, sparse.SparseInformationRetrievalEvaluator),
        (
            st.MultiVectorEncoder,
            "multi-vector",
            colbert,
            multi.MultiVectorInformationRetrievalEvaluator,
        ),
    ):
        model = kind(modules=[QuaverModule(folder, task=task)], device="cpu")
        found = evaluator(queries, corpus, relevant, write_csv=False)(model)
        best = [value for name, value in found.items() if name.endswith("accuracy@1")]
        assert best == [1.0]


def test_a_task_that_does_not_fit(tiny: str, splade: str) -> None:
    with pytest.raises(quaver.UnsupportedArchitectureError, match="open it with Embedder"):
        QuaverModule(tiny, task="sparse")
    with pytest.raises(quaver.UnsupportedArchitectureError, match="open it with SparseEncoder"):
        QuaverModule(splade)
    with pytest.raises(quaver.InputError, match="task must be 'embed', 'rank', 'sparse' or"):
        QuaverModule(tiny, task="dense")  # type: ignore[arg-type]
    with pytest.raises(quaver.InputError, match="pooling is for models with one vector"):
        export_sentence_transformers(splade, "unused", pooling="mean")


# --- Folders that `quaver quantize` writes, in sentence-transformers itself ------------------------
@pytest.mark.parametrize("name", [*SPARSE, "splade-xlm-roberta"])
def test_sentence_transformers_opens_a_quantized_sparse_encoder(name: str, tmp_path: Path) -> None:
    folder = str(unpacked(name, tmp_path))
    quaver.quantize(folder, tmp_path / "int8")
    model = st.SparseEncoder(str(tmp_path / "int8"), device="cpu")
    ours = quaver.SparseEncoder.from_pretrained(tmp_path / "int8", precision="float32")
    for method in ("encode_query", "encode_document"):
        found = getattr(model, method)(TEXTS).to_dense().numpy()
        np.testing.assert_allclose(found, getattr(ours, method)(TEXTS).to_dense(), atol=2e-5)


@pytest.mark.parametrize("name", [*MULTI, "colbert-modernbert"])
def test_sentence_transformers_opens_a_quantized_multi_vector_model(
    name: str, tmp_path: Path
) -> None:
    folder = str(unpacked(name, tmp_path))
    quaver.quantize(folder, tmp_path / "int8")
    model = st.MultiVectorEncoder(str(tmp_path / "int8"), device="cpu")
    ours = quaver.MultiVectorEncoder.from_pretrained(tmp_path / "int8", precision="float32")
    for method in ("encode_query", "encode_document"):
        wanted = getattr(ours, method)(TEXTS)
        for i, vectors in enumerate(getattr(model, method)(TEXTS)):
            np.testing.assert_allclose(vectors.numpy(), wanted[i], atol=2e-5)


# --- BGE-M3 ----------------------------------------------------------------------------------------
def test_bge_m3_is_its_formulas_in_torch(tmp_path: Path) -> None:
    """An XLM-RoBERTa with random weights and BGE-M3's files, beside transformers and torch."""
    import transformers
    from sentence_transformers.sentence_transformer import modules as models

    folder = unpacked("splade-xlm-roberta", tmp_path)
    for path in (*folder.glob("*sentence*"), folder / "modules.json"):
        path.unlink()
    encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    hidden = encoder.config.hidden_size
    torch.manual_seed(3)
    words, tokens = torch.nn.Linear(hidden, 1), torch.nn.Linear(hidden, hidden)
    for path in (*folder.glob("*.safetensors"), folder / "config.json"):
        path.unlink()
    encoder.save_pretrained(folder)
    model = st.SentenceTransformer(
        modules=[
            models.Transformer(str(folder)),
            models.Pooling(hidden, pooling_mode="cls"),
            models.Normalize(),
        ],
        device="cpu",
    )
    model.save_pretrained(str(tmp_path / "m3"))
    torch.save(words.state_dict(), tmp_path / "m3/sparse_linear.pt")
    torch.save(tokens.state_dict(), tmp_path / "m3/colbert_linear.pt")

    ours = quaver.Embedder.from_pretrained(tmp_path / "m3", precision="float32")
    texts = [*TEXTS, ""]
    found = ours.encode_document(texts, outputs=("dense", "sparse", "multi"))
    np.testing.assert_allclose(found.dense, model.encode(texts), atol=1e-5)
    named = ("cls_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
    special = [i for i in (getattr(tokenizer, name) for name in named) if i is not None]
    for i, text in enumerate(texts):
        read = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            states = encoder(**read).last_hidden_state[0]
            weights = torch.relu(words(states)).squeeze(-1)
            vectors = torch.nn.functional.normalize(tokens(states[1:]), dim=-1)
        expected = torch.zeros(ours.spec.vocab_size)
        expected = expected.scatter_reduce(0, read["input_ids"][0], weights, reduce="amax")
        expected[special] = 0
        np.testing.assert_allclose(found.sparse[i].to_dense(), expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.multi[i], vectors.numpy(), atol=1e-5)
