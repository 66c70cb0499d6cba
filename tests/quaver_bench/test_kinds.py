"""The kinds of models that the study measures, with tiny models and without torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_folders import unpacked
from quaver import CrossEncoder, MultiVectorEncoder, SparseEncoder
from quaver.cli import app
from quaver.errors import InputError
from quaver_bench.engines import Setup
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.quaver import QuaverEngine
from quaver_bench.engines.registry import FORMS, OURS
from quaver_bench.inputs import PaddedBatch, PairSource, case_lengths, get_case, pad
from quaver_bench.kinds import KINDS, mean_cosine, mean_difference
from quaver_bench.models import Model, open_model
from quaver_bench.record import describe_run
from quaver_bench.report import markdown, own_table
from quaver_bench.result import Result, Row, read_result
from quaver_bench.summary import caption, summary
from tiny_model import write_tiny_cross_encoder

TEXTS = [f"the file and the list of a class in python {i} error" for i in range(300)]


def cross_encoder(place: Path) -> Path:
    return write_tiny_cross_encoder(place / "pairs")


def sparse(place: Path) -> Path:
    return unpacked("splade-bert", place)


def multi_vector(place: Path) -> Path:
    """One that has a token before documents, and punctuation without vectors."""
    return unpacked("colbert-stanford", place)


FOLDERS = {"cross-encoder": cross_encoder, "sparse": sparse, "multi-vector": multi_vector}
every_kind = pytest.mark.parametrize(("kind", "folder"), FOLDERS.items(), ids=FOLDERS)


def setup_of(folder: Path, cache: Path) -> Setup:
    model = open_model(str(folder), cache)
    return Setup(model, 1, min(64, model.longest), ())


# --- Inputs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["1x5", "1x8", "1x61", "4x17", "ragged9"])
def test_pairs_have_exactly_the_tokens_of_the_case_and_one_query(tmp_path: Path, name: str) -> None:
    source = PairSource(cross_encoder(tmp_path) / "tokenizer.json", TEXTS)
    for request in get_case(name, source).requests:
        assert request.texts is not None
        assert [len(ids) for ids in request.ids] == case_lengths(name)
        queries = {text[0] for text in request.texts}
        assert len(queries) == 1
        assert all(text[1] for text in request.texts)


def test_a_pair_needs_a_word_on_each_side(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a pair must have a word on each side, 5 tokens: got 4"):
        get_case("2x4", PairSource(cross_encoder(tmp_path) / "tokenizer.json", TEXTS))


def test_token_types_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    setup = setup_of(cross_encoder(tmp_path), tmp_path)
    model = setup.model
    assert model.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert open_model(str(sparse(tmp_path)), tmp_path).inputs == ("input_ids", "attention_mask")
    pairs = [("a list", "the file of python"), ("the", "class"), ("code data text", "error")]
    encoder = CrossEncoder.from_pretrained(model.folder.path)
    expected = encoder.tokenizer.encode_pairs(pairs)
    ids = [np.asarray(ids, np.int64) for ids in np.split(expected.ids, expected.offsets[1:-1])]
    assert expected.type_ids is not None
    types = np.split(expected.type_ids, expected.offsets[1:-1])
    for batch in pad(ids, 2):
        found = batch.arrays(model.inputs)["token_type_ids"]
        for row, text in zip(found, batch.rows, strict=True):
            assert row[: len(ids[text])].tolist() == types[text].tolist()
            assert not row[len(ids[text]) :].any()


# --- Outputs --------------------------------------------------------------------------------------
@every_kind
def test_rows_are_those_of_the_class_of_the_kind(
    tmp_path: Path, kind: str, folder: Callable[[Path], Path]
) -> None:
    setup = setup_of(folder(tmp_path), tmp_path)
    assert setup.model.kind is KINDS[kind]
    source = setup.model.kind.source(setup.model.tokenizer_file(), TEXTS)
    request = source.request([9, 16, 12], seed=1, batch=2)
    texts: Any = list(request.texts or ())
    path = setup.model.folder.path
    if kind == "cross-encoder":
        encoder = CrossEncoder.from_pretrained(path, precision="float32")
        expected = encoder.predict(texts, activation="identity")[:, None]
    elif kind == "sparse":
        expected = SparseEncoder.from_pretrained(path, precision="float32").encode(texts).to_dense()
    else:
        model = MultiVectorEncoder.from_pretrained(path, precision="float32", max_seq_length=64)
        expected = model.encode_document(texts).vectors
    rows = setup.model.kind.plain(QuaverEngine(setup, "float32").prepare(request)())
    np.testing.assert_array_equal(rows, expected)
    assert setup.model.kind.fidelity(rows, expected) == pytest.approx(
        0.0 if kind == "cross-encoder" else 1.0, abs=1e-6
    )


@pytest.mark.parametrize("engine", ["torch-float32", "torch-bf16", "sentence-transformers"])
@every_kind
def test_other_libraries_compute_the_model(
    tmp_path: Path, kind: str, folder: Callable[[Path], Path], engine: str
) -> None:
    """Where torch is: `make test-sentence-transformers`."""
    form = FORMS[engine]
    if form.missing:
        pytest.skip(f"{', '.join(form.missing)} not installed")
    setup = setup_of(folder(tmp_path), tmp_path)
    source = setup.model.kind.source(setup.model.tokenizer_file(), TEXTS)
    request = source.request([9, 30, 16, 12, 30], seed=1, batch=2)
    plain = setup.model.kind.plain
    truth = plain(QuaverEngine(setup, "float32").prepare(request)())
    rows = plain(form.load(setup).prepare(request)())
    near = 0.05 if engine == "torch-bf16" else 1e-4
    exact = 0.0 if kind == "cross-encoder" else 1.0
    assert setup.model.kind.fidelity(rows, truth) == pytest.approx(exact, abs=near)


class Counted(PaddedEngine):
    """Returns the id of each token, so that the place of each is known."""

    def compute(self, inputs: PaddedBatch) -> Any:
        return inputs.ids[:, :, None].astype(np.float32)


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("colbert-stanford", ["[CLS]", "text", "a", "[SEP]"]),  # a token
        ("colbert", ["[CLS]", "text", ":", "a", "[SEP]"]),  # a prompt
        ("colbert-pylate", ["[CLS]", "[", "q", "]", "a", "[SEP]"]),  # a token that is not there
    ],
)
def test_a_padded_engine_gives_the_tokens_that_have_vectors(
    tmp_path: Path, name: str, begins: list[str]
) -> None:
    """In the order of the texts, with prompt and prefix, without padding and punctuation."""
    setup = setup_of(unpacked(name, tmp_path), tmp_path)
    texts = ["who? the file. what, the list!", "a", " ".join(["python code"] * 60)]
    rows = setup.model.kind.plain(Counted(setup).encode(texts))
    model = MultiVectorEncoder.from_pretrained(setup.model.folder.path, max_seq_length=64)
    offsets = model.encode_document(texts).offsets
    assert len(rows) == offsets[-1]
    vocabulary = setup.model.folder.tokenizer(64)
    ids = [rows[a:b, 0].astype(int).tolist() for a, b in pairwise(offsets)]
    assert [vocabulary.token(token) for token in ids[1]] == begins
    assert vocabulary.token_id("?") not in ids[0]
    assert len(ids[2]) <= 64


def test_fidelity_of_rows() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]], np.float32)
    assert mean_cosine(rows, 2 * rows) == pytest.approx(1.0)
    other = np.array([[4.0, 3.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    assert mean_cosine(rows, other) == pytest.approx((24 / 25 + 0 + 1) / 3)
    assert np.isnan(mean_cosine(rows, other[:2]))
    assert mean_difference(rows, other) == pytest.approx((1 + 1 + 1 + 0 + 0 + 1) / 6)
    assert np.isnan(mean_difference(rows, rows[:1]))


def test_the_words_of_a_vocabulary_count_as_products(tmp_path: Path) -> None:
    model = open_model(str(sparse(tmp_path)), tmp_path)
    hidden, words = model.folder.config["hidden_size"], model.folder.config["vocab_size"]
    one, two = model.multiply_adds([8]), model.multiply_adds([8, 8])
    assert two == 2 * one
    assert one > 8 * hidden * (hidden + words)


# --- The command ----------------------------------------------------------------------------------
def bench(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def options(folder: Path, corpus: Path, out: Path) -> list[object]:
    return [
        *(folder, "--against", "quaver,torch-bf16", "--corpus", corpus, "--name", "tiny"),
        *("--cases", "1x8,3x12", "--seconds", 0, "--rounds", 1, "--out", out),
        *("--cache-folder", out.parent / "cache", "--environments", out.parent),
    ]


class Wrong:
    """An engine that computes something else."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, setup: Any) -> None:  # noqa: D107
        self._setup = setup

    def prepare(self, request: Any) -> Any:
        model: Model = self._setup.model
        rows = model.kind.plain(QuaverEngine(self._setup, "float32").prepare(request)())
        far = rows + 5 if model.kind.name == "cross-encoder" else -np.abs(rows) - 1

        def run() -> Any:
            time.sleep(0.001)
            return far

        return run


