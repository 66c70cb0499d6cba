"""Embedder: shapes, order, prompts, options, and every argument outside its rule."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from safetensors.numpy import load_file, save_file

from quaver.embedder import Embedder, encode_tokenized, tokenize_documents
from quaver.errors import (
    EngineError,
    InputError,
    PoolingError,
    TokenizerError,
    UnsupportedArchitectureError,
)
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.reference import encode as reference_encode
from tiny_model import (
    tiny_config,
    tiny_tensors,
    tiny_vocabulary,
    write_json,
    write_tiny_model,
)

TEXTS = [
    "the file of the list",
    "",
    "a function returns a value",
    "the file of the list",
    "x" * 300,
]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(tiny_folder, precision="float32")


@pytest.fixture(scope="module")
def int8(tiny_folder: Path) -> Embedder:
    return Embedder.from_pretrained(str(tiny_folder))


def test_the_source_finds_the_model_again(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    model = Embedder.from_pretrained("tiny")
    assert (model.name, model.source) == ("tiny", str(tiny_folder.resolve()))
    monkeypatch.chdir("/")
    assert Embedder.from_pretrained(model.source).fingerprint == model.fingerprint


def test_what_the_model_says(model: Embedder, int8: Embedder) -> None:
    assert (model.name, model.dimension, model.max_seq_length) == ("tiny", 64, 64)
    assert (model.precision, int8.precision) == ("float32", "int8")
    assert (model.truncate_dim, model.normalize, model.default_prompt_name) == (None, True, None)
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    assert model.document_prompt == "passage: "
    assert model.threads >= 1
    assert model.isa
    assert model.tokenizer.count("the file") == 2


def test_float32_is_the_reference(model: Embedder) -> None:
    config = tiny_config()
    spec = encoder_spec(config, pooling="mean", normalize=True)
    expected = reference_encode(
        spec, encoder_weights(spec, tiny_tensors(config)), model.tokenizer.encode(TEXTS)
    )
    # Sums of 64 to 256 float32 products in another order, through two layers.
    assert np.allclose(model.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "bfloat16-weights", "float32"])
def test_the_text_whose_vector_is_not_finite_is_named(precision: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "huge")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][tiny_vocabulary().index("python")] = np.where(np.arange(64) % 2, 3e38, -3e38)
    save_file(tensors, folder / "model.safetensors")
    model = Embedder.from_pretrained(folder, precision=precision)
    sound = ["the file", "the file", "a list of files"]
    assert np.isfinite(model.encode(sound)).all()
    for size in (2, 16384):  # also in the last of several batches
        with pytest.raises(EngineError, match="text 3 came out with NaN or infinity"):
            model.encode([*sound, "python code"], max_batch_tokens=size)
    with pytest.raises(EngineError, match="text 3 came out with NaN or infinity"):
        encode_tokenized(model, tokenize_documents(model, [*sound, "python code"]))


def test_int8_is_near_float32(model: Embedder, int8: Embedder) -> None:
    exact, quantized = model.encode(TEXTS), int8.encode(TEXTS)
    cosines = (exact * quantized).sum(axis=1)
    # Random weights lose more than trained ones; a wrong scale or zero point loses far more.
    assert cosines.min() > 0.99
    assert not np.array_equal(exact, quantized)


def test_shapes_and_types(model: Embedder) -> None:
    one, many, none = model.encode("the file"), model.encode(TEXTS), model.encode([])
    assert (one.shape, many.shape, none.shape) == ((64,), (5, 64), (0, 64))
    for vectors in (one, many, none):
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
    assert np.allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "dtype", "width"), [("int8", np.int8, 64), ("binary", np.uint8, 8)]
)
def test_other_outputs(model: Embedder, output: Any, dtype: type, width: int) -> None:
    for texts, shape in (("a", (width,)), (TEXTS, (5, width)), ([], (0, width))):
        vectors = model.encode(texts, output=output)
        assert (vectors.shape, vectors.dtype) == (shape, dtype)
        assert vectors.flags.c_contiguous
    assert model.encode("a", output="binary", truncate_dim=12).shape == (2,)


def test_a_text_has_the_same_bits_alone_and_in_any_batch(int8: Embedder) -> None:
    texts = [f"the value of key {i} in the list" + " file" * (i % 7) for i in range(50)]
    together = int8.encode(texts)
    for i in (0, 6, 49):
        assert np.array_equal(int8.encode(texts[i]), together[i])
    assert np.array_equal(int8.encode(texts[::-1])[::-1], together)
    for bound in (1, 17, 100, 2**31, sys.maxsize):
        assert np.array_equal(int8.encode(texts, max_batch_tokens=bound), together)


def test_more_texts_than_are_tokenized_at_once(
    int8: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"file {i}" for i in range(20)]
    expected = int8.encode(texts)
    monkeypatch.setattr("quaver.engine.batches._TEXTS_AT_ONCE", 3)
    assert np.array_equal(int8.encode(texts), expected)


def test_identical_texts_are_encoded_once(model: Embedder) -> None:
    twice = model.encode_with_report(["the file", "a list", "the file"])
    once = model.encode_with_report(["the file", "a list"])
    assert twice.tokens == once.tokens == 8
    assert np.array_equal(twice.vectors, once.vectors[[0, 1, 0]])


def test_the_report_counts_truncated_texts(model: Embedder) -> None:
    report = model.encode_with_report(["file " * 100, "file " * 62, "file " * 63, "file " * 100])
    assert (report.truncated, report.tokens) == (2, 3 * 64)
    assert np.array_equal(report.vectors[0], report.vectors[3])
    assert model.encode_with_report([]).tokens == 0


def test_generators_and_tuples_are_lists_of_texts(model: Embedder) -> None:
    expected = model.encode(["a", "b"])
    assert np.array_equal(model.encode(("a", "b")), expected)
    assert np.array_equal(model.encode(text for text in "ab"), expected)


def test_columns_of_strings_are_lists_of_texts(model: Embedder) -> None:
    expected = model.encode(["the file", "a list"])
    texts = ["the file", "a list"]
    columns = [np.array(texts), np.array(texts, object), pandas.Series(texts), polars.Series(texts)]
    for column in columns:
        assert np.array_equal(model.encode(column), expected)
        assert np.array_equal(next(model.encode_iter(column)), expected)


# --- encode_iter ----------------------------------------------------------------------------------
def test_blocks_are_the_vectors_of_encode(int8: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"file {i % 17} of the list" for i in range(50)]
    expected = int8.encode(texts)
    monkeypatch.setattr("quaver.engine.batches._TEXTS_AT_ONCE", 3)
    for size, lengths in ((1, [1] * 50), (20, [20, 20, 10]), (50, [50]), (4096, [50])):
        blocks = list(int8.encode_iter(iter(texts), block_size=size))
        assert [len(block) for block in blocks] == lengths
        assert np.array_equal(np.concatenate(blocks), expected)
    assert list(int8.encode_iter([])) == []


def test_blocks_take_the_options_of_encode(model: Embedder) -> None:
    options: Any = {"prompt_name": "query", "truncate_dim": 12, "output": "binary"}
    (block,) = model.encode_iter(TEXTS, **options)
    assert np.array_equal(block, model.encode(TEXTS, **options))
    (plain,) = model.encode_iter(TEXTS, prompt="passage: ", normalize=False, max_batch_tokens=1)
    assert np.array_equal(plain, model.encode(TEXTS, prompt="passage: ", normalize=False))


def test_an_endless_iterable_is_read_a_block_at_a_time(model: Embedder) -> None:
    read: list[int] = []

    def texts() -> Iterator[str]:
        for i in count():
            read.append(threading.get_ident())  # an iterator may belong to its thread
            yield f"file {i}"

    source = texts()
    blocks = model.encode_iter(source, block_size=4)
    assert read == []
    next(blocks)
    assert len(read) == 4
    next(blocks)
    assert read == [threading.get_ident()] * 8
    threads = threading.active_count()
    blocks.close()
    assert threading.active_count() == threads
    assert next(source) == "file 8"  # the texts are the caller's, and go on
    with pytest.raises(StopIteration):
        next(blocks)


def test_nothing_runs_between_two_blocks(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quaver.engine.batches._TEXTS_AT_ONCE", 2)
    for _ in model.encode_iter((f"file {i}" for i in range(20)), block_size=10):
        assert not [t for t in threading.enumerate() if t.name.startswith("quaver-tokenizer")]


def test_blocks_tokenize_while_they_encode(
    model: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.engine.batches._TEXTS_AT_ONCE", 2)
    second = threading.Event()
    tokenize, encode = model.tokenizer.encode, model._engine.encode

    def tokenizing(texts: Any, *args: Any, **options: Any) -> Any:
        if "files" in texts:
            second.set()
        return tokenize(texts, *args, **options)

    def encoding(*args: Any, **options: Any) -> Any:
        assert second.wait(60)  # the second piece comes while the first is encoded
        return encode(*args, **options)

    monkeypatch.setattr(model.tokenizer, "encode", tokenizing)
    monkeypatch.setattr(model._engine, "encode", encoding)
    (block,) = model.encode_iter(["the file", "a list", "a value", "files"])
    assert len(block) == 4


def test_blocks_before_a_failure_are_whole(model: Embedder) -> None:
    def texts() -> Iterator[str]:
        yield from ("the file", "a list", "a value")
        raise OSError("the disk is gone")

    blocks = model.encode_iter(texts(), block_size=2)
    assert next(blocks).shape == (2, 64)
    with pytest.raises(OSError, match="the disk is gone"):
        next(blocks)


@pytest.mark.parametrize(
    ("wrong", "message"), [(None, r"texts\[5\] is NoneType"), ("\ud800", "text 5 has half of")]
)
def test_the_position_is_that_among_all_texts(model: Embedder, wrong: Any, message: str) -> None:
    texts = ["a", "a", "a list", "a", "a", wrong]
    blocks = model.encode_iter(texts, block_size=3)
    next(blocks)
    with pytest.raises(InputError, match=message):
        next(blocks)
    with pytest.raises(InputError, match=message):
        model.encode(texts)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("a text", {}, "an iterable of str: got one str"),
        (b"bytes", {}, "decode texts"),
        ({"a", "b"}, {}, "no order"),
        (None, {}, "an iterable of str: got NoneType"),
        (["a"], {"block_size": 0}, "block_size must be a whole number of at least 1: got 0"),
        (["a"], {"output": "float16"}, "output must be"),
        (["a"], {"prompt_name": "missing"}, "no prompt is named 'missing'"),
        (["a"], {"truncate_dim": 65}, "truncate_dim"),
        (["a"], {"max_batch_tokens": 0}, "max_batch_tokens"),
    ],
)
def test_arguments_of_blocks_are_checked_at_once(
    model: Embedder, texts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.encode_iter(texts, **options)


# --- Prompts, options and similarity --------------------------------------------------------------
def test_prompts_go_before_the_text(model: Embedder) -> None:
    plain = model.encode("query: the file")
    assert np.array_equal(model.encode("the file", prompt_name="query"), plain)
    assert np.array_equal(model.encode("the file", prompt="query: "), plain)
    assert np.array_equal(model.encode_query("the file"), plain)
    document = model.encode("passage: the file")
    assert np.array_equal(model.encode_document("the file"), document)
    assert not np.array_equal(document, plain)


def test_models_without_prompts_use_none(tmp_path: Path) -> None:
    bare = Embedder.from_pretrained(write_tiny_model(tmp_path / "m", prompts={}))
    for encode in (bare.encode_query, bare.encode_document):
        assert np.array_equal(encode(["the file"]), bare.encode(["the file"]))


def test_the_passage_prompt_serves_documents(tiny_folder: Path) -> None:
    renamed = Embedder.from_pretrained(tiny_folder, prompts={"passage": "p: "})
    assert np.array_equal(renamed.encode_document("a"), renamed.encode("p: a"))


def test_the_default_prompt(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "m")
    settings = {"prompts": {"search": "find "}, "default_prompt_name": "search"}
    write_json(folder / "config_sentence_transformers.json", settings)
    model = Embedder.from_pretrained(folder)
    assert np.array_equal(model.encode("a"), model.encode("find a", prompt=""))
    assert np.array_equal(model.encode_query("a"), model.encode("a", prompt=""))


def test_truncate_dim_keeps_unit_length(model: Embedder, tiny_folder: Path) -> None:
    whole = model.encode(TEXTS)
    short = model.encode(TEXTS, truncate_dim=10)
    expected = whole[:, :10] / np.linalg.norm(whole[:, :10], axis=1, keepdims=True)
    assert np.allclose(short, expected, atol=1e-6)
    always = Embedder.from_pretrained(tiny_folder, precision="float32", truncate_dim=10)
    assert always.dimension == 10
    assert np.array_equal(always.encode(TEXTS), short)
    assert always.encode([]).shape == (0, 10)
    assert model.encode(TEXTS, truncate_dim=64).shape == (5, 64)


def test_normalize_can_be_overridden(model: Embedder, tiny_folder: Path) -> None:
    plain = model.encode(TEXTS, normalize=False)
    lengths = np.linalg.norm(plain, axis=1)
    assert abs(lengths - 1).min() > 0.1
    assert np.allclose(plain / lengths[:, None], model.encode(TEXTS), atol=1e-6)
    never = Embedder.from_pretrained(tiny_folder, precision="float32", normalize=False)
    assert np.array_equal(never.encode(TEXTS), plain)


def test_max_seq_length_can_be_lowered(tiny_folder: Path) -> None:
    short = Embedder.from_pretrained(tiny_folder, max_seq_length=5)
    assert short.max_seq_length == 5
    report = short.encode_with_report("the file of the list of files")
    assert (report.tokens, report.truncated) == (5, 1)


def test_similarity(model: Embedder, tmp_path: Path) -> None:
    vectors = model.encode(TEXTS[:3], normalize=False)
    scores = model.similarity(vectors[0], vectors)
    assert scores.shape == (3,)
    assert scores[0] == pytest.approx(1, abs=1e-6)
    folder = write_tiny_model(tmp_path / "dot", normalize=False)
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    dot = Embedder.from_pretrained(folder, precision="float32")
    assert np.allclose(dot.similarity(vectors, vectors), vectors @ vectors.T, rtol=1e-5)


def test_similarity_of_pairs(model: Embedder, tmp_path: Path) -> None:
    a = model.encode(TEXTS[:3], normalize=False)
    b = model.encode(TEXTS[2:], normalize=False)
    assert np.allclose(model.similarity_pairwise(a, b), np.diag(model.similarity(a, b)), atol=1e-6)
    assert model.similarity_pairwise(a[0], a[0]) == pytest.approx(1, abs=1e-6)
    assert model.similarity_pairwise(a[:0], b[:0]).shape == (0,)
    with pytest.raises(InputError, match=r"same shape: got \(3, 64\) and \(2, 64\)"):
        model.similarity_pairwise(a, b[:2])
    folder = write_tiny_model(tmp_path / "dot", normalize=False)
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    dot = Embedder.from_pretrained(folder, precision="float32")
    assert np.allclose(dot.similarity_pairwise(a, b), (a * b).sum(axis=1), rtol=1e-5)


def test_repr_says_what_runs(model: Embedder, int8: Embedder) -> None:
    for one in (model, int8):
        assert repr(one) == (
            f"Embedder('tiny', dimension=64, precision='{one.precision}', isa='{one.isa}', "
            f"threads={one.threads})"
        )


def test_the_fingerprint_says_which_vectors_compare(tiny_folder: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path = tiny_folder, **options: Any) -> str:
        return Embedder.from_pretrained(folder, **options).fingerprint

    same = fingerprint()
    assert len(same) == 64
    assert fingerprint(precision="float32") == same
    others = [
        fingerprint(write_tiny_model(tmp_path / "b", seed=1)),
        fingerprint(write_tiny_model(tmp_path / "c", pooling="cls")),
        fingerprint(truncate_dim=32),
        fingerprint(normalize=False),
        fingerprint(prompts={"document": "other: "}),
    ]
    assert len({same, *others}) == 6


def test_pooling_comes_from_the_folder_or_the_argument(tmp_path: Path, tiny_folder: Path) -> None:
    bare = write_tiny_model(tmp_path / "bare", pooling=None)
    with pytest.raises(PoolingError, match="does not say how to pool"):
        Embedder.from_pretrained(bare)
    cls = Embedder.from_pretrained(bare, pooling="cls", normalize=True, precision="float32")
    stated = write_tiny_model(tmp_path / "cls", pooling="cls")
    expected = Embedder.from_pretrained(stated, precision="float32").encode(TEXTS)
    assert np.array_equal(cls.encode(TEXTS), expected)
    with pytest.raises(PoolingError, match=r"trained with mean pooling.*got pooling='cls'"):
        Embedder.from_pretrained(tiny_folder, pooling="cls")
    other = write_tiny_model(tmp_path / "other")
    write_json(other / "1_Pooling" / "config.json", {"pooling_mode": "attention"})
    with pytest.raises(UnsupportedArchitectureError, match="'attention' is not supported"):
        Embedder.from_pretrained(other)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    folder = write_tiny_model(tmp_path / "m")
    write_json(folder / "config.json", {**tiny_config(), "vocab_size": 50})
    with pytest.raises(TokenizerError, match="the model has 50 rows"):
        Embedder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "int4"},
            "precision must be 'int8', 'bfloat16', 'bfloat16-weights' or 'float32': got 'int4'",
        ),
        ({"pooling": "cls+cls"}, "several joined by"),
        (
            {"pooling": "cls+sum"},
            r"pooling must be one of cls, mean, .*joined by \+: got 'cls\+sum'",
        ),
        ({"truncate_dim": 0}, "truncate_dim must be a whole number from 1 to 64: got 0"),
        ({"truncate_dim": 65}, "from 1 to 64: got 65"),
        ({"max_seq_length": 65}, "max_seq_length must be a whole number from 1 to 64: got 65"),
        ({"max_seq_length": 2}, "must leave room besides the 2 special tokens"),
        ({"prompts": {"query": 3}}, "prompts must map names to texts: got 'query': 3"),
        ({"prompts": ["query"]}, "prompts must map names to texts: got list"),
        ({"threads": 0}, "threads"),
    ],
)
def test_arguments_of_loading(tiny_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Embedder.from_pretrained(tiny_folder, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "missing"}, "no prompt is named 'missing': tiny has 'query', 'document'"),
        ({"prompt_name": ["query"]}, r"no prompt is named \['query'\]"),
        ({"prompt_name": "query", "prompt": "q"}, "give prompt or prompt_name"),
        ({"prompt": 3}, "prompt must be a str: got int"),
        ({"truncate_dim": 65}, "truncate_dim must be a whole number from 1 to 64: got 65"),
        ({"truncate_dim": True}, "truncate_dim"),
        ({"max_batch_tokens": 0}, "max_batch_tokens must be a whole number of at least 1: got 0"),
        ({"output": "float16"}, "output must be"),
    ],
)
def test_arguments_of_encoding(model: Embedder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.encode(["a"], **options)


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", {"a": 1}])
def test_texts_must_be_texts(model: Embedder, wrong: Any) -> None:
    with pytest.raises(InputError, match=f"a str or a list of str: got {type(wrong).__name__}"):
        model.encode(wrong)


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["a"]])
def test_an_item_that_is_no_text_is_named(model: Embedder, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"texts\[1\] is {type(wrong).__name__}"):
        model.encode(["a", wrong])


class FrameOfPandas:
    """What iterating a DataFrame gives: the names of its columns."""

    columns = ("text", "label")

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self.columns)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (FrameOfPandas(), r'table\["text"\].to_list\(\)'),
        (pyarrow.table({"text": ["a list"]}), r"give one of its columns"),
        ({"a", "b"}, r"no order; give sorted\(texts\)"),
        (frozenset(["a"]), "no order"),
        ({"text": "a"}, r"give list\(texts.values\(\)\)"),
        (b"text", "decode texts"),
        (np.array("text"), "a str or a list of str: got ndarray"),
    ],
)
def test_what_would_be_read_wrongly_as_a_list_is_refused(
    model: Embedder, wrong: Any, advice: str
) -> None:
    for call in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(InputError, match=advice):
            call(wrong)


def test_a_model_is_loaded_by_from_pretrained(tiny_folder: Path) -> None:
    for given in ("BAAI/bge-small-en-v1.5", tiny_folder):
        with pytest.raises(InputError, match=rf"Embedder.from_pretrained\('{given}'\)"):
            Embedder(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'device' \(leave it out: the engine runs on the CPU"):
        Embedder("BAAI/bge-small-en-v1.5", device="cpu")  # type: ignore[call-arg, arg-type]
    with pytest.raises(
        TypeError, match=r"'trust_remote_code' \(leave it out.*docs/guide/migration.md"
    ):
        Embedder.from_pretrained(tiny_folder, trust_remote_code=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("call", "options", "advice"),
    [
        ("encode", {"batch_size": 32}, "max_batch_tokens bounds its memory"),
        ("encode", {"normalize_embeddings": True}, "use normalize"),
        ("encode", {"convert_to_tensor": True}, "torch.from_numpy"),
        ("encode", {"convert_to_numpy": True}, "results are NumPy arrays"),
        ("encode", {"device": "cpu"}, "runs on the CPU"),
        ("encode", {"precision": "int8"}, "use output"),
        ("encode", {"output_value": "token_embeddings"}, "one vector for each text"),
        ("encode_query", {"prompt": "query: "}, r"encode\(texts, prompt=...\)"),
        ("encode_document", {"prompt_name": "x"}, r"encode\(texts, prompt_name=...\)"),
        ("encode_document", {"batch_size": 1, "device": "cpu"}, "'batch_size' .*; 'device' "),
    ],
)
def test_keywords_of_sentence_transformers_name_ours(
    model: Embedder, call: str, options: dict[str, Any], advice: str
) -> None:
    with pytest.raises(TypeError, match=advice) as raised:
        getattr(model, call)(["a list"], **options)
    assert f"Embedder.{call}() does not take" in str(raised.value)


def test_an_unknown_keyword_ends_as_python_ends_it(model: Embedder) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such_thing'"):
        model.encode(["a list"], no_such_thing=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="first argument"):
        model.encode(sentences=["a list"])  # type: ignore[call-overload]


def test_the_signature_stays_precise() -> None:
    for call in (
        Embedder.encode,
        Embedder.encode_iter,
        Embedder.encode_query,
        Embedder.from_pretrained,
    ):
        parameters = inspect.signature(call).parameters.values()
        assert not [p.name for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert "max_batch_tokens" in inspect.signature(Embedder.encode).parameters


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing keeps overloads since 3.11")
def test_the_return_type_is_precise() -> None:
    from typing import get_overloads

    for call in (Embedder.encode, Embedder.encode_query, Embedder.encode_document):
        found = [
            (inspect.signature(one).parameters["texts"].annotation, one.__annotations__["return"])
            for one in get_overloads(inspect.unwrap(call))
        ]
        expected = [
            ("str", "Vector"),
            ("Iterable[str]", "Matrix"),
            ("str", "ShortVector"),
            ("Iterable[str]", "ShortMatrix"),
        ]
        with_outputs = [] if call is Embedder.encode else [("str | Iterable[str]", "EncodedTexts")]
        assert found == expected + with_outputs


def test_several_python_threads_share_an_embedder(int8: Embedder) -> None:
    texts = [f"the value of key {i}" for i in range(40)]
    expected = int8.encode(texts)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda first: int8.encode(texts[first:]), range(40)):
            assert np.array_equal(got, expected[-len(got) :])


def test_half_a_surrogate_pair_is_an_input_error(model: Embedder) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        model.encode(["a", "\udc80"])


def test_the_progress_bar_goes_to_stderr(
    model: Embedder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.encode(TEXTS)
    model.encode(TEXTS, show_progress_bar=None)
    assert capsys.readouterr() == ("", "")
    model.encode(TEXTS, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err  # two of the texts are the same, and both count
    monkeypatch.setattr(sys, "stderr", None)
    assert model.encode(TEXTS, show_progress_bar=True).shape == (5, 64)


def test_importing_the_embedder_loads_no_network_and_no_torch() -> None:
    code = "import sys, quaver.embedder; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "transformers", "huggingface_hub", "tokenizers", "tqdm"}
