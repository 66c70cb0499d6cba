"""A corpus is embedded once and right, however it is divided, and whatever happens on the way."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import feather, ipc, parquet

from quaver import BulkError, BulkWriteError, Embedder, InputError
from quaver.bulk import BulkReport, embed, local, plan
from quaver.bulk.place import Listed, find_files, find_place, identity, write_bytes
from quaver.bulk.shard import ENDINGS, Reader, split_file
from quaver.bulk.target import Target
from tiny_model import WORDS, write_tiny_model

RAGGED = random.Random(5)
TEXTS = [" ".join(RAGGED.choices(WORDS, k=RAGGED.randint(0, 70))) for _ in range(1000)]


def write_corpus(path: Path, texts: Sequence[str | None], *, group: int = 150) -> Path:
    """Write texts with an id in the format that the path names."""
    ids = list(range(len(texts)))
    table = pa.table({"id": ids, "text": pa.array(texts, pa.string())})
    rows = [{"id": i, "text": text} for i, text in zip(ids, texts, strict=True)]
    match path.suffix:
        case ".parquet":
            parquet.write_table(table, path, row_group_size=group)
        case ".feather":
            feather.write_feather(table, path, chunksize=group)
        case ".arrow":
            with ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table, group)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".gz":
            path.write_bytes(
                gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
            )
        case ".csv":
            path.write_text(
                "id,text\n" + "".join(f'{i},"{t}"\n' for i, t in zip(ids, texts, strict=True))
            )
        case _:
            path.write_text("".join(f"{text}\n" for text in texts))
    return path


def read_vectors(report: BulkReport) -> NDArray[Any]:
    """Return the vectors of all outputs in the order of the manifest; rows without one are NaN or 0."""
    parts = []
    for record in report.records:
        path = Path(report.target) / record.output
        if path.suffix == ".npy":
            parts.append(np.load(path, mmap_mode="r"))
            continue
        column = parquet.read_table(path)["vector"].combine_chunks()
        rows = np.zeros(
            (len(column), column.type.list_size), column.type.value_type.to_pandas_dtype()
        )
        rows[~np.asarray(column.is_null())] = column.flatten().to_numpy().reshape(-1, rows.shape[1])
        parts.append(rows)
    return np.concatenate(parts)


def digests(report: BulkReport) -> dict[str, str]:
    return {record.output: record.sha256 for record in report.records}


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> NDArray[np.float32]:
    return Embedder.from_pretrained(tiny_folder).encode_document(TEXTS)


# --- The same bits --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["a.parquet", "a.feather", "a.arrow", "a.jsonl", "a.jsonl.gz", "a.csv", "a.txt"],
)
@pytest.mark.parametrize("shard_bytes", [1 << 30, 8_000])
def test_every_format_gives_the_bits_of_the_library(
    name: str, shard_bytes: int, tmp_path: Path, tiny_folder: Path, expected: NDArray[np.float32]
) -> None:
    source = write_corpus(tmp_path / name, TEXTS)
    report = embed(source, tmp_path / "out", model=tiny_folder, shard_bytes=shard_bytes)
    assert np.array_equal(read_vectors(report), expected)
    splits = (
        name.partition(".")[2] in {"parquet", "feather", "jsonl", "txt"} and shard_bytes < 1 << 30
    )
    assert (len(report.records) > 3) == splits
    assert report.failed == ()
    assert (report.total_rows, report.failed_rows) == (1000, 0)
    assert report.tokens == sum(record.tokens for record in report.records) > 1000
    assert report.truncated > 0


@pytest.mark.parametrize("group", [100, 1000])
def test_a_part_of_a_row_group_is_a_shard_too(
    group: int, tmp_path: Path, tiny_folder: Path, expected: NDArray[np.float32]
) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS, group=group)
    report = embed(source, tmp_path / "out", model=tiny_folder, shard_bytes=8_000, keep=["id"])
    assert len(report.records) > 3
    assert np.array_equal(read_vectors(report), expected)
    files = [Path(report.target) / record.output for record in report.records]
    ids = pa.concat_tables([parquet.read_table(file, columns=["id"]) for file in files])
    assert ids["id"].to_pylist() == list(range(1000))


def test_a_row_group_is_not_in_memory(tmp_path: Path) -> None:
    text = random.Random(6)
    texts = [text.randbytes(512).hex() for _ in range(30_000)]
    source = write_corpus(tmp_path / "source.parquet", texts, group=len(texts))
    before = pa.total_allocated_bytes()
    (listed,) = find_files([str(source)], ENDINGS)
    (shard,) = split_file(listed, listed.size)
    blocks = Reader("text", ["id"])(shard)
    most = max(pa.total_allocated_bytes() - before for _ in blocks)
    assert source.stat().st_size > 15_000_000
    assert most < 12_000_000


def test_kept_columns_count_toward_a_row_group(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.bulk.output.GROUP_BYTES", 1_000_000)
    table = pa.table({"text": ["the file"] * 3_000, "body": ["x" * 2_000] * 3_000})
    parquet.write_table(table, tmp_path / "a.parquet")
    report = embed(tmp_path / "a.parquet", tmp_path / "out", model=tiny_folder, keep=["body"])
    file = parquet.ParquetFile(tmp_path / "out" / report.records[0].output)
    assert file.metadata.num_row_groups == 3  # after each block: 600 kB of vectors would be one
    assert file.read().num_rows == 3_000


@pytest.mark.parametrize("output", ["float16", "int8", "binary"])
@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_vectors_are_stored_in_fewer_bits(
    output: str, format: Any, tmp_path: Path, tiny_folder: Path, expected: NDArray[np.float32]
) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:500])
    report = embed(source, tmp_path / "out", model=tiny_folder, output=output, format=format)
    if output == "float16":
        want: NDArray[Any] = expected[:500].astype(np.float16)
    else:
        embedder = Embedder.from_pretrained(tiny_folder)
        want = embedder.encode_document(TEXTS[:500], output=output)  # type: ignore[call-overload]
    found = read_vectors(report)
    assert found.dtype == want.dtype
    assert np.array_equal(found, want)


def test_processes_give_the_same_files(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS)
    alone, shared = (
        embed(source, tmp_path / f"out{n}", model=tiny_folder, shard_bytes=8_000, workers=n)
        for n in (1, 2)
    )
    assert digests(alone) == digests(shared)
    assert {record.threads for record in shared.records} == {1}


def test_the_checksum_is_that_of_the_file(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:50])
    report = embed(source, tmp_path / "out", model=tiny_folder)
    record = report.records[0]
    told = subprocess.run(
        ["sha256sum", tmp_path / "out" / record.output], capture_output=True, text=True, check=True
    )
    assert told.stdout.split()[0] == record.sha256
    line = json.loads((tmp_path / "out/_quaver/manifest.jsonl").read_text())
    assert line["sha256"] == record.sha256
    said = json.loads(parquet.read_schema(tmp_path / "out" / record.output).metadata[b"quaver"])
    assert said["fingerprint"] == record.fingerprint


@given(
    lines=st.lists(st.text("ab\r", max_size=12), max_size=30),
    parts=st.integers(1, 8),
    end=st.sampled_from(["", "\n"]),
)
def test_every_line_is_in_one_part(
    lines: list[str], parts: int, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    content = "\n".join(lines) + end
    path.write_bytes(content.encode())
    listed = Listed(find_place(path), len(content), path.stat().st_mtime_ns)
    shards = split_file(listed, max(1, len(content) // parts))
    read = Reader("text", ())
    found = [text for shard in shards for block in read(shard) for text in block.texts]
    whole = content.split("\n")
    assert found == [line.removesuffix("\r") for line in (whole if whole[-1] else whole[:-1])]


# --- Rows without a text --------------------------------------------------------------------------
def test_a_row_without_a_text_keeps_its_place(tmp_path: Path, tiny_folder: Path) -> None:
    source = tmp_path / "a.jsonl"
    bad = [
        ('{"id": 1}', "no column 'text'"),
        ('{"text": null}', "null"),
        ('{"text": 5}', "not text: int"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"text": "\\ud800"}', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ]
    good = '{"id": 1.5, "text": "the file", "tags": ["a", "b"]}'
    lines = [good, *(line for line, _ in bad), "", good.replace("1.5", '"x"')]
    source.write_bytes("\n".join(lines).encode() + b'\n{"text": "\xff"}\n')
    report = embed(source, tmp_path / "out", model=tiny_folder, keep=["id", "tags"])
    table = parquet.read_table(tmp_path / "out" / report.records[0].output)
    good_rows = [0, len(bad) + 1]
    assert [i for i, v in enumerate(table["vector"].to_pylist()) if v is not None] == good_rows
    assert table.num_rows == len(bad) + 3
    assert table["id"].to_pylist()[:2] == ["1.5", "1"]
    assert table["tags"][0].as_py() == '["a","b"]'
    assert table["vector"][0] == table["vector"][good_rows[1]]
    (file,) = (tmp_path / "out/_quaver/failed").iterdir()
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["row"] for line in told] == [*range(1, len(bad) + 1), len(bad) + 2]
    for line, (_, reason) in zip(told, bad, strict=False):
        assert reason in line["reason"]
    assert report.failed_rows == len(told)


def test_csv_rows_that_do_not_fit_keep_their_place(tmp_path: Path, tiny_folder: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_bytes(b'\xef\xbb\xbfid,text\n1,"two\nlines, ""quoted"""\n2\n3,\xff\n4,\n5,a,b\n')
    report = embed(source, tmp_path / "out", model=tiny_folder, keep=["id"])
    table = parquet.read_table(tmp_path / "out" / report.records[0].output)
    assert table["id"].to_pylist() == ["1", "2", "3", "4", "5"]
    embedder = Embedder.from_pretrained(tiny_folder)
    want = embedder.encode_document(['two\nlines, "quoted"', ""])
    found = table["vector"].to_pylist()
    assert [i for i, vector in enumerate(found) if vector is None] == [1, 2, 4]
    assert np.array_equal(np.array([found[0], found[3]], np.float32), want)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('id,text\n1,"the file"\n2,"list\n3,dict\n4,set\n', 3),
        ('id,text\n1,the file\n2,list\n3,"dict', 4),
        ('id,"text\n1,the file\n', 1),
        ('id,text\n1,"', 2),
    ],
)
def test_a_quote_that_is_not_closed(
    content: str, line: int, tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "a.csv").write_text(content)
    (tmp_path / "b.csv").write_text('id,text\n1,"the file"')
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder)
    assert [record.rows for record in report.records] == [1]
    ((name, reason),) = report.failed
    assert name.endswith("a.csv")
    assert f"a quote must be closed: one that opens in line {line} of" in reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.tsv"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_byte_order_mark_is_not_text(
    name: str, parts: int, tmp_path: Path, tiny_folder: Path, expected: NDArray[np.float32]
) -> None:
    source = write_corpus(tmp_path / name.replace("tsv", "csv"), TEXTS[:20])
    content = source.read_bytes()
    if name == "a.tsv":
        content = content.replace(b",", b"\t")
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    shard_bytes = len(content) // parts
    report = embed(tmp_path / name, tmp_path / "out", model=tiny_folder, shard_bytes=shard_bytes)
    assert (report.total_rows, report.failed_rows) == (20, 0)
    assert np.array_equal(read_vectors(report), expected[:20])


