"""A real server in a thread, on a free port of 127.0.0.1."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from quaver.serve import Settings
from quaver.serve.app import Log
from quaver.serve.server import Server, make_server


class Running:
    """A server that runs in a thread.

    Attributes:
        server: the server.
        client: a client of it.
        url: its address.
        log: what it wrote.
    """

    def __init__(self, server: Server, log: io.StringIO, unix_socket: Path | None) -> None:
        """Open a client."""
        self.server = server
        self.log = log
        transport = None
        if unix_socket is None:
            host, port = server.addresses[0]
            self.url = f"http://{host}:{port}"
        else:
            transport = httpx.HTTPTransport(uds=str(unix_socket))
            self.url = "http://server"
        self.client = httpx.Client(base_url=self.url, timeout=60, transport=transport)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)


@contextmanager
def running(settings: Settings, *, unix_socket: Path | None = None) -> Iterator[Running]:
    """Run a server until the block ends; wait until it has loaded its models."""
    log = io.StringIO()
    server = make_server(settings, log=Log(log))
    thread = threading.Thread(target=server.run)
    thread.start()
    pause = threading.Event()
    try:
        while not (server.addresses and server.started) or server.state.loading:
            assert thread.is_alive(), log.getvalue()
            pause.wait(0.01)
        run = Running(server, log, unix_socket)
        with run.client:
            yield run
    finally:
        if server._loop is not None and thread.is_alive():
            server._loop.call_soon_threadsafe(server.begin_to_stop)
        thread.join()