@every_kind
def test_the_command_measures_every_kind(
    tmp_path: Path,
    corpus_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    folder: Callable[[Path], Path],
) -> None:
    wrong = replace(FORMS["torch-bf16"], packages=(), load=Wrong)
    monkeypatch.setitem(FORMS, "torch-bf16", wrong)
    done = bench(*options(folder(tmp_path), corpus_file, tmp_path / "out"))
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "out")
    assert result.models["tiny"]["kind"] == kind
    assert result.missing == {}
    assert {row.key[2:] for row in result.rows} == {
        (case, engine)
        for case in ("1x8", "3x12")
        for engine in (OURS, "quaver-float32", "torch-bf16")
    }
    for row in result.rows:
        figure = row.score_difference if kind == "cross-encoder" else row.cosine
        other = row.cosine if kind == "cross-encoder" else row.score_difference
        assert figure is not None
        assert other is None
        assert row.sound == (row.engine != "torch-bf16")
        assert (row.ratio is None) == (row.engine != "quaver-float32")
    assert done.output.count("computes something else: mean") == 2
    report = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    title = "score difference" if kind == "cross-encoder" else "cosine"
    assert f"| {title} | Quaver int8 is faster by |" in report
    assert f"## tiny ({result.models['tiny']['describe']}, {KINDS[kind].title})" in report
    assert "start from text, tokenization included" in report
    assert report.count("| computes something else |") == 2
    assert result.runs[0]["seconds"].keys() == {
        *("tiny, loading", "tiny, latency 1x8", "tiny, throughput 3x12")
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--parts", "start"], "a sparse encoder is measured in latency and throughput: got"),
        (["--shapes", "small"], "--shapes is for embedding models"),
        (["--random-ids"], "--random-ids is for embedding models"),
        (["--against", "fastembed"], "a sparse encoder is measured with quaver-int8"),
    ],
)
def test_what_a_kind_has_not_is_refused(
    tmp_path: Path, corpus_file: Path, more: list[str], message: str
) -> None:
    done = bench(*options(sparse(tmp_path), corpus_file, tmp_path / "out"), *more)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