def test_a_file_that_is_only_a_byte_order_mark(tmp_path: Path, tiny_folder: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf")
    assert embed(tmp_path, tmp_path / "out", model=tiny_folder).total_rows == 0


def test_numbers_that_json_does_not_have(tmp_path: Path, tiny_folder: Path) -> None:
    lines = [
        '{"text": "the file", "score": NaN}',
        '{"text": "list", "score": -Infinity}',
        '{"text": NaN, "score": 1}',
        '{"text": "NaN", ',
        '{"text": "\\ud800", "score": NaN}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    report = embed(tmp_path / "a.jsonl", tmp_path / "out", model=tiny_folder, keep=["score"])
    table = parquet.read_table(tmp_path / "out" / report.records[0].output)
    assert table["vector"].is_valid().to_pylist() == [True, True, False, False, False]
    assert table["score"].to_pylist() == [None, None, "1", None, None]


def test_nulls_and_bytes_that_are_not_utf8_in_columns(tmp_path: Path, tiny_folder: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 8, 8, 9], np.int32))
    buffers = [pa.py_buffer(b"\x05"), offsets, pa.py_buffer(b"the file\xff")]
    column = pa.Array.from_buffers(pa.string(), 3, buffers)
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    report = embed(tmp_path / "a.parquet", tmp_path / "out", model=tiny_folder, format="npy")
    found = read_vectors(report)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, True]
    (file,) = (tmp_path / "out/_quaver/failed").iterdir()
    reasons = [json.loads(line)["reason"] for line in file.read_text().splitlines()]
    assert reasons == ["null", "not UTF-8: byte 0 of the text"]


