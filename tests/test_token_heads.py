"""BGE-M3's heads: vectors, weights of words and vectors of tokens in one pass through the engine."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import quaver
from quaver import (
    Embedder,
    EncodedTexts,
    InputError,
    ModelFolderError,
    MultiVectorEncoder,
    SparseEncoder,
    SparseVector,
    UnsupportedArchitectureError,
    WeightsError,
)
from quaver.engine import Engine, bytes_of_folder
from quaver.models import ModelFolder, encoder_weights
from quaver.reference import hidden_states
from tiny_model import write_json, write_tiny_model

TEXTS = ["the list of the files", "text and data, text", "", "an unknown \u4e2d word", "key " * 40]
HIDDEN, SIZE = 64, 24


def checkpoint(tensors: dict[str, NDArray[np.float32]]) -> bytes:
    """Write what torch.save writes for a dictionary of float32 tensors, without torch."""

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    body, files = b"\x80\x02}(", {}
    for key, (name, values) in enumerate(tensors.items()):
        files[f"m/data/{key}"] = values.tobytes()
        strides = [stride // 4 for stride in values.strides]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(key)) + text("cpu")
        body += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
        body += integer(values.size) + b"tQ" + integer(0)
        body += b"(" + b"".join(map(integer, values.shape)) + b"t"
        body += b"(" + b"".join(map(integer, strides)) + b"t\x89}tR"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as packed:
        for name, data in {"m/data.pkl": body + b"u.", **files}.items():
            packed.writestr(name, data)
    return content.getvalue()


def drawn(rows: int, seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        "weight": (rng.standard_normal((rows, HIDDEN)) * HIDDEN**-0.5).astype(np.float32),
        "bias": (rng.standard_normal(rows) * 0.1).astype(np.float32),
    }


WORDS, TOKENS = drawn(1, 1), drawn(SIZE, 2)


def write_m3(folder: Path, **options: Any) -> Path:
    """Write a tiny model with the files of BGE-M3."""
    write_tiny_model(folder, **{"pooling": "cls", "prompts": {}, **options})
    names = {"cls_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    write_json(folder / "tokenizer_config.json", names)
    (folder / "sparse_linear.pt").write_bytes(checkpoint(WORDS))
    (folder / "colbert_linear.pt").write_bytes(checkpoint(TOKENS))
    return folder


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_m3(tmp_path_factory.mktemp("models") / "m3")


def states(folder: Path, model: Embedder, text: str) -> tuple[list[int], NDArray[np.float32]]:
    """Compute the tokens of a text and the last state of each with the readable reference."""
    opened = ModelFolder.open(folder)
    spec = opened.encoder_spec(normalize=False)
    batch = model.tokenizer.encode([text])
    last = hidden_states(spec, encoder_weights(spec, opened.tensors()), batch)[-1]
    return batch.ids.tolist(), np.asarray(last, np.float32)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_float32_is_a_plain_computation(pooling: str, tmp_path: Path) -> None:
    folder = write_m3(tmp_path / "m3", pooling=pooling)
    model = Embedder.from_pretrained(folder, precision="float32")
    found = model.encode_document(TEXTS, outputs=("dense", "sparse", "multi"))
    assert isinstance(found, EncodedTexts)
    special = {model.tokenizer.token_id(t) for t in ("[CLS]", "[SEP]", "[PAD]", "[UNK]")}
    for i, text in enumerate(TEXTS):
        ids, h = states(folder, model, text)
        dense = h[0] if pooling == "cls" else h.mean(axis=0)
        np.testing.assert_allclose(found.dense[i], dense / np.linalg.norm(dense), atol=1e-5)
        weights = np.maximum(h @ WORDS["weight"][0] + WORDS["bias"][0], 0)
        expected: dict[int, float] = {}
        for word, weight in zip(ids, weights.tolist(), strict=True):
            if word not in special and weight > 0:
                expected[word] = max(weight, expected.get(word, 0))
        row = found.sparse[i]
        assert dict(zip(row.indices.tolist(), row.values.tolist(), strict=True)) == pytest.approx(
            expected, abs=1e-5
        )
        vectors = h[1:] @ TOKENS["weight"].T + TOKENS["bias"]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(found.multi[i], vectors, atol=1e-5)


def test_one_pass_is_one_pass(m3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Embedder.from_pretrained(m3)
    calls: list[int] = []
    encode_natively = Engine._encode

    def counted(self: Engine, batch: Any, spans: Any, position: Any) -> Any:
        calls.append(batch.tokens)
        return encode_natively(self, batch, spans, position)

    monkeypatch.setattr(Engine, "_encode", counted)
    model.encode_document(TEXTS, outputs=("dense", "sparse", "multi"))
    assert calls == [model.tokenizer.encode(TEXTS).tokens]


def test_the_same_bits_alone_and_as_without_outputs(m3: Path) -> None:
    model = Embedder.from_pretrained(m3)
    every = ("dense", "sparse", "multi")
    found = model.encode_document(TEXTS, outputs=every)
    np.testing.assert_array_equal(found.dense, model.encode_document(TEXTS))
    in_parts = model.encode_document(TEXTS, outputs=every, max_batch_tokens=1)
    np.testing.assert_array_equal(in_parts.multi.vectors, found.multi.vectors)
    np.testing.assert_array_equal(in_parts.sparse.values, found.sparse.values)
    for i, text in enumerate(TEXTS):
        alone = model.encode_document(text, outputs=every)
        assert isinstance(alone.sparse, SparseVector)
        np.testing.assert_array_equal(alone.dense, found.dense[i])
        np.testing.assert_array_equal(alone.sparse.values, found.sparse[i].values)
        assert len(alone.multi) == 1
        np.testing.assert_array_equal(alone.multi[0], found.multi[i])
    some = model.encode_query(TEXTS, outputs=["sparse"])
    assert some.dense is None
    assert some.multi is None
    np.testing.assert_array_equal(some.sparse.values, found.sparse.values)
    none = model.encode_document([], outputs=every)
    assert (len(none.dense), len(none.sparse), len(none.multi)) == (0, 0, 0)


def test_a_model_without_the_heads_has_the_same_vectors(m3: Path, tmp_path: Path) -> None:
    plain = write_tiny_model(tmp_path / "plain", pooling="cls", prompts={})
    for precision in ("int8", "float32", "bfloat16-weights"):
        both = [Embedder.from_pretrained(f, precision=precision).encode(TEXTS) for f in (m3, plain)]
        np.testing.assert_array_equal(*both)


def test_similarity_of_each_kind(m3: Path) -> None:
    model = Embedder.from_pretrained(m3)
    q = model.encode_query(TEXTS[:2], outputs=("dense", "sparse", "multi"))
    d = model.encode_document(TEXTS, outputs=("dense", "sparse", "multi"))
    np.testing.assert_allclose(model.similarity(q.dense, d.dense), q.dense @ d.dense.T, atol=1e-6)
    words = q.sparse.to_dense() @ d.sparse.to_dense().T
    np.testing.assert_allclose(model.similarity(q.sparse, d.sparse), words, rtol=1e-5)
    expected = [[(q.multi[i] @ d.multi[j].T).max(axis=1).mean() for j in range(5)] for i in (0, 1)]
    np.testing.assert_allclose(model.similarity(q.multi, d.multi), expected, rtol=1e-5)
    np.testing.assert_allclose(model.similarity(q.multi[0], d.multi), expected[0], rtol=1e-5)
    one = model.encode_document(TEXTS[1], outputs=("multi", "sparse"))
    np.testing.assert_allclose(
        model.similarity(q.multi, one.multi)[0, 0], expected[0][1], rtol=1e-5
    )
    np.testing.assert_allclose(model.similarity(q.sparse, one.sparse), words[:, 1], rtol=1e-5)
    with pytest.raises(InputError, match="SparseVector"):
        model.similarity(q.sparse, d.dense)
    with pytest.raises(InputError, match="TokenVectors"):
        model.similarity(q.multi, d.sparse.values)


def test_int8_and_binary(m3: Path) -> None:
    model = Embedder.from_pretrained(m3)
    every = ("dense", "multi")
    small = model.encode_document(TEXTS, outputs=every, output="int8")
    exact = model.encode_document(TEXTS, outputs=every)
    assert small.dense.dtype == small.multi.vectors.dtype == np.int8
    assert np.abs(small.multi.vectors / 127 - exact.multi.vectors).max() <= 0.5 / 127 + 1e-6
    packed = model.encode_document(TEXTS, outputs=every, output="binary")
    assert packed.multi.vectors.shape == (len(exact.multi.vectors), SIZE // 8)


def test_it_pickles_and_is_quantized_with_its_heads(m3: Path, tmp_path: Path) -> None:
    model = Embedder.from_pretrained(m3)
    again = pickle.loads(pickle.dumps(model))
    wanted = model.encode_document(TEXTS, outputs=("multi",)).multi.vectors
    np.testing.assert_array_equal(
        again.encode_document(TEXTS, outputs=("multi",)).multi.vectors, wanted
    )
    quaver.quantize(m3, tmp_path / "int8")
    small = Embedder.from_pretrained(tmp_path / "int8").encode_document(TEXTS, outputs=("multi",))
    assert (small.multi.vectors * wanted).sum(axis=1).min() > 0.98


def test_what_is_refused(m3: Path, tiny_folder: Path, tmp_path: Path) -> None:
    model = Embedder.from_pretrained(m3)
    for wrong in ((), ("dense", "dense"), ("sparse", "words"), "dense", {"dense"}, [["dense"]]):
        with pytest.raises(InputError, match="outputs must be some of 'dense', 'sparse', 'multi'"):
            model.encode_document(TEXTS, outputs=wrong)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="needs a model with heads for words and tokens"):
        Embedder.from_pretrained(tiny_folder).encode_document(TEXTS, outputs=("dense",))
    for opens in (SparseEncoder, MultiVectorEncoder):
        with pytest.raises(UnsupportedArchitectureError, match="open it with Embedder"):
            opens.from_pretrained(m3)  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedArchitectureError, match="Pooling of one kind"):
        Embedder.from_pretrained(write_m3(tmp_path / "two", pooling="cls+mean"))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("sparse_linear.pt", None, ModelFolderError, "or neither: it has colbert_linear.pt"),
        ("colbert_linear.pt", None, ModelFolderError, "or neither: it has sparse_linear.pt"),
        ("sparse_linear.pt", b"pickle", WeightsError, "no checkpoint of tensors"),
        ("sparse_linear.pt", checkpoint(TOKENS), WeightsError, r"must have a weight \(1, 64\)"),
        ("colbert_linear.pt", checkpoint({"w": WORDS["bias"]}), WeightsError, "weight and bias"),
        (
            "colbert_linear.pt",
            checkpoint({**TOKENS, "bias": np.full(SIZE, np.nan, np.float32)}),
            WeightsError,
            "NaN",
        ),
        (
            "colbert_linear.pt",
            checkpoint({"weight": np.ones((SIZE, 3), np.float32), "bias": TOKENS["bias"]}),
            WeightsError,
            r"must have a weight \(D, 64\)",
        ),
    ],
)
def test_broken_heads(
    name: str, content: bytes | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = write_m3(tmp_path / "m3")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=message):
        Embedder.from_pretrained(folder)


def test_nothing_of_a_head_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.mkdir, (tmp_path / "made",))

    folder = write_m3(tmp_path / "m3")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("m/data.pkl", pickle.dumps({"weight": Evil()}))
    (folder / "sparse_linear.pt").write_bytes(content.getvalue())
    with pytest.raises(WeightsError, match="no code of a file is ever run"):
        Embedder.from_pretrained(folder)
    assert not (tmp_path / "made").exists()


def test_the_bytes_of_the_heads_are_known_before_they_are_loaded(tmp_path: Path) -> None:
    folder = write_m3(tmp_path / "m3")
    needed = bytes_of_folder(ModelFolder.open_any(folder))
    assert needed == Embedder.from_pretrained(folder).nbytes
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (folder / name).unlink()
    assert bytes_of_folder(ModelFolder.open_any(folder)) < needed
