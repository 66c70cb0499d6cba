"""OpenTelemetry spans of requests, received by a collector's stand-in over real HTTP."""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec
import pytest

from quaver import InputError
from quaver.serve import Settings, check
from quaver.serve.app import Log
from quaver.serve.server import make_server
from running_server import running

pytest.importorskip("opentelemetry.sdk")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A server that keeps what is posted to it; its URL."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v1/traces", bodies
        listening.shutdown()
        thread.join()


def spans(bodies: list[bytes]) -> list[Any]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_each_request_is_a_span_of_its_clients_trace(
    settings: Settings, collector: tuple[str, list[bytes]]
) -> None:
    url, bodies = collector
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "mine"}
    with running(msgspec.structs.replace(settings, otlp_endpoint=url)) as run:
        assert run.post("/embed", {"inputs": "a secret text"}, headers=headers).is_success
        assert run.post("/embed", {"inputs": 5}).status_code == 422
        assert run.client.get("/livez").is_success
    found = spans(bodies)
    assert [span.name for span in found] == ["POST /embed", "POST /embed"]
    assert found[0].trace_id.hex() == trace
    facts = {fact.key: fact.value for fact in found[0].attributes}
    assert facts["quaver.request_id"].string_value == "mine"
    assert facts["quaver.inputs"].int_value == 1
    assert facts["http.response.status_code"].int_value == 200
    assert all(b"secret" not in body for body in bodies)


@pytest.mark.parametrize(
    "endpoint", ["foo", "localhost:4318", "http://", "ftp://x/v1", "http://[x/"]
)
def test_an_endpoint_that_is_no_url_is_refused(settings: Settings, endpoint: str) -> None:
    wrong = msgspec.structs.replace(settings, otlp_endpoint=endpoint)
    for start in (check, lambda settings: make_server(settings, log=Log(io.StringIO()))):
        with pytest.raises(InputError, match="otlp_endpoint must be a URL such as"):
            start(wrong)


def test_what_the_exporter_logs_is_json(settings: Settings) -> None:
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/traces"
        own = msgspec.structs.replace(settings, otlp_endpoint=url)
        with running(own) as run:
            assert run.post("/embed", {"inputs": "a secret text"}).is_success
            run.server.state.tracing._provider.force_flush(100)
            for name in (
                "opentelemetry.sdk",
                "opentelemetry.exporter.otlp",
                "urllib3.connectionpool",
            ):
                logging.getLogger(name).warning("said by %s", name)
    lines = [json.loads(line) for line in run.log.getvalue().splitlines()]
    assert {
        "said by opentelemetry.sdk",
        "said by opentelemetry.exporter.otlp",
        "said by urllib3.connectionpool",
    } <= {line.get("message") for line in lines}
    assert "secret" not in run.log.getvalue()


def test_check_names_the_extra_of_tracing(settings: Settings) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from quaver.__main__ import main\n"
        "sys.argv = ['quaver', 'serve', '--check', '-m', 'some/model', '--otlp-endpoint', 'http://localhost:1/v1']\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'quaver[tracing]'")


def test_tracing_without_opentelemetry_names_its_extra() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None\nimport quaver.serve.tracing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'quaver[tracing]'")