def test_dictionaries_and_files_without_rows(tmp_path: Path, tiny_folder: Path) -> None:
    encoded = pa.array(["the file", "list", "the file"]).dictionary_encode()
    parquet.write_table(pa.table({"text": encoded}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text("")
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder)
    assert [record.rows for record in report.records] == [3, 0, 0]
    assert read_vectors(report).shape == (3, 64)


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_an_output_without_rows_has_the_columns_of_the_others(
    format: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    long = {"id": "1", "text": "the file " * 2_000}  # a line that reaches over several parts
    lines = [{"id": "0", "text": "list"}, long, {"id": "2", "text": "dict"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "b.csv").write_text("id,text\n")
    (tmp_path / "c.csv").write_text("")
    none = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    parquet.write_table(none, tmp_path / "d.parquet")
    feather.write_feather(none, tmp_path / "e.feather")
    with ipc.new_stream(tmp_path / "f.arrow", none.schema) as writer:
        writer.write_table(none)
    assert plan(tmp_path, model=tiny_folder, shard_bytes=3_000).rows > 0
    keep = ["id"] if format == "parquet" else []
    report = embed(
        tmp_path, tmp_path / "out", model=tiny_folder, keep=keep, shard_bytes=3_000, format=format
    )
    assert report.failed == ()
    rows = [record.rows for record in report.records]
    assert len(rows) > 9
    assert rows.count(0) >= 8
    assert sum(rows) == 3
    files = [tmp_path / "out" / record.output for record in report.records]
    if format == "parquet":
        assert {tuple(parquet.read_schema(file).names) for file in files} == {("id", "vector")}
        assert pa.concat_tables(map(parquet.read_table, files))["id"].to_pylist() == ["0", "1", "2"]
    else:
        assert {np.load(file).shape[1] for file in files} == {64}


# --- Running again --------------------------------------------------------------------------------
def test_a_finished_shard_is_left_out_and_a_changed_file_done_again(
    tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "in").mkdir()
    write_corpus(tmp_path / "in/a.parquet", TEXTS)
    write_corpus(tmp_path / "in/b.txt", TEXTS[:100])
    again: dict[str, Any] = {"model": tiny_folder, "shard_bytes": 15_000}
    first = embed(tmp_path / "in", tmp_path / "out", **again)
    second = embed(tmp_path / "in", tmp_path / "out", **again)
    assert (second.before, second.rows) == (len(first.records), 0)
    assert second.records == first.records

    write_corpus(tmp_path / "in/a.parquet", TEXTS[:300])  # fewer parts
    third = embed(tmp_path / "in", tmp_path / "out", **again)
    assert (third.before, third.rows, third.total_rows) == (1, 300, 400)
    files = {path.name for path in (tmp_path / "out").glob("*.parquet")}
    assert files == set(digests(third))
    fresh = embed(tmp_path / "in", tmp_path / "fresh", **again)
    assert digests(fresh) == digests(third)

    (tmp_path / "out" / third.records[0].output).unlink()
    fourth = embed(tmp_path / "in", tmp_path / "out", **again)
    assert digests(fourth) == digests(third)
    assert fourth.before == len(third.records) - 1


def test_files_can_be_added(tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(tmp_path / "a.txt", TEXTS[:10])
    first = embed(tmp_path, tmp_path / "out", model=tiny_folder)
    write_corpus(tmp_path / "b.txt", TEXTS[:20])
    second = embed([tmp_path / "*.txt"], tmp_path / "out", model=tiny_folder)
    assert (second.before, second.rows, second.total_rows) == (1, 20, 30)
    assert digests(first).items() <= digests(second).items()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_finished_by_the_next(
    workers: int, tmp_path: Path, tiny_folder: Path
) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS)
    options = {"model": str(tiny_folder), "shard_bytes": 1_500, "workers": workers, "keep": ["id"]}
    undisturbed = embed(source, tmp_path / "want", **{**options, "workers": 1})  # type: ignore[arg-type]
    assert len(undisturbed.records) > 20
    code = (
        "import sys, json; from quaver.bulk import embed\n"
        f"embed({str(source)!r}, {str(tmp_path / 'out')!r}, **json.loads(sys.argv[1]))"
    )
    done = tmp_path / "out/_quaver/done"
    manifest = tmp_path / "out/_quaver/manifest.jsonl"
    seen: set[str] = set()
    for _ in range(2 if workers == 1 else 1):
        driver = subprocess.Popen([sys.executable, "-c", code, json.dumps(options)])
        while driver.poll() is None:
            now = {path.name for path in done.glob("*.json")} if done.is_dir() else set()
            if len(now - seen) >= 4:
                driver.send_signal(signal.SIGKILL)
                seen = now
                break
            time.sleep(0.002)
        assert driver.wait() == -signal.SIGKILL, "the run ended before it was killed"
    # Of the first run, by the second.
    kept = len(manifest.read_text().splitlines()) if workers == 1 else 0
    assert kept >= 4 * (workers == 1)
    # What a killed process was writing: under another name.
    (tmp_path / "out/_quaver/unfinished/half").write_bytes(b"half")
    report = embed(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert kept + 4 <= report.before < len(report.records)
    assert digests(report) == digests(undisturbed)
    assert not list((tmp_path / "out/_quaver/unfinished").iterdir())
    files = sorted((tmp_path / "out").glob("*.parquet"))
    ids = pa.concat_tables([parquet.read_table(file, columns=["id"]) for file in files])
    assert ids["id"].to_pylist() == list(range(1000))


def test_a_worker_that_dies_is_replaced(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS)
    want = embed(source, tmp_path / "want", model=tiny_folder, shard_bytes=8_000)
    killed: list[int] = []

    def kill_one(progress: object) -> None:
        if not killed:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            killed.extend(int(child) for child in children)
            os.kill(killed[0], signal.SIGKILL)

    report = embed(
        source,
        tmp_path / "out",
        model=tiny_folder,
        shard_bytes=8_000,
        workers=2,
        on_progress=kill_one,
    )
    assert killed
    assert report.failed == ()
    assert digests(report) == digests(want)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (SIGKILL), as the system does when"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was asked to end (SIGTERM), by a person"),
        ("os.abort()", "ended by a signal (SIGABRT)"),
        ("os._exit(3)", "ended with exit code 3"),
    ],
)
def test_how_a_process_ended_is_said_in_words(ending: str, words: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import os, signal; {ending}"], check=False)
    assert local.in_words(done.returncode).startswith(words)


@pytest.mark.parametrize("ready", [False, True])
def test_a_worker_that_ends_is_not_ended_first(
    ready: bool, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, time; from multiprocessing.connection import Connection\n"
        "connection = Connection(int(sys.argv[1])); connection.recv()\n"
        + ("connection.send(None); connection.recv()\n" if ready else "")
        + "connection.close(); time.sleep(0.5); os._exit(3)"
    )
    monkeypatch.setattr(local, "_SERVE", code)
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    options: dict[str, Any] = {"model": tiny_folder, "workers": 2}
    if ready:
        report = embed(source, tmp_path / "out", **options)
        ((_, reason),) = report.failed
        assert "3 worker processes died on it; the last ended with exit code 3" in reason
    else:
        with pytest.raises(BulkError, match=r"process ended with exit code 3; .* before it had"):
            embed(source, tmp_path / "out", **options)


# --- Refused --------------------------------------------------------------------------------------
def test_another_model_or_option_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:10])
    first = embed(source, tmp_path / "out", model=tiny_folder)
    other = write_tiny_model(tmp_path / "other", seed=1)
    for changed in (
        {"model": other},
        {"output": "int8"},
        {"prompt": ""},
        {"max_seq_length": 8},
        {"precision": "float32"},
    ):
        with pytest.raises(BulkError, match=r"was made with .*, not .*; give the same options"):
            embed(source, tmp_path / "out", **{"model": tiny_folder, **changed})  # type: ignore[arg-type]
    again = embed(source, tmp_path / "out", model=tiny_folder)
    assert again.records == first.records