@every_kind
def test_a_model_alone_has_the_cases_of_its_kind(
    tmp_path: Path, corpus_file: Path, kind: str, folder: Callable[[Path], Path]
) -> None:
    """The tiny models read 64 tokens; what is longer is said, and measured nowhere."""
    done = bench(
        *(folder(tmp_path), "--corpus", corpus_file, "--seconds", 0, "--rounds", 1),
        *("--cache-folder", tmp_path / "cache", "--environments", tmp_path),
    )
    assert done.exit_code == 0, done.output
    for case in KINDS[kind].own:
        shown = case.replace("x", " x ")
        assert shown in done.stdout or f"{case}): the model reads" in done.stdout


def row(engine: str, case: str, *, difference: float, ratio: float | None = None) -> Row:
    part = "latency" if case.startswith("1x") else "throughput"
    values = {"median_ms": 10.0, "texts_per_second": 100.0, "tokens_per_second": 1000.0}
    values |= {f"p{p}_ms": 10.0 for p in (50, 95, 99)}
    ratios = None if ratio is None else [ratio] * 3
    return Row(part, "pairs", case, engine, 0, values, ratios, score_difference=difference)


def test_tables_show_differences_of_scores() -> None:
    result = Result(
        [describe_run(2, ["quaver"])],
        {
            "pairs": {
                **dict.fromkeys(("describe", "weights", "pooling"), ""),
                "kind": "cross-encoder",
            }
        },
        rows=[
            row(OURS, "50x128", difference=0.034),
            row("quaver-float32", "50x128", difference=0.0, ratio=3.0),
            row("onnxruntime-int8-dynamic", "50x128", difference=0.25, ratio=2.0),
        ],
    )
    assert "| 50 x 128 | 10.0 (0.034) |" in summary(result)
    assert "10.0 (int8-dynamic, 0.250) **2.00**" in summary(result)
    assert "the mean difference of its scores" in caption(result)
    assert "score difference" in own_table(result).splitlines()[2]
    assert "| 50x128 | onnxruntime-int8-dynamic |" in markdown(result)
    assert "0.2500 | **2.00**" in markdown(result)
