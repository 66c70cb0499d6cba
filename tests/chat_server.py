"""A small server on loopback that speaks the OpenAI protocol, and misbehaves on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = ["Boil ", "it [1], ", "twice [2]."]


class ChatServer(ThreadingHTTPServer):
    """Plays one step of ``script`` for each request, the last one again and again.

    Attributes:
        script: "ok", "json" (no stream), "cut", "empty", "silent", "garbage", "error-event", "html",
            "moved", or a status code, with seconds for Retry-After where it is a pair.
        requests: What was asked: (path, headers, body).
    """

    daemon_threads = True

    def __init__(self) -> None:
        """Listens on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Any] = ["ok"]
        self.models = ["only"]
        self.answer = ANSWER
        self.requests: list[tuple[str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers), None))
        self._json(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        script = self.server.script
        step = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(step, tuple):
            self._json(step[0], {"error": {"message": "busy"}}, {"Retry-After": str(step[1])})
        elif isinstance(step, int):
            self._json(step, {"error": {"message": f"because {step}"}})
        elif step == "json":
            text = "".join(self.server.answer)
            self._json(200, {"choices": [{"message": {"role": "assistant", "content": text}}]})
        elif step == "silent":
            threading.Event().wait(2)
        elif step == "moved":
            self._json(307, {}, {"Location": "http://127.0.0.1:1/elsewhere"})
        elif step == "html":
            self._send(200, "text/html", b"<html>It works!</html>")
        else:
            self._stream(step)

    def _stream(self, step: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        if step == "garbage":
            self.wfile.write(b"data: {]\n\n")
            return
        if step == "error-event":
            self._event({"error": {"message": "out of memory"}})
            return
        self._event({"choices": [{"delta": {"role": "assistant", "content": None}}]})
        for piece in [] if step == "empty" else self.server.answer:
            self._event({"choices": [{"delta": {"content": piece}}]})
            if step == "cut":
                return
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self._event({"choices": [], "usage": {"total_tokens": 7}})
        self.wfile.write(b": a comment\n\ndata: [DONE]\n\n")

    def _event(self, document: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")

    def _json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(document).encode(), headers)

    def _send(
        self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Runs a server for a while."""
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