def test_a_missing_column_and_a_column_that_is_not_text(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS[:10])
    lines = write_corpus(tmp_path / "a.jsonl", TEXTS[:10])
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"no column 'body' in .*: it has id, text"):
        embed(source, out, model=tiny_folder, column="body")
    with pytest.raises(InputError, match="no column 'body' in the first lines of"):
        embed(lines, out, model=tiny_folder, column="body")
    with pytest.raises(InputError, match=r"must be strings: column 'id' of .* is int64"):
        embed(source, out, model=tiny_folder, column="id")
    with pytest.raises(InputError, match="no column 'title'"):
        embed(source, out, model=tiny_folder, keep=["title"])
    for keep in (["vector"], ["id", "id"], "id"):
        with pytest.raises(InputError, match="keep must be a list of different columns"):
            embed(source, out, model=tiny_folder, keep=keep)
    with pytest.raises(InputError, match="keep needs format='parquet'"):
        embed(source, out, model=tiny_folder, keep=["id"], format="npy")
    assert not out.exists()


def test_a_kept_column_that_json_lines_do_not_have(tmp_path: Path, tiny_folder: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.jsonl").write_text('{"text": "the file", "title": "x"}\nbroken\n')
    with pytest.raises(InputError, match="'titel' is in none that was looked at"):
        embed(source, out, model=tiny_folder, keep=["title", "titel"])
    assert not out.exists()
    (source / "b.jsonl").write_text('{"text": "list", "titel": null}\n')
    assert embed(source, out, model=tiny_folder, keep=["title", "titel"]).total_rows == 3
    (tmp_path / "c.jsonl").write_text("broken\n")
    broken = embed(tmp_path / "c.jsonl", tmp_path / "c", model=tiny_folder, keep=["title"])
    assert (broken.total_rows, broken.failed_rows) == (1, 1)


def test_a_later_file_without_the_column_fails(tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(tmp_path / "a.jsonl", TEXTS[:10])
    (tmp_path / "b.jsonl").write_text('{"body": "the file"}\n' * 3)
    (tmp_path / "c.jsonl").write_text('{"body": "the file"}\nbroken\n')
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder)
    ((name, reason),) = report.failed
    assert name.endswith("b.jsonl")
    assert reason == f"no line of {tmp_path / 'b.jsonl'} has the column 'text'"
    assert report.total_rows == 12


def test_messages_say_what_to_do(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:3])
    out = tmp_path / "out"
    with pytest.raises(InputError, match="for the current folder it is"):
        embed(source, "", model=tiny_folder)
    with pytest.raises(InputError, match="name each once"):
        embed(source, out, model=tiny_folder, keep=["text", "text"])
    with pytest.raises(InputError, match="got 'vector'; rename it"):
        embed(source, out, model=tiny_folder, keep=["text", "vector"])
    for name in ("https://host/a.txt", "s3a://bucket/a.txt"):
        with pytest.raises(InputError, match="begin with s3://, gs://"):
            embed(name, out, model=tiny_folder)
    embed(source, out, model=tiny_folder)
    manifest, settings = out / "_quaver/manifest.jsonl", out / "_quaver/settings.json"
    manifest.write_text(manifest.read_text() + "broken\n")
    with pytest.raises(BulkError, match=r"delete that line of manifest\.jsonl"):
        embed(source, out, model=tiny_folder)
    settings.write_text("broken")
    with pytest.raises(BulkError, match="restore the file, or embed into another target"):
        embed(source, out, model=tiny_folder)


