"""Static models, as model2vec and sentence-transformers wrote them and with what they computed.

tests/golden/folders holds tiny random models: `tools/module_folders.py --golden`.
"""

from __future__ import annotations

import json
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, normalizers, pre_tokenizers

from golden_folders import unpacked, unpacked_with_outputs
from quaver import (
    BiEncoderRanker,
    CrossEncoder,
    Embedder,
    EngineError,
    Index,
    InputError,
    ModelError,
    ModelFolderError,
    PoolingError,
    QuantizationError,
    Ranker,
    TokenizerError,
    TokenRangeError,
    UnsupportedArchitectureError,
    WeightsError,
    quantize,
)
from quaver.engine import word_pieces
from quaver.index.embedding import passage_budget
from tiny_model import tiny_tokenizer, tiny_vocabulary, write_json

KINDS = ["float32", "float16", "int8", "clusters", "unigram"]
NAMES = ["static-embedding", *(f"model2vec-{kind}" for kind in KINDS)]


def change(folder: Path, **tensors: np.ndarray | None) -> Path:
    """Write other tensors; None takes one away."""
    path = next(folder.rglob("model.safetensors"))
    values = {**load_file(path), **{name.replace("__", "."): t for name, t in tensors.items()}}
    save_file({name: np.ascontiguousarray(t) for name, t in values.items() if t is not None}, path)
    return folder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return unpacked("model2vec-float32", tmp_path)


