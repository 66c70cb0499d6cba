"""Sources and targets on S3, by moto's server; `make test-bulk` installs it."""

from __future__ import annotations

import http.server
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow import fs, parquet
from test_bulk import TEXTS, digests, write_corpus
from test_driver import a_driver

from quaver import BulkError, BulkWriteError, Embedder
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


def test_keys_with_any_character(query: str, tmp_path: Path, tiny_folder: Path) -> None:
    bucket, _ = fs.FileSystem.from_uri(f"s3://corpus{query}")
    names = ["a#b.txt", "a%20b.txt", "a?b.txt", "a b.txt", "a[1].txt"]
    for name in names:
        with bucket.open_output_stream(f"corpus/odd/{name}") as stream:
            stream.write(b"the file\nlist\n")
    for source in ("s3://corpus/odd", "s3://corpus/odd/a*.txt"):
        report = embed(f"{source}{query}", tmp_path / "out", model=tiny_folder)
        assert report.failed == ()
        assert report.total_rows == 2 * len(names)
    assert report.before == len(names)
    other = "?" + "&".join(reversed(query[1:].split("&"))) + "&allow_bucket_creation=true"
    again = embed(f"s3://corpus/odd{other}", tmp_path / "out", model=tiny_folder)
    assert (again.rows, again.before) == (0, len(names))
    for name in names:
        alone = embed(f"s3://corpus/odd/{name}{query}", tmp_path / "out", model=tiny_folder)
        assert alone.before == 1


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


def test_a_bucket_has_one_driver(
    query: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.bulk.driver.BEAT", 0.2)
    source, target = write_corpus(tmp_path / "a.txt", TEXTS[:20]), f"s3://corpus/driven{query}"
    refused = pytest.raises(
        BulkError, match=r"one driver at a time: process \d+ on .+ s3://corpus/"
    )
    with a_driver(source, target, tiny_folder), refused:
        embed(source, target, model=tiny_folder)
    assert embed(source, target, model=tiny_folder).before == 1
    bucket, _ = fs.FileSystem.from_uri(f"s3://corpus{query}")
    leases = fs.FileSelector("corpus/driven/_quaver/drivers", allow_not_found=True)
    assert not [info for info in bucket.get_file_info(leases) if info.is_file]


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


class Between(http.server.ThreadingHTTPServer):
    """A server that passes requests on, unless `trouble` answers them.

    Attributes:
        requests: what was asked so far.
        ended: set when those that wait for nothing may go.
    """

    daemon_threads = True

    def __init__(self, port: int, trouble: Callable[[str, int], str]) -> None:
        """Serve on a port of its own, in front of another one."""
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind, self.trouble = port, trouble
        self.requests: list[str] = []
        self.ended = threading.Event()


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        assert isinstance(self.server, Between)
        line = f"{self.command} {self.path}"
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.requests.append(line)
        what = self.server.trouble(line, self.server.requests.count(line))
        if what == "stall":
            self.server.ended.wait(60)
            self.close_connection = True
            return
        if what:
            status, code = what.split()
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            self.reply(int(status), {"Content-Type": "application/xml"}, body)
            return
        hop = ("connection", "transfer-encoding", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.behind}{self.path}",
            data=content if self.command in ("PUT", "POST") else None,
            headers=headers,
            method=self.command,
        )
        try:
            with urllib.request.urlopen(request) as response:
                self.reply(response.status, dict(response.headers), response.read())
        except HTTPError as error:
            self.reply(error.code, dict(error.headers), error.read())

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *words: object) -> None:
        pass


@pytest.fixture
def between(query: str) -> Iterator[Callable[[Callable[[str, int], str]], tuple[Between, str]]]:
    """Start servers in front of the one with the bucket; return each with the options of its URIs."""
    started = []
    port = int(query.rpartition(":")[2])

    def start(trouble: Callable[[str, int], str]) -> tuple[Between, str]:
        running = Between(port, trouble)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        started.append(running)
        return running, query.replace(f":{port}", f":{running.server_address[1]}")

    yield start
    for running in started:
        running.ended.set()
        running.shutdown()
        running.server_close()


@pytest.mark.timeout(200)
def test_an_endpoint_that_fails_and_stalls_in_between(
    between: Callable[..., tuple[Between, str]],
    query: str,
    tmp_path: Path,
    tiny_folder: Path,
    expected: NDArray[np.float32],
) -> None:
    bucket, _ = fs.FileSystem.from_uri(f"s3://corpus{query}")
    path = write_corpus(tmp_path / "x.parquet", TEXTS[:300])
    fs.copy_files(str(path), "corpus/flaky/x.parquet", destination_filesystem=bucket)

    def trouble(line: str, times: int) -> str:
        if line.startswith("GET /corpus/flaky/x.parquet") and times == 1:
            return "stall"
        return "503 SlowDown" if line.startswith("PUT") and times == 1 else ""

    running, options = between(trouble)
    report = embed(f"s3://corpus/flaky/*{options}", tmp_path / "out", model=tiny_folder)
    assert report.failed == ()
    assert any("x.parquet" in line for line in running.requests)
    written = embed(path, f"s3://corpus/flaky-out{options}", model=tiny_folder)
    assert written.failed == ()
    assert sorted(digests(written).values()) == sorted(digests(report).values())


@pytest.mark.timeout(200)
def test_credentials_that_are_refused(
    between: Callable[..., tuple[Between, str]], tmp_path: Path, tiny_folder: Path
) -> None:
    _, nothing = between(lambda line, times: "403 AccessDenied")
    with pytest.raises(
        BulkError, match=r"cannot read s3://corpus.*(ACCESS_DENIED|403|AccessDenied)"
    ):
        embed(f"s3://corpus/in/*{nothing}", tmp_path / "out", model=tiny_folder)
    assert not (tmp_path / "out").exists()
    _, reading = between(
        lambda line, times: "403 AccessDenied" if line[:3] in ("PUT", "POS") else ""
    )
    source = write_corpus(tmp_path / "a.txt", TEXTS[:10])
    with pytest.raises(BulkWriteError, match="cannot write s3://corpus"):
        embed(source, f"s3://corpus/refused{reading}", model=tiny_folder)