ODD = {
    "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["x"])]),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x"])),
    "empty": pa.array([{}], pa.struct([])),
}


@pytest.mark.parametrize("name", ODD)
def test_a_kept_column_that_parquet_does_not_have(
    name: str, tmp_path: Path, tiny_folder: Path
) -> None:
    table = pa.table({"text": ["the file"], "odd": ODD[name]})
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    good = pa.table({"text": ["the file"], "odd": ["x"]})
    for other in ("b.parquet", "c.parquet"):
        parquet.write_table(good, tmp_path / other)
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder, keep=["odd"])
    ((failed, reason),) = report.failed
    assert failed.endswith("a.arrow")
    assert "must have a type that Parquet has" in reason
    assert "odd " in reason
    assert report.total_rows == 2
    assert not list((tmp_path / "out/_quaver/unfinished").iterdir())
    alone = embed(tmp_path / "a.arrow", tmp_path / "alone", model=tiny_folder, keep=["odd"])
    assert alone.records == ()
    # Nothing was made with that option, so the target takes another one.
    assert embed(tmp_path / "a.arrow", tmp_path / "alone", model=tiny_folder).total_rows == 1
    with pytest.raises(BulkError, match="one set of options"):
        embed(tmp_path / "a.arrow", tmp_path / "alone", model=tiny_folder, output="int8")


