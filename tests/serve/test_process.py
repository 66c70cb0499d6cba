"""`quaver serve` as a process: SIGTERM under load, kill -9 and restart, TLS, --check, exit codes."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from quaver import Embedder

TEXTS = [f"text number {i} of some" for i in range(64)]


class Process:
    """A running `quaver serve`."""

    def __init__(self, *arguments: str) -> None:
        """Start it, and read its log until it is ready."""
        self.child = subprocess.Popen(
            [sys.executable, "-m", "quaver", "serve", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        self.lines: list[dict[str, Any]] = []
        self.reading = threading.Thread(target=self._read)
        self.address: Any = None
        self.ready = threading.Event()
        self.reading.start()
        self.ready.wait(60)

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            if not line.startswith("{"):
                self.lines.append({"event": "text", "text": line})
                continue
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == "listening":
                self.address = self.lines[-1]["address"]
            if self.lines[-1]["event"] == "ready":
                self.ready.set()
        self.ready.set()

    def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.child.send_signal(number)
        code = self.child.wait(60)
        self.reading.join()
        return code


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    started = Process(*arguments)
    try:
        yield started
    finally:
        if started.child.poll() is None:
            started.child.kill()
        started.child.wait()
        started.reading.join()
        assert started.child.stderr is not None
        started.child.stderr.close()


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> Any:
    return Embedder.from_pretrained(tiny_folder).encode(TEXTS)


def test_sigterm_under_load_loses_nothing(tiny_folder: Path, expected: Any) -> None:
    with process("-m", f"tiny={tiny_folder}", "--port", "0", "--batch-tokens", "64") as server:
        url = "http://{}:{}".format(*server.address)
        accepted = threading.Barrier(9)

        def ask(client: httpx.Client) -> list[str]:
            """Ask until the server is gone; return how each request ended."""
            ends = []
            while True:
                try:
                    answer = client.post("/embed", json={"inputs": TEXTS})
                except httpx.ConnectError:
                    return [*ends, "gone"]
                except httpx.RemoteProtocolError:
                    # A connection that was kept open was closed before it took the request.
                    ends.append("closed")
                    continue
                except httpx.ReadError:
                    ends.append("closed")
                    continue
                if answer.status_code == 200:
                    assert np.array_equal(np.float32(answer.json()), expected)
                    ends.append("answered")
                    if len(ends) == 2:
                        accepted.wait(60)
                else:
                    assert answer.status_code == 503
                    ends.append("refused")

        with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=url, timeout=60) as client:
            asked = [pool.submit(ask, client) for _ in range(8)]
            accepted.wait(60)
            server.child.send_signal(signal.SIGTERM)
            ends = [future.result() for future in asked]
        assert server.child.wait(60) == 0
        server.reading.join()
        assert all(each[-1] == "gone" for each in ends)
        served = [line for line in server.lines if line["event"] == "request"]
        # Every request that the server answered arrived, and none of them with a failure.
        answered = sum(each.count("answered") for each in ends)
        assert sum(line["status"] == 200 for line in served) == answered
        assert {line["status"] for line in served} <= {200, 503}
        time = server.lines[-1]["time"]
        assert server.lines[-1] == {"time": time, "event": "stopped", "lost": 0, "unread": 0}


def test_a_stopping_server_is_not_ready(tiny_folder: Path) -> None:
    with process("-m", f"tiny={tiny_folder}", "--port", "0") as server:
        url = "http://{}:{}".format(*server.address)
        # A request whose body does not come yet was accepted: it keeps the server waiting.
        with socket.create_connection(tuple(server.address), timeout=30) as slow:
            body = b'{"inputs": "x"}'
            slow.sendall(
                b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            with httpx.Client(base_url=url, timeout=30) as client:
                assert client.get("/readyz").status_code == 200
                pause = threading.Event()
                while "quaver_connections 2.0" not in client.get("/metrics").text:
                    pause.wait(0.01)
                server.child.send_signal(signal.SIGTERM)
                while (ready := client.get("/readyz")).status_code == 200:
                    pause.wait(0.01)
                assert ready.json()["status"] == "stopping"
                assert client.get("/livez").status_code == 200
                refused = client.post("/embed", json={"inputs": "x"})
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "1"
            slow.sendall(body)
            assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.child.wait(60) == 0


def test_what_is_not_finished_within_the_grace_time_is_counted(tiny_folder: Path) -> None:
    with process("-m", f"tiny={tiny_folder}", "--port", "0", "--grace", "0.2") as server:
        with socket.create_connection(tuple(server.address), timeout=30) as slow:
            slow.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            url = "http://{}:{}".format(*server.address)
            pause = threading.Event()
            while "quaver_connections 2.0" not in httpx.get(f"{url}/metrics").text:
                pause.wait(0.01)
            assert server.end(signal.SIGTERM) == 1
        assert [line["lost"] for line in server.lines if line["event"] == "stopped"] == [1]


def test_a_server_that_was_killed_starts_again(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for _ in range(2):
        with process("-m", f"tiny={tiny_folder}", "--unix-socket", str(path)) as server:
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://x", timeout=30) as client:
                assert client.post("/embed", json={"inputs": "x"}).status_code == 200
            assert server.end(signal.SIGKILL) == -signal.SIGKILL


def test_ctrl_c_stops_an_idle_server(tiny_folder: Path) -> None:
    with process("-m", f"tiny={tiny_folder}", "--port", "0") as server:
        assert server.end(signal.SIGINT) == 0


def test_idle_connections_do_not_keep_others_waiting(tiny_folder: Path) -> None:
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 1000:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 1000), hard))
    with (
        process("-m", f"tiny={tiny_folder}", "--port", "0") as server,
        ExitStack() as idle,
        httpx.Client(base_url="http://{}:{}".format(*server.address), timeout=30) as client,
    ):
        for _ in range(count):
            idle.enter_context(socket.create_connection(tuple(server.address), timeout=30))
        assert client.post("/embed", json={"inputs": "x"}).status_code == 200
        assert f"quaver_connections {count + 1}.0" in client.get("/metrics").text
        idle.close()
        pause = threading.Event()
        while "quaver_connections 1.0" not in client.get("/metrics").text:
            pause.wait(0.01)
        assert server.end(signal.SIGTERM) == 0


def test_tls(tiny_folder: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext "
        f"subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}",
        shell=True,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is not installed")
    arguments = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--port", "0")
    config = tmp_path / "quaver.toml"
    config.write_text("header_timeout = 3.0\n", encoding="utf-8")
    with process("-m", f"tiny={tiny_folder}", "--config", str(config), *arguments) as server:
        # Both would be open for a minute by what uvloop has as a default.
        silent, half = (socket.create_connection(server.address, timeout=30) for _ in range(2))
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        trust = ssl.create_default_context(cafile=str(certificate))
        url = "https://{}:{}".format(*server.address)
        assert httpx.post(f"{url}/embed", json={"inputs": "x"}, verify=trust).status_code == 200
        for client in (silent, half):
            with client, suppress(ConnectionError):
                assert client.recv(1000) == b""


def test_a_server_without_a_model_that_loads_fails(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with process("-m", str(tmp_path / "empty"), "--port", "0") as server:
        assert server.child.wait(60) == 1
        server.reading.join()
        assert "no model could be loaded" in server.lines[-1]["text"]


def test_a_taken_port_is_said_so(tiny_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with process("-m", str(tiny_folder), "--port", port) as server:
            assert server.child.wait(60) == 1
            server.reading.join()
            assert "is another server running there?" in server.lines[-1]["text"]


def test_a_host_that_is_no_address_is_said_so(tiny_folder: Path) -> None:
    for host, says in (
        ("300.1.1.1", "300.1.1.1 is no address, and no name with one"),
        ("a..b", "a..b is no address"),
        ("192.0.2.1", "no address of this machine: give --host one"),
    ):
        with process("-m", str(tiny_folder), "--host", host, "--port", "0") as server:
            assert server.child.wait(60) == 1
            server.reading.join()
            assert says in server.lines[-1]["text"]
            assert "another server" not in server.lines[-1]["text"]


def test_a_socket_in_a_folder_that_does_not_exist_is_said_so(
    tiny_folder: Path, tmp_path: Path
) -> None:
    socket_path = str(tmp_path / "none" / "socket")
    with process("-m", str(tiny_folder), "--unix-socket", socket_path) as server:
        assert server.child.wait(60) == 1
        server.reading.join()
        assert f"cannot listen on {socket_path}: No such file" in server.lines[-1]["text"]


def test_check_prints_the_settings_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quaver", "serve", "-m", "x=some/model", "--check"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "QUAVER_CACHE": "1MB", "QUAVER_API_KEYS": "secret"},
    )
    assert 'source = "some/model"' in done.stdout
    assert "cache = 1000000" in done.stdout
    assert "secret" not in done.stdout


def test_a_second_signal_ends_at_once_and_answers_what_waits(tiny_folder: Path) -> None:
    with (
        process("-m", f"tiny={tiny_folder}", "--port", "0") as server,
        socket.create_connection(tuple(server.address), timeout=30) as slow,
    ):
        slow.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        url = "http://{}:{}".format(*server.address)
        pause = threading.Event()
        while "quaver_connections 2.0" not in httpx.get(f"{url}/metrics").text:
            pause.wait(0.01)
        server.child.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/readyz").json()["status"] != "stopping":
            pause.wait(0.01)
        assert server.end(signal.SIGTERM) == 1
        assert slow.recv(1000).startswith(b"HTTP/1.1 503")
    assert [line["lost"] for line in server.lines if line["event"] == "stopped"] == [1]
    assert "Traceback" not in json.dumps(server.lines)
    assert not [line for line in server.lines if line["event"] == "exception"]
    assert server.lines[-1]["text"] == (
        "quaver: error: 1 accepted request was not finished before a second signal ended the server "
        "at once\n"
    )


def test_check_finds_a_model_that_is_missing_or_unclear(tiny_folder: Path, tmp_path: Path) -> None:
    def ends(*arguments: str, **environ: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "quaver", "serve", "--check", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environ},
        )
        assert done.stdout == "" or done.returncode == 0
        return done.returncode, done.stderr

    code, error = ends("-m", str(tiny_folder), "--rerank", "./no/model")
    assert (code, "there is no folder ./no/model" in error) == (1, True)
    (tmp_path / "empty").mkdir()
    code, error = ends("-m", str(tmp_path / "empty"))
    assert (code, "a model folder needs config.json" in error) == (1, True)
    assert ends("-m", "some/model", HF_HUB_OFFLINE="1")[0] == 1
    code, error = ends("-m", str(tiny_folder), QUAVER_PROT="80", QUAVER_PORT_80_TCP="tcp://1:80")
    assert code == 0
    assert "QUAVER_PROT is no setting, so it has no effect: did you mean QUAVER_PORT?" in error
    assert "QUAVER_PORT_80_TCP" not in error
