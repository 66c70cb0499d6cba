"""Weights of words, vectors of tokens and scores of pairs are those of the library, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_bulk import TEXTS, digests, write_corpus
from typer.testing import CliRunner

from golden_folders import needing_an_instruction, unpacked
from quaver import (
    BulkError,
    CrossEncoder,
    InputError,
    MultiVectorEncoder,
    SparseEncoder,
    UnsupportedArchitectureError,
    cli,
)
from quaver.bulk import BulkReport, embed, plan
from tiny_model import write_tiny_cross_encoder

# Every tenth row has no text.
SOME: list[str | None] = [None if i % 10 == 3 else text for i, text in enumerate(TEXTS[:300])]
PRESENT = [text for text in SOME if text is not None]


@pytest.fixture(scope="module")
def cross_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cross_encoder(tmp_path_factory.mktemp("models") / "cross")


def table_of(report: BulkReport) -> pa.Table:
    """Return all outputs in the order of the manifest."""
    files = [Path(report.target) / record.output for record in report.records]
    return pa.concat_tables([parquet.read_table(file) for file in files])


def write_pairs(path: Path, pairs: list[tuple[Any, Any]]) -> Path:
    if path.suffix == ".jsonl":
        lines = [
            json.dumps({"id": i, "query": a, "body": b}) + "\n" for i, (a, b) in enumerate(pairs)
        ]
        path.write_text("".join(lines))
    elif path.suffix == ".csv":
        path.write_text(
            "query,id,body\n" + "".join(f'"{a}",{i},"{b}"\n' for i, (a, b) in enumerate(pairs))
        )
    else:
        columns = {
            "id": range(len(pairs)),
            "query": [a for a, _ in pairs],
            "body": [b for _, b in pairs],
        }
        parquet.write_table(
            pa.table({k: list(v) for k, v in columns.items()}), path, row_group_size=100
        )
    return path


PAIRS = [(" ".join(a.split()[:9]), b) for a, b in zip(TEXTS[:300], TEXTS[300:600], strict=True)]


# --- Scores ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("activation", [None, "identity"])
def test_scores_of_pairs_are_those_of_predict(
    name: str, activation: Any, tmp_path: Path, cross_folder: Path
) -> None:
    source = write_pairs(tmp_path / name, PAIRS)
    report = embed(
        source,
        tmp_path / "out",
        model=cross_folder,
        pair_columns=("query", "body"),
        activation=activation,
        keep=["id"],
        shard_bytes=8_000,
    )
    want = CrossEncoder.from_pretrained(cross_folder).predict(PAIRS, activation=activation)
    table = table_of(report)
    assert np.array_equal(table["score"].to_numpy(), want)
    assert [int(i) for i in table["id"].to_pylist()] == list(range(300))
    assert report.tokens > 0
    assert (len(report.records) > 1) == (name != "a.csv")


def test_scores_as_an_array_and_of_several_labels(tmp_path: Path, cross_folder: Path) -> None:
    source = write_pairs(tmp_path / "a.parquet", PAIRS[:50])
    pair: Any = {"pair_columns": ("query", "body")}
    one = embed(source, tmp_path / "one", model=cross_folder, format="npy", **pair)
    want = CrossEncoder.from_pretrained(cross_folder).predict(PAIRS[:50])
    found = np.load(tmp_path / "one" / one.records[0].output, mmap_mode="r")
    assert found.shape == (50,)
    assert np.array_equal(found, want)
    three = write_tiny_cross_encoder(tmp_path / "three", labels=3)
    want = CrossEncoder.from_pretrained(three).predict(PAIRS[:50])
    report = embed(source, tmp_path / "columns", model=three, **pair)
    assert np.array_equal(np.array(table_of(report)["scores"].to_pylist(), np.float32), want)
    report = embed(source, tmp_path / "array", model=three, format="npy", **pair)
    assert np.array_equal(np.load(tmp_path / "array" / report.records[0].output), want)


def test_a_pair_without_both_texts_keeps_its_place(tmp_path: Path, cross_folder: Path) -> None:
    long = " ".join(["file"] * 80)
    bad: list[tuple[Any, Any, str]] = [
        (None, "the file", "query: null"),
        ("list", None, "body: null"),
        ("list", 5, "body: not text: int"),
        (long, "the file", "the first text of a pair must leave room"),
    ]
    pairs = [("the list", "a file"), *((a, b) for a, b, _ in bad), ("file", "list")]
    source = write_pairs(tmp_path / "a.jsonl", pairs)
    with source.open("a") as lines:
        lines.write('{"query": "no body"}\n')
    report = embed(source, tmp_path / "out", model=cross_folder, pair_columns=("query", "body"))
    scores = table_of(report)["score"].to_pylist()
    want = CrossEncoder.from_pretrained(cross_folder).predict([pairs[0], pairs[-1]])
    assert [i for i, score in enumerate(scores) if score is not None] == [0, 5]
    assert np.array_equal(np.array([scores[0], scores[5]], np.float32), want)
    (file,) = (tmp_path / "out/_quaver/failed").iterdir()
    lines_of = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["row"] for line in lines_of] == [1, 2, 3, 4, 6]
    for line, reason in zip(lines_of, [*(r for _, _, r in bad), "no column 'body'"], strict=True):
        assert reason in line["reason"]
    nulls = write_pairs(tmp_path / "b.parquet", [("a", "b"), (None, "b"), ("a", None)])
    report = embed(nulls, tmp_path / "nulls", model=cross_folder, pair_columns=("query", "body"))
    assert table_of(report)["score"].is_valid().to_pylist() == [True, False, False]


# --- Weights of words -----------------------------------------------------------------------------
@pytest.mark.parametrize("output", ["float32", "float16"])
def test_weights_of_words_are_those_of_the_library(output: str, tmp_path: Path) -> None:
    model = unpacked("splade-bert", tmp_path)
    source = write_corpus(tmp_path / "a.parquet", SOME, group=100)
    report = embed(
        source, tmp_path / "out", model=model, kind="sparse", output=output, shard_bytes=4_000
    )
    assert len(report.records) > 1
    want = SparseEncoder.from_pretrained(model).encode_document(PRESENT)
    table = table_of(report)
    assert table["values"].is_valid().to_pylist() == [text is not None for text in SOME]
    rows = [row for row in zip(table["indices"], table["values"], strict=True) if row[0].is_valid]
    assert len(rows) == len(want)
    for i, (words, weights) in enumerate(rows):
        assert np.array_equal(words.values.to_numpy(), want[i].indices)
        assert np.array_equal(weights.values.to_numpy(), want[i].values.astype(output))
    settings = json.loads((tmp_path / "out/_quaver/settings.json").read_text())
    assert (settings["kind"], settings["dimension"]) == ("sparse", want.size)


# --- A vector for each token ----------------------------------------------------------------------
@pytest.mark.parametrize("name", ["colbert", "colbert-modernbert", "colbert-stanford"])
@pytest.mark.parametrize("output", ["float32", "float16", "int8", "binary"])
def test_vectors_of_tokens_are_those_of_the_library(name: str, output: str, tmp_path: Path) -> None:
    model = unpacked(name, tmp_path)
    source = write_corpus(tmp_path / "a.parquet", SOME, group=100)
    report = embed(
        source, tmp_path / "out", model=model, kind="multi-vector", output=output, shard_bytes=4_000
    )
    encoder = MultiVectorEncoder.from_pretrained(model)
    computed: Any = "float32" if output == "float16" else output
    want = encoder.encode_document(PRESENT, output=computed)
    column = table_of(report)["vectors"]
    assert column.is_valid().to_pylist() == [text is not None for text in SOME]
    rows = [row.as_py() for row in column if row.is_valid]
    assert len(rows) == len(want)
    for i, row in enumerate(rows):
        kind = np.float16 if output == "float16" else want[i].dtype
        assert np.array_equal(np.array(row, kind).reshape(want[i].shape), want[i].astype(kind))


# --- Refused --------------------------------------------------------------------------------------
def test_kinds_that_do_not_go_together(
    tmp_path: Path, cross_folder: Path, tiny_folder: Path
) -> None:
    source = write_pairs(tmp_path / "a.parquet", PAIRS[:5])
    out = tmp_path / "out"
    pair = ("query", "body")
    for options, message in (
        ({"kind": "scores"}, "pair_columns must name the columns"),
        ({"activation": "identity"}, "pair_columns must name the columns"),
        ({"pair_columns": pair, "column": "query"}, "does not go with column or another kind"),
        ({"pair_columns": pair, "kind": "dense"}, "does not go with column or another kind"),
        ({"pair_columns": ("query", "query")}, "two different columns"),
        ({"pair_columns": "query"}, "two different columns"),
        ({"pair_columns": pair, "activation": "softmax"}, "activation must be one of"),
        ({"pair_columns": pair, "output": "int8"}, "scores are stored as float32"),
        ({"pair_columns": pair, "truncate_dim": 8}, "truncate_dim is for dense vectors alone"),
        ({"pair_columns": pair, "keep": ["score"]}, "keep must be a list of different columns"),
        ({"pair_columns": ("query", "title")}, "no column 'title'"),
        ({"pair_columns": ("query", "id")}, "must be strings: column 'id'"),
        ({"kind": "sparse", "column": "body", "output": "int8"}, "weights of words are stored as"),
        ({"kind": "sparse", "column": "body", "format": "npy"}, "of different lengths"),
        ({"kind": "nonsense"}, "kind must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            embed(source, out, model=cross_folder, **options)  # type: ignore[arg-type]
    (tmp_path / "c.txt").write_text("a\n")
    with pytest.raises(InputError, match="no column 'body'"):
        embed(tmp_path / "c.txt", out, model=cross_folder, pair_columns=pair)
    assert not out.exists()
    embed(source, out, model=tiny_folder, column="body")
    with pytest.raises(BulkError, match="was made with"):
        embed(source, out, model=cross_folder, pair_columns=pair)


def test_a_target_of_an_earlier_version_goes_on(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    first = embed(source, tmp_path / "out", model=tiny_folder)
    path = tmp_path / "out/_quaver/settings.json"
    settings = json.loads(path.read_text())
    for name in ("kind", "second", "activation"):
        del settings[name]
    path.write_text(json.dumps(settings))
    again = embed(source, tmp_path / "out", model=tiny_folder)
    assert again.before == 1
    assert digests(again) == digests(first)


# --- Plans ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "kind"), [("splade-bert", "sparse"), ("colbert", "multi-vector"), ("cross", "scores")]
)
def test_a_plan_of_any_kind_is_near_what_the_run_does(
    name: str, kind: Any, tmp_path: Path, cross_folder: Path
) -> None:
    if kind == "scores":
        source = write_pairs(tmp_path / "a.parquet", PAIRS)
        options: dict[str, Any] = {"model": cross_folder, "pair_columns": ("query", "body")}
    else:
        source = write_corpus(tmp_path / "a.parquet", SOME, group=100)
        options = {"model": unpacked(name, tmp_path), "kind": kind}
    made = plan(source, sample=150, shard_bytes=4_000, **options)
    report = embed(source, tmp_path / "out", shard_bytes=4_000, **options)
    assert (made.kind, made.precision, made.rows) == (kind, "int8", 300)
    assert made.shards == len(report.records) > 1
    assert made.tokens == pytest.approx(report.tokens, rel=0.2)
    assert made.tokens_per_second > 0
    numbers = 0
    for column in table_of(report).column_names:
        if column in ("indices", "values", "vectors", "score"):
            values = table_of(report)[column].combine_chunks()
            while hasattr(values.type, "value_type"):
                values = values.flatten()
            numbers += 4 * (len(values) - values.null_count)
    assert made.output_bytes == pytest.approx(numbers * 300 / (300 - report.failed_rows), rel=0.2)


def test_a_plan_says_what_a_model_of_another_kind_needs(
    tmp_path: Path, tiny_folder: Path, cross_folder: Path
) -> None:
    source = write_pairs(tmp_path / "a.parquet", PAIRS[:5])
    sparse, colbert = unpacked("splade-bert", tmp_path), unpacked("colbert", tmp_path)
    for model, given, message in (
        (sparse, {}, r"a sparse encoder: give kind='sparse' \(--kind sparse\)"),
        (colbert, {"kind": "sparse"}, r"give kind='multi-vector' \(--kind multi-vector\)"),
        (cross_folder, {}, r"name the columns of the pairs with pair_columns \(--pair-columns"),
        (tiny_folder, {"kind": "sparse"}, "leave out kind"),
    ):
        with pytest.raises(UnsupportedArchitectureError, match=message):
            plan(source, model=model, column="body", **given)
        with pytest.raises(UnsupportedArchitectureError, match=message):
            embed(source, tmp_path / "out", model=model, column="body", **given)
    with pytest.raises(InputError, match="pair_columns must name the columns"):
        plan(source, model=cross_folder, kind="scores")
    long = write_pairs(tmp_path / "b.parquet", [(" ".join(["file"] * 80), "the file")])
    with pytest.raises(BulkError, match="the model takes none of 1 in the sample"):
        plan(long, model=cross_folder, pair_columns=("query", "body"))


def test_a_plan_of_scores_from_the_command_line(tmp_path: Path) -> None:
    folder = needing_an_instruction(unpacked("qwen3-reranker", tmp_path))
    source = write_pairs(tmp_path / "a.jsonl", [("which file", "text")] * 10)
    line = ["plan", str(source), "-m", str(folder), "--pair-columns", "query,body"]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 2, done.output
    assert "needs an instruction: got none" in done.output
    line += ["--prompt", "which text answers", "--precision", "float32"]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 0, done.output
    assert "results    about 40 bytes of scores as float32" in done.output
    assert "here in float32, on 10 rows" in done.output


# --- Command line ---------------------------------------------------------------------------------
def test_scores_from_the_command_line(tmp_path: Path, cross_folder: Path) -> None:
    source = write_pairs(tmp_path / "a.jsonl", PAIRS[:20])
    line = ["embed", str(source), "-m", str(cross_folder), "--output", str(tmp_path / "out"), "-q"]
    done = CliRunner().invoke(
        cli.app,
        [*line, "--pair-columns", "query, body", "--activation", "identity", "--keep", "id"],
    )
    assert done.exit_code == 0, done.output
    assert "20 rows of 1 shard" in done.output
    for wrong in (
        ["--pair-columns", "query"],
        ["--pair-columns", "query,body,id"],
        ["--pair-columns", "query,body", "--kind", "sparse"],
        ["--pair-columns", "query,body", "--column", "body"],
        ["--activation", "identity"],
        ["--pair-columns", "query,body", "--prompt", "a", "--prompt-name", "b"],
    ):
        done = CliRunner().invoke(cli.app, [*line, *wrong])
        assert done.exit_code == 2, wrong


def test_the_instruction_of_a_reranker_from_the_command_line(tmp_path: Path) -> None:
    folder = needing_an_instruction(unpacked("qwen3-reranker", tmp_path))
    pairs = [("which file", "text"), ("which file", "the python module")]
    source = write_pairs(tmp_path / "a.jsonl", pairs)
    out = tmp_path / "out"
    line = ["embed", str(source), "-m", str(folder), "--output", str(out), "-q"]
    line += ["--pair-columns", "query,body"]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 2, done.output
    assert "needs an instruction: got none; pass prompt=" in done.output
    assert not list(out.rglob("*.parquet"))
    done = CliRunner().invoke(cli.app, [*line, "--prompt", "which text answers"])
    assert done.exit_code == 0, done.output
    (file,) = out.glob("*.parquet")
    want = CrossEncoder.from_pretrained(folder).predict(pairs, prompt="which text answers")
    assert np.array_equal(parquet.read_table(file)["score"].to_numpy(), want)