def test_reasons_of_rows_go_with_their_output(tmp_path: Path, tiny_folder: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "the file"}\nbroken\n' * 40)
    embed(source, tmp_path / "out", model=tiny_folder, shard_bytes=300)
    failed = tmp_path / "out/_quaver/failed"
    assert len(list(failed.iterdir())) > 2
    source.write_text('{"text": "the file"}\nbroken\n')
    report = embed(source, tmp_path / "out", model=tiny_folder, shard_bytes=300)
    (record,) = report.records
    assert [path.stem for path in failed.iterdir()] == [Path(record.output).stem]


def test_a_source_without_files(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.pdf").write_text("x")
    out = tmp_path / "out"
    for source, message in (
        (tmp_path / "*.parquet", "nothing matches"),
        (tmp_path / "sub", "no file to embed in the folder"),
        (tmp_path / "none.txt", "no file or folder"),
    ):
        with pytest.raises(BulkError, match=message):
            embed(source, out, model=tiny_folder)
    with pytest.raises(InputError, match="ending that does not say its format"):
        embed(tmp_path / "x.pdf", out, model=tiny_folder)
    with pytest.raises(InputError, match="must not contain a password"):
        embed("s3://key:secret@bucket/x.parquet", out, model=tiny_folder)
    with pytest.raises(InputError, match="cannot open nonsense://"):
        embed("nonsense://bucket/x.parquet", out, model=tiny_folder)
    assert not out.exists()


def test_a_corrupt_file_fails_alone(tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(tmp_path / "b.parquet", TEXTS[:100])
    content = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    damaged = bytearray(content)
    page = parquet.read_metadata(tmp_path / "b.parquet").row_group(0).column(1).data_page_offset
    damaged[page : page + 200] = bytes(200)  # the footer is whole
    (tmp_path / "c.parquet").write_bytes(damaged)
    report = embed(tmp_path / "*.parquet", tmp_path / "out", model=tiny_folder)
    assert [record.rows for record in report.records] == [100]
    assert [Path(name).name for name, _ in report.failed] == ["a.parquet", "c.parquet"]
    assert all("cannot read" in reason for _, reason in report.failed)
    assert not list((tmp_path / "out/_quaver/unfinished").iterdir())
    (tmp_path / "a.parquet").write_bytes(content)
    repaired = embed(tmp_path / "[ab].parquet", tmp_path / "out", model=tiny_folder)
    assert (repaired.before, repaired.failed, repaired.total_rows) == (1, (), 200)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_with_a_column_twice_fails_alone(
    workers: int, tmp_path: Path, tiny_folder: Path
) -> None:
    twice = pa.table([["a"], ["b"], ["c"]], names=["id", "text", "text"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    feather.write_feather(twice, tmp_path / "b.feather", compression="uncompressed")
    (tmp_path / "c.csv").write_text("id,text,text\n1,a,b\n")
    write_corpus(tmp_path / "d.parquet", TEXTS[:10])
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder, keep=["id"], workers=workers)
    assert [record.rows for record in report.records] == [10]
    assert [Path(name).name for name, _ in report.failed] == ["a.parquet", "b.feather", "c.csv"]
    assert all("'text' 2 times; rename" in reason for _, reason in report.failed)


def test_what_no_one_expects_fails_the_shard(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "a.txt", TEXTS[:10])
    write_corpus(tmp_path / "b.txt", TEXTS[:20])
    read = Reader._text

    def odd(self: Reader, shard: Any, place: Any) -> Any:
        if place.path.endswith("a.txt"):
            raise KeyError("odd")
        return read(self, shard, place)

    monkeypatch.setattr(Reader, "_text", odd)
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder)
    assert [record.rows for record in report.records] == [20]
    ((name, reason),) = report.failed
    assert name.endswith("a.txt")
    assert "unexpected KeyError: 'odd'" in reason


def test_a_target_that_cannot_be_written(tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:10])
    (tmp_path / "file").write_text("x")
    with pytest.raises((BulkWriteError, BulkError), match="file"):
        embed(source, tmp_path / "file/out", model=tiny_folder)


def test_a_full_disk_stops_the_run_and_the_next_finishes_it(
    tmp_path: Path, tiny_folder: Path
) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS)
    want = embed(source, tmp_path / "want", model=tiny_folder, shard_bytes=8_000)
    code = (
        "import resource, signal; from quaver.bulk import embed; from quaver import BulkWriteError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, resource.RLIM_INFINITY))\n"
        f"try: embed({str(source)!r}, {str(tmp_path / 'out')!r}, model={str(tiny_folder)!r}, shard_bytes=8_000)\n"
        "except BulkWriteError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.parquet"))
    report = embed(source, tmp_path / "out", model=tiny_folder, shard_bytes=8_000)
    assert digests(report) == digests(want)


