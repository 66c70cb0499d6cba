"""Sources and targets on S3, by moto's server; `make test-bulk` installs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow import fs, parquet
from test_bulk import TEXTS, digests, write_corpus

from quaver import BulkError, Embedder
from quaver.bulk import embed

server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore")  # moto's own


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    """The options of URIs to a server with the empty bucket "corpus"."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    running = server.ThreadedMotoServer("127.0.0.1", port=0)
    running.start()
    _, port = running.get_host_and_port()
    options = f"?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{port}"
    bucket, _ = fs.FileSystem.from_uri(f"s3://corpus{options}&allow_bucket_creation=true")
    bucket.create_dir("corpus")
    yield options
    running.stop()


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> NDArray[np.float32]:
    return Embedder.from_pretrained(tiny_folder).encode_document(TEXTS)


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_corpus_in_a_bucket(
    query: str, format: str, tmp_path: Path, tiny_folder: Path, expected: NDArray[np.float32]
) -> None:
    bucket, _ = fs.FileSystem.from_uri(f"s3://corpus{query}")
    for name in ("a.parquet", "b.jsonl", "c.jsonl.gz"):
        path = write_corpus(tmp_path / name, TEXTS[:300])
        fs.copy_files(str(path), f"corpus/in/{name}", destination_filesystem=bucket)
    with bucket.open_output_stream("corpus/in/d.parquet") as stream:
        stream.write(b"PAR1")
    source, target = f"s3://corpus/in/*{query}", f"s3://corpus/out-{format}{query}"
    options = {"model": tiny_folder, "shard_bytes": 30_000, "format": format}
    report = embed(source, target, **options)  # type: ignore[arg-type]
    assert report.total_rows == 900
    assert [name.partition("?")[0] for name, _ in report.failed] == ["s3://corpus/in/d.parquet"]
    for name in ("a.parquet", "b.jsonl", "c.jsonl.gz"):
        rows = []
        for record in report.records:
            if f"/{name}?" not in record.source:
                continue
            with bucket.open_input_file(f"corpus/out-{format}/{record.output}") as file:
                if format == "npy":
                    rows.append(np.load(file))
                    continue
                column = parquet.read_table(file)["vector"].combine_chunks()
                rows.append(column.flatten().to_numpy().reshape(-1, 64))
        assert np.array_equal(np.concatenate(rows), expected[:300])
    listed = bucket.get_file_info(fs.FileSelector(f"corpus/out-{format}/_quaver/unfinished"))
    assert not [info for info in listed if info.is_file]
    again = embed(source, target, **options)  # type: ignore[arg-type]
    assert (again.before, again.rows) == (len(report.records), 0)
    local = embed(tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert sorted(digests(local).values()) == sorted(digests(report).values())


def test_a_bucket_that_is_not_there(query: str, tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(BulkError, match=r"nothing matches|cannot read"):
        embed(f"s3://nowhere/*.parquet{query}", tmp_path / "out", model=tiny_folder)
    source = write_corpus(tmp_path / "a.txt", TEXTS[:10])
    with pytest.raises(BulkError, match="cannot write s3://nowhere"):
        embed(source, f"s3://nowhere/out{query}", model=tiny_folder)


def test_an_endpoint_that_does_not_answer(tmp_path: Path, tiny_folder: Path) -> None:
    query = "?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:9"
    with pytest.raises(BulkError, match="cannot read s3://corpus"):
        embed(f"s3://corpus/a.parquet{query}", tmp_path / "out", model=tiny_folder)
