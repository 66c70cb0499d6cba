"""The comparison of servers: the client, Quaver's own server on a tiny model, the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quaver.errors import EngineError, InputError
from quaver_bench.engines import CannotRunError
from quaver_bench.servers.load import Load, Measured, run_loads
from quaver_bench.servers.process import HOST, free_port, running
from quaver_bench.servers.registry import SERVERS, choose
from quaver_bench.servers.report import markdown, rows_of, write_report
from tiny_model import write_tiny_cross_encoder

TEXT = "the file and the list of a class in python has an error and the value of a function"
ECHO = """
import asyncio, sys

async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
            body = await reader.readexactly(size)
            status = b"429 Busy" if body == b"busy" else b"200 OK"
            writer.write(b"HTTP/1.1 %s\\r\\ncontent-length: %d\\r\\n\\r\\n%s" % (status, size, body))
            if body == b"end":
                writer.close()
    except asyncio.IncompleteReadError:
        pass

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"""


def echo(port: int) -> list[str]:
    return [sys.executable, "-c", ECHO, str(port)]


def measured(port: int, *loads: Load) -> Any:
    return run_loads(HOST, port, loads, seconds=0.2, warm_up=0.05, longest=5)


def test_the_client_counts_answers_and_keeps_some() -> None:
    port = free_port()
    bodies = [f"body {i}".encode() for i in range(50)]
    with running(echo(port), port, path="/", body=b"x", threads=1) as run:
        one, many = measured(port, Load("one", 1, "/", bodies), Load("many", 5, "/", bodies))
        assert run.resident_mb() > 1
    assert one.statuses == {200: len(one.seconds)}
    assert one.rate == pytest.approx(len(one.seconds) / sum(one.seconds), rel=0.3)
    assert len(many.answers) == 32
    assert all(body == f"body {index}".encode() for index, body in many.answers.items())
    assert 0 < one.percentile(50) <= one.percentile(99)
    assert 0 < one.client_share <= 1.5


def test_a_rate_counts_a_request_by_its_share_of_the_measurement() -> None:
    bursts = [(end - 4.0, end) for end in (2.0, 6.0, 10.0, 14.0) for _ in range(8)]
    assert Measured(spans=bursts, window=(0.0, 12.0)).rate == pytest.approx(8 / 4)
    assert Measured(spans=[(0.0, 20.0)], window=(5.0, 6.0)).rate == pytest.approx(1 / 20)
    assert Measured(spans=[(0.0, 1.0)], window=(2.0, 3.0)).rate == 0
    assert Measured().rate == 0


def test_the_client_counts_refusals_apart() -> None:
    port = free_port()
    with running(echo(port), port, path="/", body=b"x", threads=1):
        (found,) = measured(port, Load("some", 2, "/", [b"x", b"busy"]))
        assert found.statuses[200] == len(found.seconds)
        assert found.statuses[429] > 0
        with pytest.raises(EngineError, match="no request of the load busy was answered"):
            run_loads(
                HOST, port, [Load("busy", 1, "/", [b"busy"])], seconds=0.1, warm_up=0, longest=0.2
            )


def test_a_connection_that_the_server_closes_is_an_error() -> None:
    port = free_port()
    with (
        running(echo(port), port, path="/", body=b"x", threads=1),
        pytest.raises(EngineError, match="closed a connection"),
    ):
        measured(port, Load("short", 1, "/", [b"end"]))


def test_a_server_that_ends_is_named_with_its_last_line() -> None:
    command = [sys.executable, "-c", "raise ValueError('no such model')"]
    with (
        pytest.raises(CannotRunError, match="ended with 1: ValueError: no such model"),
        running(command, free_port(), path="/", body=b"x", threads=1),
    ):
        pass


def test_servers_are_chosen_by_name(tmp_path: Path) -> None:
    assert [server.name for server in choose("infinity")] == ["quaver", "infinity"]
    assert [server.name for server in choose("all")] == list(SERVERS)
    with pytest.raises(InputError, match=r"a server must be one of quaver, .*: got 'tei'"):
        choose("tei")
    with pytest.raises(CannotRunError, match=r"make \.envs/serve-infinity/made"):
        SERVERS["infinity"].python(tmp_path)


@pytest.fixture(scope="module")
def results(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of Quaver with servers that cannot run here."""
    folder = tmp_path_factory.mktemp("servers")
    reranker = write_tiny_cross_encoder(folder / "tiny-reranker")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(f"{TEXT} {i % 10}" for i in range(40)), encoding="utf-8")
    command = [sys.executable, "-m", "quaver_bench.servers", str(tiny_folder), "--name", "tiny"]
    command += ["--rerank", str(reranker), "--corpus", str(corpus), "--out", str(folder / "out")]
    command += ["--environments", str(folder / "none"), "--cache-folder", str(folder / "cache")]
    command += ["--quick", "--seconds", "0.3", "--connections", "1,3", "--against", "infinity"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.timeout(300)
def test_quaver_is_measured_and_checked(results: Path) -> None:
    found = json.loads((results / "servers.json").read_text(encoding="utf-8"))
    assert found["kind"] == "servers"
    assert list(found["servers"]) == ["quaver"]
    assert "serve-infinity" in found["missing"]["infinity"]
    cases = {(row["case"], row["connections"], row["load"]) for row in found["rows"]}
    assert cases == {
        ("query", 1, "query"),
        ("query", 3, "query"),
        ("bulk", 1, "bulk"),
        *(("mix", count, load) for count in (1, 3) for load in ("query", "bulk")),
        ("rerank", 1, "rerank"),
        ("rerank", 3, "rerank"),
    }
    for row in found["rows"]:
        assert "failed" not in row
        assert set(row["statuses"]) == {"200"}
        assert row["requests"] >= 3
        assert row["resident_mb"] > 10
        right = row.get("rank_correlation", row.get("cosine"))
        assert right is not None
        assert right > 0.9
    beside = found["library"]
    assert beside["connections"] == 3
    assert len(beside["turns"]) == 8
    assert all(
        value > 0 for turn in beside["turns"] for side in turn.values() for value in side.values()
    )
    text = (results / "servers.md").read_text(encoding="utf-8")
    assert "| queries a second: one batch; 3 connections |" in text
    assert "| quaver |" in text
    assert "Not measured: infinity" in text
    assert (results / "servers.svg").is_file()


def test_rounds_are_merged_by_their_median() -> None:
    row = {"server": "quaver", "case": "query", "connections": 1, "load": "query"}
    rates = [{**row, "requests_per_second": rate, "statuses": {"200": 1}} for rate in (1, 9, 3)]
    (merged,) = rows_of({"rows": [*rates, {**row, "failed": "x", "statuses": {}}]})
    assert merged["requests_per_second"] == 3
    (failed,) = rows_of({"rows": [{**row, "failed": "x"}]})
    assert failed["failed"] == "x"


def test_other_servers_are_compared_in_bold(results: Path) -> None:
    found = json.loads((results / "servers.json").read_text(encoding="utf-8"))
    others = [
        {**row, "server": "infinity", "requests_per_second": row["requests_per_second"] / 4}
        for row in found["rows"]
        if row["case"] == "query"
    ]
    failed = {"server": "infinity", "case": "bulk", "connections": 1, "load": "bulk", "failed": "x"}
    found["rows"] += [*others, failed]
    text = markdown(found)
    assert text.count("**4.00**") == 2
    assert "| infinity | failed | - | - |" in text


def test_a_report_needs_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the results"):
        write_report(tmp_path)
    (tmp_path / "servers.json").write_text("[]")
    with pytest.raises(InputError, match="must be a comparison of servers"):
        write_report(tmp_path)