def test_unfinished_files_of_a_killed_run_are_deleted_first(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:10])
    embed(source, tmp_path / "out", model=tiny_folder)
    unfinished, done = tmp_path / "out/_quaver/unfinished", tmp_path / "out/_quaver/done"
    manifest = tmp_path / "out/_quaver/manifest.jsonl"
    (done / "record.json").write_bytes(manifest.read_bytes())
    (unfinished / "half").write_bytes(b"half")

    def full(self: Target, name: str, content: bytes) -> None:
        raise BulkWriteError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Target, "_write", full)
        with pytest.raises(BulkWriteError, match="No space"):
            embed(source, tmp_path / "out", model=tiny_folder)
    assert not list(unfinished.iterdir())
    assert list(done.iterdir())

    # A worker of the killed run still writes: it renames its file after this run has seen it.
    (unfinished / "half").write_bytes(b"half")
    listed = Target._list

    def list_too_early(self: Target, folder: Any) -> Any:
        found = listed(self, folder)
        (unfinished / "half").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Target, "_list", list_too_early)
    again = embed(source, tmp_path / "out", model=tiny_folder)
    assert again.before == 1


def test_a_small_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(BulkWriteError, match="cannot write"):
        write_bytes(find_place(tmp_path / "file"), b"text", find_place(tmp_path / "aside/file"))
    assert not list((tmp_path / "aside").iterdir())


# --- Names ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("*/*.txt", ["sub/c.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deep/d.txt"]),
        ("sub", ["sub/c.txt", "sub/deep/d.txt"]),
    ],
)
def test_patterns(pattern: str, found: list[str], tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "b.txt",
        "sub/c.txt",
        "sub/deep/d.txt",
        "_hidden/e.txt",
        ".f.txt",
        "sub/x.pdf",
    ):
        if pattern == "sub/**" and name.endswith("pdf"):
            continue
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    files = find_files([str(tmp_path / pattern)], ENDINGS)
    assert [Path(file.place.path).relative_to(tmp_path).as_posix() for file in files] == found


@pytest.mark.parametrize("path", ["corpus/a#b.txt", "corpus/what?.txt", "corpus/50%.txt", "corpus"])
@pytest.mark.parametrize(
    "query",
    ["?region=us-east-1", "?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:9"],
)
def test_keys_of_objects_are_not_parts_of_a_uri(path: str, query: str) -> None:
    name = f"s3://{path}{query}"
    place = find_place(name)
    assert (place.path, place.query, place.name) == (path, query, name)
    assert find_place((place / "c#d?.txt").name).path == f"{path}/c#d?.txt"