@pytest.fixture
def clusters(tmp_path: Path) -> Path:
    return unpacked("model2vec-clusters", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_the_library_that_wrote_the_folder(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = Embedder.from_pretrained(folder)
    # model2vec rounds its vectors to half precision if its table has it.
    tolerance = 3e-4 if name.endswith("float16") else 1e-6
    vectors = model.encode(expected["texts"])
    np.testing.assert_allclose(vectors, expected["vectors"], atol=tolerance)
    if "queries" in expected:
        queries = model.encode_query(expected["texts"])
        np.testing.assert_allclose(queries, expected["queries"], atol=tolerance)
        similarity = model.similarity(vectors, vectors)
        np.testing.assert_allclose(similarity, expected["similarity"], atol=1e-6)
    assert (model.dimension, model.spec.pooling, model.threads) == (16, "mean", 1)
    assert model.precision == ("int8" if name.endswith("int8") else "float32")


@pytest.mark.parametrize("name", NAMES)
def test_a_text_alone_has_the_same_bits(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model, texts = Embedder.from_pretrained(folder), expected["texts"]
    whole = model.encode(texts)
    assert np.array_equal(whole, np.stack([model.encode(text) for text in texts]))
    assert np.array_equal(whole, model.encode(texts, max_batch_tokens=3))
    assert np.array_equal(whole[::-1], model.encode(texts[::-1]))
    assert np.array_equal(whole, np.concatenate([*model.encode_iter(texts, block_size=3)]))


def test_what_a_folder_says(tmp_path: Path) -> None:
    lengths = {name: Embedder.from_pretrained(unpacked(name, tmp_path)) for name in NAMES}
    assert lengths["model2vec-float32"].max_seq_length == 12
    assert lengths["model2vec-unigram"].max_seq_length == 2**31 - 1
    # The tiny tokenizer's own truncation, which sentence-transformers follows, was taken out.
    assert lengths["static-embedding"].max_seq_length == 2**31 - 1
    assert [model.normalize for model in lengths.values()] == [True] * 5 + [False]
    assert lengths["static-embedding"].prompts["query"] == "query: "
    assert len({model.fingerprint for model in lengths.values()}) == len(NAMES)


def test_a_text_is_cut_and_counted(words: Path) -> None:
    model = Embedder.from_pretrained(words)
    report = model.encode_with_report(["the file", "the file " * 20, "f" * 5000])
    assert report.truncated == 2
    assert report.tokens <= 2 + 12 + 12
    longer = Embedder.from_pretrained(words, max_seq_length=100)
    assert longer.encode_with_report("the file " * 20).tokens == 40
    assert longer.tokenizer.count("the file " * 200) == 400


def test_the_truncation_of_tokenizer_json_holds_for_a_static_embedding(tmp_path: Path) -> None:
    folder = unpacked("static-embedding", tmp_path)
    path = next(folder.rglob("tokenizer.json"))
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    write_json(path, {**json.loads(path.read_text()), "truncation": truncation})
    model = Embedder.from_pretrained(folder)
    assert model.max_seq_length == 3
    assert np.array_equal(model.encode("the of and to in"), model.encode("the of and"))


def test_no_words_are_a_vector_of_zeros(words: Path) -> None:
    model = Embedder.from_pretrained(words)
    assert not model.encode(["", "\u2603"]).any()
    assert model.encode([]).shape == (0, 16)
    assert model.encode(["", "the"], output="int8").dtype == np.int8
    assert model.encode("the", output="binary").shape == (2,)
    assert model.encode("the", truncate_dim=5).shape == (5,)
    assert np.linalg.norm(model.encode("the", normalize=False)) > 1.5


def test_without_modules_json(words: Path) -> None:
    expected = Embedder.from_pretrained(words).encode("the file")
    (words / "modules.json").unlink()
    write_json(words / "config.json", {"model_type": "model2vec", "normalize": True})
    assert np.allclose(Embedder.from_pretrained(words).encode("the file"), expected)


def test_it_pickles_and_ranks(words: Path) -> None:
    model = Embedder.from_pretrained(words)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.encode("the file"), model.encode("the file"))
    assert "static" not in repr(model)
    ranker = Ranker.from_pretrained(words)
    assert isinstance(ranker, BiEncoderRanker)
    assert ranker.rank("the file", ["a list", "the file"])[0].index == 1


def test_an_index_of_a_static_model(words: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text("the file has the class\n\na list of words\n")
    (tmp_path / "docs/b.txt").write_text("import the python module\n")
    with Index.create(tmp_path / "kb", Embedder.from_pretrained(words)) as index:
        assert index.update(tmp_path / "docs").added == 3
    with Index.open(tmp_path / "kb") as index:
        hits = index.search("python module", mode="dense")
        assert hits[0].source.endswith("b.txt")


def test_passages_of_a_model_without_a_bound(tmp_path: Path) -> None:
    assert passage_budget(Embedder.from_pretrained(unpacked("model2vec-unigram", tmp_path))) == 512
    assert passage_budget(Embedder.from_pretrained(unpacked("model2vec-int8", tmp_path))) == 12


def test_token_ids_of_the_caller(clusters: Path) -> None:
    model = Embedder.from_pretrained(clusters)
    batch = model.tokenizer.encode(["the file", "", "a list"])
    vectors = model.encode_ids(batch.ids, batch.offsets)
    assert np.array_equal(vectors, model.encode(["the file", "", "a list"]))
    rows = len(tiny_vocabulary())
    for ids, error in (([0, rows], TokenRangeError), ([-1], TokenRangeError)):
        with pytest.raises(error, match=f"must be in 0..{rows - 1}"):
            model.encode_ids(np.array(ids, np.int32), np.array([0, len(ids)], np.int32))
    for offsets in ([0], [1, 2], [0, 2, 1, 3], []):
        with pytest.raises(InputError, match="offsets must rise from 0"):
            model.encode_ids(np.zeros(3, np.int32), np.array(offsets, np.int32))
    with pytest.raises(InputError, match="must be int32"):
        model.encode_ids(np.zeros(3), np.array([0, 3], np.int32))  # type: ignore[arg-type]


# --- Words looked up ------------------------------------------------------------------------------
PIECES = [
    *(
        "the",
        "File",
        "CLASS",
        "classes",
        "zebra",
        "x" * 99,
        "y" * 101,
        "z" * 3000,
        "3.14",
        "a_b",
        "e-mail",
    ),
    *(
        "[MASK]",
        "[CLS",
        "[mask]",
        "##ing",
        "it's",
        "\x00",
        "a\x07b",
        "\x0b",
        "\x1c",
        "\t",
        "\r\n",
        "  ",
    ),
    *("na\u00efve", "\u4e2d\u6587", "\u00a0", "\u2028", "!?", "~`|", "\x7f", "0x1F"),
]


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_looked_up_are_what_the_library_gives(
    lowercase: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tiny_tokenizer()
    backend.no_truncation()
    backend.no_padding()
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    draw = random.Random(3)
    texts = [
        draw.choice(("", " ")).join(draw.choices(PIECES, k=draw.randrange(12))) for _ in range(2000)
    ]
    truth = [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    longest = max(map(len, truth))

    def rows(given: list[str], most: int = longest) -> list[list[int]]:
        ids, offsets = words.encode(given, most)
        assert ids.dtype == offsets.dtype == np.int32
        assert offsets[-1] == len(ids)
        return [ids[i:j].tolist() for i, j in pairwise(offsets.tolist())]

    for kept in (100_000, 20):
        monkeypatch.setattr(word_pieces, "_MAX_WORDS", kept)
        made = word_pieces.word_pieces(backend)
        assert made is not None
        words = made
        for _ in range(2):
            assert rows(texts) == truth
        assert [rows([text])[0] for text in texts[:100]] == truth[:100]
        assert len(words) <= kept
        for most in (0, 1, 5):
            for row, all_of_it in zip(rows(texts, most), truth, strict=True):
                assert row[: most + 1] == all_of_it[: most + 1]
    with ThreadPoolExecutor(4) as pool:
        assert all(found == truth for found in pool.map(rows, [texts] * 8))
    assert rows([]) == []


def test_a_text_is_read_no_further_than_needed() -> None:
    backend = tiny_tokenizer()
    backend.no_truncation()
    backend.no_padding()
    words = word_pieces.word_pieces(backend)
    assert words is not None
    ids, _ = words.encode(["a " * 1000], 10)
    assert len(ids) == 11


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
        lambda t: setattr(t, "normalizer", normalizers.BertNormalizer(clean_text=False)),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda t: t.add_tokens([AddedToken("Class", normalized=True)]),
        lambda t: t.add_special_tokens([f"[{i}]" for i in range(40)]),
    ],
)
def test_other_tokenizers_take_the_librarys_way(change: Any) -> None:
    backend = tiny_tokenizer()
    assert word_pieces.word_pieces(backend) is not None
    change(backend)
    assert word_pieces.word_pieces(backend) is None


# --- Refusals -------------------------------------------------------------------------------------
def test_options_that_a_table_does_not_have(words: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a table that no kernel runs: got isa='scalar'"):
        Embedder.from_pretrained(words, isa="scalar")
    with pytest.raises(
        PoolingError, match="whose vector is the mean over tokens: got pooling='cls'"
    ):
        Embedder.from_pretrained(words, pooling="cls")
    with pytest.raises(InputError, match="threads must be"):
        Embedder.from_pretrained(words, threads=0)
    with pytest.raises(InputError, match="max_seq_length must be"):
        Embedder.from_pretrained(words, max_seq_length=0)
    with pytest.raises(QuantizationError, match="a table without layers to quantize"):
        quantize(words, tmp_path / "int8")
    with pytest.raises(
        UnsupportedArchitectureError, match=r"open it with Embedder\.from_pretrained"
    ):
        CrossEncoder.from_pretrained(words)
    assert Embedder.from_pretrained(words, pooling="mean", threads=2, precision="int8").threads == 1


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embeddings": None}, "has a tensor 'embeddings'"),
        ({"embeddings": np.zeros(16, np.float32)}, "must have a row for each token"),
        ({"embeddings": np.zeros((40, 0), np.float32)}, "must have a row for each token"),
        ({"embeddings": np.zeros((40, 16), np.int64)}, "must hold floats or int8"),
        ({"embeddings": np.full((40, 16), np.nan, np.float32)}, "must be finite"),
        ({"embeddings": np.full((40, 16), np.inf, np.float16)}, "must be finite"),
        ({"mapping": np.full(300, 40)}, "'mapping' must be in 0..39"),
        ({"mapping": np.full(300, -1)}, "'mapping' must be in 0..39"),
        ({"mapping": np.zeros(300, np.float32)}, "'mapping' must hold the row of each token"),
        ({"mapping": np.zeros((300, 1), np.int64)}, "'mapping' must hold the row of each token"),
        ({"mapping": np.zeros(0, np.int64)}, "'mapping' must hold the row of each token"),
        ({"weights": np.ones(3, np.float32)}, "'weights' must have one value for each of"),
        ({"weights": np.ones(300, np.int64)}, "'weights' must hold a float for each token"),
        ({"weights": np.full(300, np.nan)}, "'weights' must be finite"),
    ],
)
def test_tables_that_no_library_writes(
    tensors: dict[str, Any], message: str, clusters: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        Embedder.from_pretrained(change(clusters, **tensors))


def test_a_table_of_another_tokenizer(words: Path, clusters: Path) -> None:
    for folder, name in ((words, "embeddings"), (clusters, "mapping")):
        rows = load_file(folder / "model.safetensors")[name]
        weights = {"weights": None} if name == "mapping" else {}
        change(folder, **{name: rows[:100]}, **weights)
        with pytest.raises(TokenizerError, match="every token needs a row"):
            Embedder.from_pretrained(folder)


def test_sums_that_leave_float32(words: Path) -> None:
    rows = np.full((len(tiny_vocabulary()), 16), 3e38, np.float32)
    model = Embedder.from_pretrained(change(words, embeddings=rows))
    with pytest.raises(EngineError, match="text 1 came out with NaN or infinity"):
        model.encode(["the", "the of and to in"])


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("config.json", {"normalize": "yes", "model_type": "model2vec"}, ModelFolderError),
        ("config.json", {"max_length": 0}, ModelFolderError),
        ("config.json", {"max_length": -5}, ModelFolderError),
        ("modules.json", [{"type": "a.StaticEmbedding", "path": "../.."}], ModelFolderError),
        (
            "modules.json",
            [{"type": "a.StaticEmbedding", "path": "."}, {"type": "a.Dense", "path": "1"}],
            UnsupportedArchitectureError,
        ),
        ("modules.json", [{"type": "a.StaticEmbedding", "path": "gone"}], ModelError),
    ],
)
def test_broken_files(name: str, content: Any, error: type[Exception], words: Path) -> None:
    write_json(words / name, content)
    with pytest.raises(error):
        Embedder.from_pretrained(words)