def test_a_target_in_the_source_by_another_name(tmp_path: Path, tiny_folder: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    write_corpus(source / "a.parquet", ["the file"])
    (tmp_path / "link").symlink_to(source)
    names = (str(source / "out"), f"file://{source}/out", str(tmp_path / "link/out"))
    for target in names:
        for read in (str(source), f"file://{source}", str(tmp_path / "link")):
            report = embed(read, target, model=tiny_folder, keep=["text"])
            assert [Path(record.source).name for record in report.records] == ["a.parquet"]


def test_a_source_by_another_name_is_the_same_source(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, link = tmp_path / "in", tmp_path / "link"
    source.mkdir()
    link.symlink_to(source)
    monkeypatch.chdir(tmp_path)
    again: dict[str, Any] = {"model": tiny_folder, "shard_bytes": 8_000}
    write_corpus(source / "a.parquet", TEXTS[:300])
    names = (str(source), f"file://{source}", str(link), "in", f"{link}/*.parquet")
    for number, first in enumerate(names):
        out = tmp_path / f"out{number}"
        made = embed(first, out, **again)
        for other in names:
            report = embed(other, out, **again)
            assert (report.rows, report.before) == (0, len(report.records))
            assert digests(report) == digests(made)
    write_corpus(source / "a.parquet", TEXTS[:200])
    changed = embed(link, tmp_path / "out0", **again)
    assert changed.total_rows == 200
    assert {path.name for path in (tmp_path / "out0").glob("*.parquet")} == set(digests(changed))
    assert embed(source, tmp_path / "out0", **again).rows == 0


def test_a_file_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/z.txt").write_text("x")
    (tmp_path / "in/a.txt").write_text("x")
    source = str(tmp_path / "in")
    files = find_files([source, f"{source}/z.txt", f"file://{source}/*.txt"], ENDINGS)
    assert sorted(file.place.name for file in files) == [f"{source}/a.txt", f"{source}/z.txt"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3://b/k?region=a&scheme=http", "s3://b/k?scheme=http&region=a", True),
        ("s3://b/k", "s3://b/k?region=a", True),
        ("s3://b/k?endpoint_override=h:1", "s3://b/k?region=a&endpoint_override=h:1", True),
        ("s3://b/k?endpoint_override=h:1", "s3://b/k?endpoint_override=h:2", False),
        ("s3://b/k", "s3://b/k2", False),
        ("file:///x/y.txt", "/x/./y.txt", True),
    ],
)
def test_names_of_the_same_file(one: str, other: str, same: bool) -> None:
    assert (identity(one) == identity(other)) is same


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[2024]").mkdir()
    for name in ("a[1].txt", "a1.txt", "what?.txt", "*.txt", "[2024]/b.txt"):
        (tmp_path / name).write_text("x")
    for name in ("a[1].txt", "what?.txt", "*.txt", "[2024]/b.txt"):
        (file,) = find_files([str(tmp_path / name)], ENDINGS)
        assert file.place.path == str(tmp_path / name)
    (file,) = find_files([str(tmp_path / "[2024]")], ENDINGS)
    assert file.place.path == str(tmp_path / "[2024]/b.txt")
    (tmp_path / "a[1].txt").unlink()
    (file,) = find_files([str(tmp_path / "a[1].txt")], ENDINGS)
    assert file.place.path == str(tmp_path / "a1.txt")


# --- Plans ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv"])
def test_a_plan_is_near_what_the_run_does(name: str, tmp_path: Path, tiny_folder: Path) -> None:
    source = write_corpus(tmp_path / name, TEXTS)
    made = plan(source, model=tiny_folder, sample=400, shard_bytes=15_000)
    report = embed(source, tmp_path / "out", model=tiny_folder, shard_bytes=15_000)
    assert made.shards == len(report.records)
    assert made.rows == pytest.approx(report.total_rows, rel=0.1)
    assert made.tokens == pytest.approx(report.tokens, rel=0.15)
    assert made.output_bytes == made.rows * 64 * 4
    assert 300 <= made.sampled_rows <= 400
    assert made.hours(made.threads) == pytest.approx(made.core_hours / made.threads)
    assert made.hours(10**9) * made.shards * made.threads == pytest.approx(made.core_hours)


def test_a_plan_samples_all_over_the_corpus(tmp_path: Path, tiny_folder: Path) -> None:
    for i in range(15):
        long = i >= 8
        write_corpus(tmp_path / f"{i:02}.jsonl", ["the file list " * (10 if long else 1)] * 30)
    made = plan(tmp_path, model=tiny_folder)
    report = embed(tmp_path, tmp_path / "out", model=tiny_folder)
    assert made.rows == pytest.approx(report.total_rows, rel=0.1)
    assert made.tokens == pytest.approx(report.tokens, rel=0.1)


def test_a_plan_takes_the_rows_that_parquet_files_say(tmp_path: Path, tiny_folder: Path) -> None:
    for i in range(20):
        rows = 7 if i % 5 else 1_000
        write_corpus(tmp_path / f"{i:02}.parquet", TEXTS[:rows] if i % 2 else ["x"] * rows)
    (tmp_path / "20.parquet").write_text("broken")
    assert plan(tmp_path, model=tiny_folder, sample=50).rows == 4 * 1_000 + 16 * 7
    assert plan(tmp_path, model=tiny_folder, sample=50, shard_bytes=900).rows == 4 * 1_000 + 16 * 7


def test_a_plan_of_a_corpus_without_texts(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    with pytest.raises(BulkError, match="a plan needs texts"):
        plan(tmp_path / "a.jsonl", model=tiny_folder)
